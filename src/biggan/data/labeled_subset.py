"""The labeled subset of a semi-supervised run: a few images of each class, chosen by a seed."""

import dataclasses

import torch

from biggan.data.dataset import Source
from biggan.data.loader import ResidentSource
from biggan.runtime.errors import DataError
from biggan.runtime.rng import addressed_rng


def labeled_subset(source: Source, per_class: int, seed: int) -> ResidentSource:
    """`per_class` images of every class. The choice depends on the seed and the labels, not on the source's device. Raises
    DataError if a class has fewer images, or if the source is a stream."""
    if not isinstance(source, ResidentSource):
        raise DataError(
            f"data.labels_per_class={per_class}: {source.name} is a stream: prepare it as packed, or leave this option out"
        )
    indices_by_class = [(source.labels == number).nonzero().squeeze(1) for number in range(len(source.class_names))]
    fewest = min(range(len(indices_by_class)), key=lambda number: len(indices_by_class[number]))
    if len(indices_by_class[fewest]) < per_class:
        raise DataError(
            f"data.labels_per_class={per_class}: class {source.class_names[fewest]} has "
            f"{len(indices_by_class[fewest])} images: use at most that many"
        )
    chosen = []
    for number, indices in enumerate(indices_by_class):
        order = torch.randperm(len(indices), generator=addressed_rng(seed, "labelled images", number))
        chosen.append(indices[order[:per_class].to(indices.device)])
    subset = torch.cat(chosen)
    return dataclasses.replace(source, images=source.images[subset], labels=source.labels[subset])
