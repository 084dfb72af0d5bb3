"""Feature statistics of a set of images in one pass, and their cache for reference sets.

The ranks extract batches in turn and exchange the features in the order of the images, so that results do not depend on the
number of ranks. Shapes: N images, B images of a batch, R resolution, F features, K classes.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biggan.metrics.features import Extracted, Extractor
from biggan.metrics.scores import InceptionScore, Moments
from biggan.runtime.atomic_io import write_file
from biggan.runtime.distributed import World, broadcast_batches, max_over_ranks
from biggan.runtime.errors import DataError
from biggan.runtime.progress import image_progress_bar

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
    """What scores need of a set of images; None for what was not requested."""

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
    images, or if features or logits are not finite. All ranks must call it.
    """
    num_images = max(moment_images, feature_images, entropy_images, prediction_images)
    moments, entropies = Moments(), InceptionScore(entropy_images, SPLITS) if entropy_images else None
    features, labels, predictions, stop = [], [], [], 0
    batches = extract_batches(images.batches(num_images), extractor, world)
    for extracted, y_N in merge_batches(image_progress_bar(batches, num_images, name)):
        start, stop = stop, stop + len(y_N)
        if not all(values is None or values.isfinite().all() for values in extracted):
            raise DataError(f"{name}: {extractor.name} gives features or logits that are not finite")
        if start < moment_images:
            moments.add(extracted.features[: moment_images - start])
        if start < entropy_images:
            entropies.add(extracted.logits[: entropy_images - start])
        if start < feature_images:
            features.append(extracted.features[: feature_images - start])
            labels.append(y_N[: feature_images - start])
        if start < prediction_images:
            predictions.append(extracted.logits[: prediction_images - start].argmax(1))
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
    batches: Iterator[tuple[Tensor, Tensor]], extractor: Extractor, world: World
) -> Iterator[tuple[Extracted, Tensor]]:
    """Features and logits of every batch, each extracted by one rank and sent to all. All ranks must call it."""
    while group := list(islice(batches, world.size)):
        extracted = extractor(group[min(world.rank, len(group) - 1)][0])
        sizes = [len(y_N) for _, y_N in group]
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
    key = [1, reference.identity, extractor.name, extractor.sha256, extractor.arithmetic, moment_images, feature_images]
    file = None if cache is None else cache / f"reference-{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.safetensors"
    cached = None if file is None else read_reference(file)
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
    """Write moments, features and labels to a safetensors file. Raises OSError."""
    tensors = {"features": statistics.features, "labels": statistics.labels}
    tensors |= {} if statistics.moments is None else dict(zip(("mean", "covariance"), statistics.moments, strict=True))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, safetensors.torch.save(tensors, {"count": str(statistics.num_images)}))


def read_reference(file: Path) -> FeatureStatistics | None:
    """Read the statistics of a reference; None if the file is missing or damaged."""
    try:
        tensors = safetensors.torch.load_file(file)
        with safe_open(file, "pt") as opened:
            count = int(opened.metadata()["count"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    moments = (tensors["mean"], tensors["covariance"]) if "mean" in tensors else None
    return FeatureStatistics(moments, tensors.get("features"), tensors.get("labels"), None, None, count)
