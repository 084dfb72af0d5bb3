"""One pass over a set of images: what the scores need of it is summed up or kept; what a reference gives is cached.

Batches are extracted by the ranks in turn, and features are put together in the order of the images, so that results do not
depend on the number of ranks. Shapes: N images, F features, K classes.
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
from biggan.metrics.scores import Moments, SplitEntropies
from biggan.runtime.atomic_io import write_file
from biggan.runtime.distributed import World, broadcast_batches, max_over_ranks
from biggan.runtime.errors import DataError
from biggan.runtime.progress import image_progress_bar

logger = logging.getLogger(__name__)

PIECE = 1024  # features that are counted in at a time

SPLITS = 10

Progress = Callable[[Iterable, int, str], Iterable]


@dataclass(frozen=True)
class ImageSet:
    """A set of images: `batches(n)` gives the first n as uint8 batches (B, 3, R, R) with classes (B,), the same on all
    ranks. `identity` changes with the content; `description` goes into the recipe. `count` None: as many as are wanted."""

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    identity: str
    description: dict[str, Any]
    class_names: tuple[str, ...]
    count: int | None


class FeatureStatistics(NamedTuple):
    """What is kept of a set."""

    moments: tuple[Tensor, Tensor] | None
    features: Tensor | None
    """Of the first images, (N, F) float32."""
    labels: Tensor | None
    """Of the same."""
    entropies: SplitEntropies | None
    named: Tensor | None
    """Of the first images, the class with the largest logit."""
    count: int
    """Images that the moments are of."""


def collect_statistics(
    images: ImageSet,
    extractor: Extractor,
    *,
    moments: int,
    kept: int,
    splits: int,
    named: int,
    world: World,
    what: str,
) -> FeatureStatistics:
    """One pass: moments of the first `moments` images, features of the first `kept`, and so on; 0 for none."""
    need = max(moments, kept, splits, named)
    sums, entropies = Moments(), SplitEntropies(splits, SPLITS) if splits else None
    features, labels, classes, seen = [], [], [], 0
    batches = every_batch(images.batches(need), extractor, world)
    for extracted, y_N in pieces(image_progress_bar(batches, need, what)):
        start, stop = seen, seen + len(y_N)
        if not all(part is None or part.isfinite().all() for part in extracted):
            raise DataError(f"{what}: {extractor.name} gives features or logits that are not finite")
        if start < moments:
            sums.add(extracted.features[: moments - start])
        if start < splits:
            entropies.add(extracted.logits[: splits - start])
        if start < kept:
            features.append(extracted.features[: kept - start])
            labels.append(y_N[: kept - start])
        if start < named:
            classes.append(extracted.logits[: named - start].argmax(1))
        seen = stop
    if seen < need:
        raise DataError(f"{what}: {need} images are wanted, only {seen} came")
    return FeatureStatistics(
        sums.mean_and_covariance() if moments else None,
        torch.cat(features) if features else None,
        torch.cat(labels) if labels else None,
        entropies,
        torch.cat(classes) if classes else None,
        moments,
    )


def every_batch(
    batches: Iterator[tuple[Tensor, Tensor]], extractor: Extractor, world: World
) -> Iterator[tuple[Extracted, Tensor]]:
    """Each batch extracted by one rank, and told to all."""
    while group := list(islice(batches, world.size)):
        mine = extractor(group[min(world.rank, len(group) - 1)][0])
        sizes = [len(y_N) for _, y_N in group]
        features = broadcast_batches(mine.features, sizes, world)
        logits = [None] * len(group) if mine.logits is None else broadcast_batches(mine.logits, sizes, world)
        for feature, logit, (_, y_N) in zip(features, logits, group, strict=True):
            yield Extracted(feature, logit), y_N


def pieces(batches: Iterable[tuple[Extracted, Tensor]]) -> Iterator[tuple[Extracted, Tensor]]:
    """The same in larger pieces, because sums over F x F cost the same for few features as for many."""
    waiting: list[tuple[Extracted, Tensor]] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(labels) for _, labels in waiting) >= PIECE:
            yield joined(waiting)
            waiting = []
    if waiting:
        yield joined(waiting)


def joined(parts: list[tuple[Extracted, Tensor]]) -> tuple[Extracted, Tensor]:
    """Batches as one."""
    extracted = [part for part, _ in parts]
    logits = None if extracted[0].logits is None else torch.cat([part.logits for part in extracted])
    return Extracted(torch.cat([part.features for part in extracted]), logits), torch.cat([labels for _, labels in parts])


def reference_statistics(
    reference: ImageSet,
    extractor: Extractor,
    whole: bool,
    kept: int,
    cache: Path | None,
    world: World,
) -> FeatureStatistics:
    """Moments of all images of the reference if `whole`, features of the first `kept`; from the cache where they are."""
    kept = kept if reference.count is None else min(kept, reference.count)
    moments = reference.count if whole else 0
    address = [1, reference.identity, extractor.name, extractor.sha256, extractor.arithmetic, moments, kept]
    file = (
        None if cache is None else cache / f"reference-{hashlib.sha256(repr(address).encode()).hexdigest()[:24]}.safetensors"
    )
    known = None if file is None else read_reference(file)
    (lacking,) = max_over_ranks(float(known is None))
    if not lacking:
        return known
    found = collect_statistics(
        reference,
        extractor,
        moments=moments,
        kept=kept,
        splits=0,
        named=0,
        world=world,
        what="reference",
    )
    if file is not None and world.is_rank_zero:
        try:
            write_reference(file, found)
        except OSError as error:
            text = "what the reference gives could not be kept in %s (%s): the next start makes it again"
            logger.warning(text, cache, error)
    return found


def write_reference(file: Path, found: FeatureStatistics) -> None:
    """Raises OSError."""
    tensors = {"features": found.features, "labels": found.labels}
    tensors |= {} if found.moments is None else dict(zip(("mean", "covariance"), found.moments, strict=True))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, safetensors.torch.save(tensors, {"count": str(found.count)}))


def read_reference(file: Path) -> FeatureStatistics | None:
    """None where there is nothing, or it is damaged."""
    try:
        tensors = safetensors.torch.load_file(file)
        with safe_open(file, "pt") as opened:
            count = int(opened.metadata()["count"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    moments = (tensors["mean"], tensors["covariance"]) if "mean" in tensors else None
    return FeatureStatistics(moments, tensors.get("features"), tensors.get("labels"), None, None, count)
