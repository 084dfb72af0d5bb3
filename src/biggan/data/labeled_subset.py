"""A few images of each class, chosen by a seed: those whose labels a semi-supervised run may look at."""

import dataclasses

import torch

from biggan.data.loader import ResidentSource
from biggan.runtime.errors import DataError
from biggan.runtime.rng import addressed_rng


def labeled_subset(source: object, per_class: int, seed: int) -> ResidentSource:
    """`per_class` images of every class, the same ones for a seed wherever the source is. Raises DataError where a class has
    fewer, or the source is a stream."""
    if not isinstance(source, ResidentSource):
        raise DataError(
            f"data.labels_per_class={per_class}: {source.name} is a stream: prepare it as packed, or leave it out"
        )
    members = [(source.labels == number).nonzero().squeeze(1) for number in range(len(source.class_names))]
    fewest = min(range(len(members)), key=lambda number: len(members[number]))
    if len(members[fewest]) < per_class:
        raise DataError(
            f"data.labels_per_class={per_class}: class {source.class_names[fewest]} has {len(members[fewest])} images: "
            "use at most that many"
        )
    chosen = []
    for number, mine in enumerate(members):
        order = torch.randperm(len(mine), generator=addressed_rng(seed, "labelled images", number))
        chosen.append(mine[order[:per_class].to(mine.device)])
    indices = torch.cat(chosen)
    return dataclasses.replace(source, images=source.images[indices], labels=source.labels[indices])
