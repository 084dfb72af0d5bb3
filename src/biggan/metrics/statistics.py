"""Feature statistics of a set of images in one pass, and their cache for reference sets.

The ranks extract batches in turn and exchange the features in the order of the images, so that results do not depend on the
number of ranks. Shapes: N images, B images of a batch, R resolution, F features, K classes.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from biggan.metrics.features import Extracted, Extractor
from biggan.metrics.scores import InceptionScore, Moments
from biggan.runtime.atomic_io import write_file
from biggan.runtime.distributed import broadcast_batches, max_over_ranks, raise_on_all_ranks
from biggan.runtime.environment import World
from biggan.runtime.errors import CheckpointError, DataError, UserError
from biggan.runtime.progress import image_progress_bar
from biggan.runtime.tensor_files import Safetensors, read_safetensors, tensors_sha256

logger = logging.getLogger(__name__)

MIN_FEATURES = 1024  # that are added to the moments at a time

SPLITS = 10  # of the Inception Score, as in Salimans et al. 2016


@dataclass(frozen=True)
class ImageSet:
    """A set of labeled images: real ones or the samples of a generator."""

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    """`batches(n)` yields the first n images as uint8 batches (B, 3, R, R) with labels (B,), the same on all ranks."""
    identity: str
    """Text that changes with the images; part of the key of cached statistics."""
    description: dict[str, Any]
    """Description for the recipe of an evaluation."""
    class_names: tuple[str, ...]
    count: int | None
    """Number of images; None: unlimited."""


class FeatureStatistics(NamedTuple):
    """What scores need of a set of images, on the CPU; None for what was not requested."""

    moments: tuple[Tensor, Tensor] | None
    """Mean (F,) and covariance (F, F) of the features in float64."""
    features: Tensor | None
    """Features (N, F) float32 of the first images."""
    labels: Tensor | None
    """Labels (N,) of the images whose features are stored."""
    entropies: InceptionScore | None
    predictions: Tensor | None
    """For each of the first images, the class with the largest logit."""
    num_images: int
    """Number of images in `moments`."""


def collect_statistics(
    images: ImageSet,
    extractor: Extractor,
    *,
    moment_images: int,
    feature_images: int,
    entropy_images: int,
    prediction_images: int,
    world: World,
    name: str,
) -> FeatureStatistics:
    """Statistics of a set in one pass over its images.

    The arguments `*_images` are the numbers of images, from the first on, that the moments, features, entropies and
    predictions are collected from; 0 for none. `name` describes the set in messages. Raises DataError if the set has fewer
    images, NonFiniteScore if features or logits are not finite. All ranks must call it.
    """
    num_images = max(moment_images, feature_images, entropy_images, prediction_images)
    moments, entropies = Moments(), InceptionScore(entropy_images, SPLITS) if entropy_images else None
    features, labels, predictions, stop = [], [], [], 0
    batches = extract_batches(images.batches(num_images), extractor, world, name)
    for extracted, y_N in merge_batches(image_progress_bar(batches, num_images, name)):
        start, stop = stop, stop + len(y_N)
        if start < moment_images:
            moments.add(extracted.features[: moment_images - start])
        if start < entropy_images:
            entropies.add(extracted.logits[: entropy_images - start])
        if start < feature_images:
            features.append(extracted.features[: feature_images - start].cpu())
            labels.append(y_N[: feature_images - start])
        if start < prediction_images:
            predictions.append(extracted.logits[: prediction_images - start].argmax(1).cpu())
    if stop < num_images:
        raise DataError(f"{name}: {num_images} images are needed, there are only {stop}")
    return FeatureStatistics(
        moments=moments.mean_and_covariance() if moment_images else None,
        features=torch.cat(features) if features else None,
        labels=torch.cat(labels) if labels else None,
        entropies=entropies,
        predictions=torch.cat(predictions) if predictions else None,
        num_images=moment_images,
    )


def extract_batches(
    batches: Iterator[tuple[Tensor, Tensor]], extractor: Extractor, world: World, name: str
) -> Iterator[tuple[Extracted, Tensor]]:
    """Features and logits of every batch, each extracted by one rank and sent to all, on the extractor's device. `name`
    describes the set in messages. Raises, on every rank, the UserError of an extractor that fails on any rank. All ranks
    must call it."""
    start = 0
    while group := list(islice(batches, world.size)):
        sizes = [len(y_N) for _, y_N in group]
        own, error = min(world.rank, len(group) - 1), None
        try:
            extracted = extractor.extract(group[own][0], first=start + sum(sizes[:own]))
        except UserError as caught:
            error = type(caught)(f"{name}: {caught}")
        raise_on_all_ranks(error, world)
        start += sum(sizes)
        features = broadcast_batches(extracted.features, sizes, world)
        logits = [None] * len(group) if extracted.logits is None else broadcast_batches(extracted.logits, sizes, world)
        for feature, logit, (_, y_N) in zip(features, logits, group, strict=True):
            yield Extracted(feature, logit), y_N


def merge_batches(batches: Iterable[tuple[Extracted, Tensor]]) -> Iterator[tuple[Extracted, Tensor]]:
    """Merge consecutive batches to at least MIN_FEATURES images, because updating F x F sums costs as much for a few
    features as for many."""
    pending: list[tuple[Extracted, Tensor]] = []
    for batch in batches:
        pending.append(batch)
        if sum(len(labels) for _, labels in pending) >= MIN_FEATURES:
            yield concatenate(pending)
            pending = []
    if pending:
        yield concatenate(pending)


def concatenate(batches: list[tuple[Extracted, Tensor]]) -> tuple[Extracted, Tensor]:
    """Several batches of features, logits and labels as one."""
    outputs = [extracted for extracted, _ in batches]
    logits = None if outputs[0].logits is None else torch.cat([output.logits for output in outputs])
    return Extracted(torch.cat([output.features for output in outputs]), logits), torch.cat([y_N for _, y_N in batches])


def reference_statistics(
    reference: ImageSet,
    extractor: Extractor,
    with_moments: bool,
    feature_images: int,
    cache: Path | None,
    world: World,
) -> FeatureStatistics:
    """Statistics of a reference set, from the folder `cache` if they are there.

    The moments of all images if `with_moments`, and the features of the first `feature_images` (or of all, if there are
    fewer). A cache that cannot be written is reported in the log. All ranks must call it.
    """
    feature_images = feature_images if reference.count is None else min(feature_images, reference.count)
    moment_images = reference.count if with_moments else 0
    numerics = sorted(extractor.numerics.items())
    key = [2, reference.identity, extractor.name, extractor.sha256, numerics, moment_images, feature_images]
    file = None if cache is None else cache / f"reference-{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.safetensors"
    cached = None if file is None else read_reference(file, moment_images, feature_images, len(reference.class_names))
    (missing_on_a_rank,) = max_over_ranks(float(cached is None))
    if not missing_on_a_rank:
        return cached
    statistics = collect_statistics(
        reference,
        extractor,
        moment_images=moment_images,
        feature_images=feature_images,
        entropy_images=0,
        prediction_images=0,
        world=world,
        name="reference",
    )
    if file is not None and world.is_rank_zero:
        try:
            write_reference(file, statistics)
        except OSError as error:
            text = "the statistics of the reference could not be saved in %s (%s): the next start computes them again"
            logger.warning(text, cache, error)
    return statistics


def write_reference(file: Path, statistics: FeatureStatistics) -> None:
    """Write moments, features and labels with their checksum to a safetensors file. Raises OSError."""
    tensors = {"features": statistics.features, "labels": statistics.labels}
    tensors |= {} if statistics.moments is None else dict(zip(("mean", "covariance"), statistics.moments, strict=True))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    metadata = {"count": str(statistics.num_images), "sha256": tensors_sha256(tensors)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, safetensors.torch.save(tensors, metadata))


def read_reference(file: Path, moment_images: int, feature_images: int, classes: int) -> FeatureStatistics | None:
    """Read the statistics of a reference, whose moments are of `moment_images` images and whose features of the first
    `feature_images`; None if the file is missing or is not what was written, which is reported in the log."""
    if not os.path.lexists(file):
        return None
    try:
        found = read_safetensors(file)
        count = int(found.metadata.get("count", "-1"))
        fault = reference_fault(found, count == moment_images, bool(moment_images), feature_images, classes)
    except (CheckpointError, ValueError) as error:
        fault = str(error)
    if fault is not None:
        logger.warning("the reference statistics in %s cannot be used (%s): they are computed again", file, fault)
        return None
    tensors = found.tensors
    moments = (tensors["mean"], tensors["covariance"]) if "mean" in tensors else None
    return FeatureStatistics(moments, tensors.get("features"), tensors.get("labels"), None, None, count)


def reference_fault(
    found: Safetensors, right_count: bool, with_moments: bool, feature_images: int, classes: int
) -> str | None:
    """What is wrong with the statistics in a file, in words; None: nothing."""
    tensors = found.tensors
    expected = {"mean": torch.float64, "covariance": torch.float64} if with_moments else {}
    expected |= {"features": torch.float32, "labels": torch.int64} if feature_images else {}
    if not right_count or {name: tensor.dtype for name, tensor in tensors.items()} != expected:
        return "they are of other images, or of other types"
    if found.metadata.get("sha256") != tensors_sha256(tensors):
        return "their checksum is wrong or missing"
    width = next(iter(tensors["mean" if with_moments else "features"].shape[-1:]), 0)
    shapes = {
        "mean": (width,),
        "covariance": (width, width),
        "features": (feature_images, width),
        "labels": (feature_images,),
    }
    if any(tensor.shape != shapes[name] for name, tensor in tensors.items()):
        return "their shapes are wrong"
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        return "they are not finite"
    if feature_images and not 0 <= int(tensors["labels"].min()) <= int(tensors["labels"].max()) < classes:
        return "their labels are not those of the classes"
    covariance = tensors.get("covariance")
    if covariance is not None:
        size = covariance.abs().amax()
        if (covariance.diagonal() < -1e-9 * size).any() or ((covariance - covariance.T).abs() > 1e-9 * size).any():
            return "their covariance is not one"
    return None
