"""Scores of one set of images against another, in one pass over each, with the recipe that they were made by.

A set is an iterable of uint8 batches; what made them is not known here. Batches are extracted by the ranks in turn, and
features are put together in the order of the images, so that results do not depend on the number of ranks.
Shapes: N images, F features, K classes.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biggan.distributed import ALONE, World, every_rank, on_first
from biggan.errors import ConfigError, DataError, suggestion
from biggan.files import write_file
from biggan.metrics import manifold
from biggan.metrics.features import Extracted, Extractor
from biggan.metrics.scores import Moments, SplitEntropies, frechet_distance, kernel_distance

SCORES = ("is", "fid", "kid", "prdc", "intra", "accuracy")
NEEDS_REFERENCE = ("fid", "kid", "prdc", "intra")
PIECE = 1024  # features that are counted in at a time
SPLITS = 10

Progress = Callable[[Iterable, int, str], Iterable]


class Wanted(NamedTuple):
    """A score and from how many images: "fid50k" is ("fid", 50000)."""

    score: str
    images: int

    def __str__(self) -> str:
        return f"{self.score}{self.images // 1000}k" if self.images % 1000 == 0 else f"{self.score}{self.images}"


@dataclass(frozen=True)
class Images:
    """A set of images: `batches(n)` gives the first n as uint8 batches (B, 3, R, R) with classes (B,), the same on all
    ranks. `identity` changes with the content; `description` goes into the recipe. `count` None: as many as are wanted."""

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    identity: str
    description: dict[str, Any]
    class_names: tuple[str, ...]
    count: int | None


class Collected(NamedTuple):
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


class Evaluation(NamedTuple):
    """Scores by name, and how they were made."""

    scores: dict[str, dict[str, float]]
    recipe: dict[str, Any]

    def save(self, file: Path) -> None:
        """As JSON, whole or not at all. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (json.dumps(self._asdict(), indent=2) + "\n").encode())


def parse_recipe(text: str) -> tuple[Wanted, ...]:
    """The scores of "fid50k,is50k,prdc10k". Raises ConfigError on a word that is none, or that comes twice."""
    wanted = []
    for word in text.split(","):
        found = re.fullmatch(r"([a-z]+)(\d+)(k?)", word.strip())
        if found is None or found[1] not in SCORES:
            known = suggestion(found[1] if found else re.sub(r"\d.*", "", word.strip()), SCORES)
            raise ConfigError(f"recipe {word.strip()!r}: a score and how many images, such as fid50k; {known}")
        images = int(found[2]) * (1000 if found[3] else 1)
        if images < 2 or found[1] in [other.score for other in wanted]:
            raise ConfigError(f"recipe {word.strip()!r}: each score once, of at least 2 images")
        wanted.append(Wanted(found[1], images))
    return tuple(wanted)


def evaluate(
    samples: Images,
    reference: Images | None,
    extractor: Extractor,
    wanted: tuple[Wanted, ...],
    *,
    cache: Path | None = None,
    world: World = ALONE,
    progress: Progress = lambda items, total, what: items,
    report: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """All the scores of `samples`, some of them against `reference`. What the reference gives is kept in the folder `cache`.

    Frechet distances use all images of the reference; the others as many as of the samples, if there are. All ranks must
    call it. Raises ConfigError where a score needs a reference, logits or more images than there are."""
    n = dict(wanted)
    for want in wanted:
        if want.score in NEEDS_REFERENCE and reference is None:
            raise ConfigError(f"{want} compares with real images: add --data SOURCE")
        if samples.count is not None and want.images > samples.count:
            raise ConfigError(f"{want} needs {want.images} images, {samples.description} has {samples.count}")
    probe = next(iter(samples.batches(2)))[0]
    has_logits = extractor(probe).logits is not None
    if not has_logits and ("is" in n or "accuracy" in n):
        raise ConfigError(f"extractor {extractor.name} gives no logits, which is and accuracy need")

    kept = max((n.get(score, 0) for score in ("kid", "prdc", "intra")), default=0)
    found = collect(
        samples,
        extractor,
        moments=n.get("fid", 0),
        kept=max(kept, n.get("accuracy", 0)),
        splits=n.get("is", 0),
        named=n.get("accuracy", 0),
        world=world,
        progress=progress,
        what="samples",
    )
    scores: dict[str, dict[str, float]] = {}
    if "is" in n:
        name = "inception_score" if extractor.is_inception else "exp_kl_score"
        scores[name] = found.entropies.score()._asdict() | {"images": n["is"], "splits": SPLITS}
    if "accuracy" in n:
        scores["accuracy"] = accuracy(found, n["accuracy"], extractor)
    if reference is not None and any(score in NEEDS_REFERENCE for score in n):
        whole = "fid" in n
        real = reference_of(reference, extractor, whole, kept, cache, world, progress, report)
        scores |= compared(found, real, n, extractor, len(reference.class_names))
    recipe = {
        "samples": samples.description,
        "reference": None if reference is None else reference.description | {"identity": reference.identity},
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "resizing": extractor.resizing,
            "arithmetic": extractor.arithmetic,
        },
        "torch": torch.__version__,
    }
    return Evaluation(scores, recipe)


def compared(
    found: Collected, real: Collected, n: dict[str, int], extractor: Extractor, classes: int
) -> dict[str, dict[str, float]]:
    """The scores that need real images."""
    fid, kid = ("fid", "kid") if extractor.is_inception else ("frechet_distance", "kernel_distance")
    scores: dict[str, dict[str, float]] = {}
    if "fid" in n:
        value = frechet_distance(found.moments, real.moments)
        scores[fid] = {"value": value, "images": n["fid"], "reference_images": real.count}
    if "kid" in n:
        ours, theirs = found.features[: n["kid"]], real.features[: n["kid"]]
        size = min(1000, len(ours), len(theirs))
        spread = kernel_distance(ours, theirs, size=size)
        scores[kid] = spread._asdict() | {"images": len(ours), "reference_images": len(theirs), "subset": size}
    if "prdc" in n:
        ours, theirs = found.features[: n["prdc"]], real.features[: n["prdc"]]
        for name, value in manifold.overlap(theirs, ours)._asdict().items():
            scores[name] = {"value": value, "images": len(ours), "reference_images": len(theirs)}
    if "intra" in n:
        scores[f"intra_{fid}"] = intra_class(found, real, n["intra"], classes)
    return scores


def intra_class(found: Collected, real: Collected, images: int, classes: int) -> dict[str, float]:
    """The mean over classes of the Frechet distance within the class (Miyato & Koyama 2018), and each class's."""
    values = {}
    for number in range(classes):
        sides = [side.features[: images if side is found else None] for side in (found, real)]
        parts = [
            features[side.labels[: len(features)] == number] for features, side in zip(sides, (found, real), strict=True)
        ]
        if min(map(len, parts)) < 2:
            raise DataError(
                f"intra needs 2 images of each class on both sides; of class {number} there are {[*map(len, parts)]}"
            )
        moments = []
        for part in parts:
            moments.append(Moments())
            moments[-1].add(part)
        values[f"class_{number}"] = frechet_distance(*(moment.mean_and_covariance() for moment in moments))
    return {"value": sum(values.values()) / classes, "images": images, **values}


def accuracy(found: Collected, images: int, extractor: Extractor) -> dict[str, float]:
    """Share of images that the extractor's logits name as the class they were made for."""
    right = found.named[:images] == found.labels[:images]
    return {"value": right.double().mean().item(), "images": images}


def collect(
    images: Images,
    extractor: Extractor,
    *,
    moments: int,
    kept: int,
    splits: int,
    named: int,
    world: World,
    progress: Progress,
    what: str,
) -> Collected:
    """One pass: moments of the first `moments` images, features of the first `kept`, and so on; 0 for none."""
    need = max(moments, kept, splits, named)
    sums, entropies = Moments(), SplitEntropies(splits, SPLITS) if splits else None
    features, labels, classes, seen = [], [], [], 0
    batches = every_batch(images.batches(need), extractor, world)
    for extracted, y_N in pieces(progress(batches, need, what)):
        start, stop = seen, seen + len(y_N)
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
    return Collected(
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
        features = every_rank(mine.features, sizes, world)
        logits = [None] * len(group) if mine.logits is None else every_rank(mine.logits, sizes, world)
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


def reference_of(
    reference: Images,
    extractor: Extractor,
    whole: bool,
    kept: int,
    cache: Path | None,
    world: World,
    progress: Progress,
    report: Callable[[str], None],
) -> Collected:
    """Moments of all images of the reference if `whole`, features of the first `kept`; from the cache where they are."""
    kept = kept if reference.count is None else min(kept, reference.count)
    moments = reference.count if whole else 0
    address = [1, reference.identity, extractor.name, extractor.sha256, extractor.arithmetic, moments, kept]
    file = (
        None if cache is None else cache / f"reference-{hashlib.sha256(repr(address).encode()).hexdigest()[:24]}.safetensors"
    )
    known = None if file is None else read_reference(file)
    if on_first(lambda: known is not None):
        known = known or read_reference(file)
        return known
    found = collect(
        reference,
        extractor,
        moments=moments,
        kept=kept,
        splits=0,
        named=0,
        world=world,
        progress=progress,
        what="reference",
    )
    if file is not None and world.is_first:
        try:
            write_reference(file, found)
        except OSError as error:
            report(f"what the reference gives could not be kept in {cache} ({error}): the next start makes it again")
    return found


def write_reference(file: Path, found: Collected) -> None:
    """Raises OSError."""
    tensors = {"features": found.features, "labels": found.labels}
    tensors |= {} if found.moments is None else dict(zip(("mean", "covariance"), found.moments, strict=True))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, safetensors.torch.save(tensors, {"count": str(found.count)}))


def read_reference(file: Path) -> Collected | None:
    """None where there is nothing, or it is damaged."""
    try:
        tensors = safetensors.torch.load_file(file)
        with safe_open(file, "pt") as opened:
            count = int(opened.metadata()["count"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    moments = (tensors["mean"], tensors["covariance"]) if "mean" in tensors else None
    return Collected(moments, tensors.get("features"), tensors.get("labels"), None, None, count)


def table(evaluation: Evaluation) -> str:
    """The scores for a person, one a line."""
    lines = []
    for name, score in evaluation.scores.items():
        text = f"{score['mean']:.4f} +- {score['std']:.4f}" if "mean" in score else f"{score['value']:.4f}"
        against = f" against {score['reference_images']:,}" if "reference_images" in score else ""
        lines.append(f"{name:18} {text:20} {score['images']:,} images{against}")
    return "\n".join(lines) + "\n"


def with_settings(images: Images, **settings: Any) -> Images:
    """The set with more said about it in the recipe."""
    return dataclasses.replace(images, description=images.description | settings)
