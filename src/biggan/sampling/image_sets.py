"""Sets of images to be measured: drawn from a generator, or real.

Classes of drawn images are drawn too, evenly at random, as published scores have them. Not here: the scores (see metrics).
"""

import hashlib
from collections.abc import Iterator

from torch import Tensor

from biggan.data.dataset import Source
from biggan.metrics.statistics import ImageSet
from biggan.runtime.rng import addressed_rng
from biggan.sampling.latents import draw_labels
from biggan.sampling.sampler import Sampler

BATCH = 64


def generated_images(sampler: Sampler, name: str, *, truncation: float | None = None, seed: int = 0) -> ImageSet:
    """As many images as are wanted from a generator; image number k and its class depend on the seed alone."""

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        labels = draw_labels(count, len(sampler.class_names), addressed_rng(seed, "classes to measure"))
        images = sampler.batches(range(count), labels, truncation=truncation, seed=seed, batch=BATCH)
        yield from zip(images, labels.split(BATCH), strict=True)

    digest = hashlib.sha256()
    statistics = statistics_of(sampler, truncation)
    stored = {} if sampler.statistics_table is None else sampler.statistics_table.values
    for key, value in [*sorted(sampler.generator.state_dict().items()), *sorted(stored.items())]:
        if "standing" not in key or "stored" in statistics:  # others follow from the weights
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    description = {
        "generator": name,
        "weights": digest.hexdigest(),
        "averaged": True,
        "truncation": truncation,
        "truncation_by": "none" if truncation is None else type(sampler.prior).__name__,
        "statistics": statistics,
        "statistics_seed": sampler.seed_of_statistics,
        "resolution": sampler.generator.config.resolution,
        "classes": "uniform",
        "arithmetic": "bf16" if sampler.precision.bf16 else "float32",
        "seed": seed,
    }
    identity = hashlib.sha256(repr(sorted(description.items())).encode()).hexdigest()
    return ImageSet(batches, identity, description, sampler.class_names, None)


def statistics_of(sampler: Sampler, truncation: float | None) -> str:
    """Where the statistics of batch normalization come from."""
    table = sampler.statistics_table
    if table is not None and table.covers(truncation):
        exact = truncation is None or truncation in table.truncations
        return "standing, stored with the model" if exact else "standing, between two that are stored with the model"
    if truncation is None and sampler.statistics_at is None:
        return "standing, stored with the model"
    return f"standing, {sampler.statistics_passes} batches of {sampler.statistics_batch}"


def limit_images(images: ImageSet, most: int) -> ImageSet:
    """The set without what comes after its first `most` images."""
    if images.count is not None and images.count <= most:
        return images
    identity = hashlib.sha256(f"{images.identity} {most}".encode()).hexdigest()
    return ImageSet(images.batches, identity, images.description | {"first": most}, images.class_names, most)


def real(source: Source) -> ImageSet:
    """All images of a data set, in a fixed random order."""

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for images, labels in source.iterate_once(BATCH):
            if seen >= count:
                return
            yield images[: count - seen].cpu(), labels[: count - seen].cpu()
            seen += len(labels)

    description = {"data": source.name, "images": source.count, "resolution": source.resolution}
    description |= {"resizing": "center crop, area"}
    address = f"{source.content_hash} {source.resolution} {source.count}"
    identity = hashlib.sha256(address.encode()).hexdigest()
    return ImageSet(batches, identity, description, source.class_names, source.count)
