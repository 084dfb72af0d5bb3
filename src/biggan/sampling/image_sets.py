"""Sets of images to be scored: generated or real.

The class labels of generated images are uniform over all classes, as for published scores; sets of a generator without
classes have no class names. Scores are in metrics.
"""

import hashlib
from collections.abc import Iterator

from torch import Tensor

from biggan.data.dataset import Source
from biggan.metrics.statistics import ImageSet
from biggan.runtime.rng import addressed_rng
from biggan.sampling.sampler import Sampler

BATCH = 64


def generated_images(sampler: Sampler, name: str, *, truncation: float | None = None, seed: int = 0) -> ImageSet:
    """Images of a generator, in any number; image k and its class depend on the seed alone. `name`: of the generator, for
    the recipe of scores."""

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        labels = sampler.draw_labels(count, addressed_rng(seed, "classes to measure"))
        images = sampler.batches(range(count), labels, truncation=truncation, seed=seed, batch=BATCH)
        yield from zip(images, labels.split(BATCH), strict=True)

    digest = hashlib.sha256()
    statistics = describe_statistics(sampler, truncation)
    stored = {} if sampler.statistics_table is None else sampler.statistics_table.values
    for key, value in [*sorted(sampler.generator.state_dict().items()), *sorted(stored.items())]:
        if "standing" not in key or "stored" in statistics:  # statistics that are not stored follow from the weights
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    description = {
        "generator": name,
        "weights": digest.hexdigest(),
        "averaged": True,
        "truncation": truncation,
        "truncation_by": "none" if truncation is None else type(sampler.prior).__name__,
        "statistics": statistics,
        "statistics_seed": sampler.standing_stats_seed,
        "resolution": sampler.generator.config.resolution,
        "classes": "uniform" if sampler.is_conditional else "none",
        **sampler.precision.numerics,
        "seed": seed,
    }
    identity = hashlib.sha256(repr(sorted(description.items())).encode()).hexdigest()
    return ImageSet(batches, identity, description, sampler.class_names, None)


def describe_statistics(sampler: Sampler, truncation: float | None) -> str:
    """Where the statistics of batch normalization for a truncation come from, for the recipe of scores."""
    table = sampler.statistics_table
    if table is not None and table.covers(truncation):
        exact = truncation is None or truncation in table.truncations
        return "standing, stored with the model" if exact else "standing, between two that are stored with the model"
    if truncation is None and sampler.statistics_truncation is None:
        return "standing, stored with the model"
    return f"standing, {sampler.standing_stats_batches} batches of {sampler.standing_stats_batch_size}"


def limit_images(images: ImageSet, count: int) -> ImageSet:
    """The first `count` images of a set."""
    if images.count is not None and images.count <= count:
        return images
    identity = hashlib.sha256(f"{images.identity} {count}".encode()).hexdigest()
    return ImageSet(images.batches, identity, images.description | {"first": count}, images.class_names, count)


def real_images(source: Source) -> ImageSet:
    """All images of a data set, in a fixed random order."""

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        yielded = 0
        for images, labels in source.iterate_once(BATCH):
            if yielded >= count:
                return
            yield images[: count - yielded].cpu(), labels[: count - yielded].cpu()
            yielded += len(labels)

    description = {"data": source.name, "images": source.count, "resolution": source.resolution}
    description |= {"resizing": "center crop, area", "background": source.background}
    address = f"{source.content_hash} {source.resolution} {source.count} {source.background}"
    identity = hashlib.sha256(address.encode()).hexdigest()
    return ImageSet(batches, identity, description, source.class_names, source.count)
