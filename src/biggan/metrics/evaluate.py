"""Scores of one set of images against another, in one pass over each, with the recipe that they were made by.

A set is an iterable of uint8 batches; what made them is not known here. Not here: the pass itself (see collect).
"""

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from biggan.metrics import prdc
from biggan.metrics.features import Extractor
from biggan.metrics.scores import SUBSET_SEED, SUBSETS, Moments, frechet_distance, kernel_distance
from biggan.metrics.statistics import SPLITS, FeatureStatistics, ImageSet, collect_statistics, reference_statistics
from biggan.runtime.atomic_io import write_file
from biggan.runtime.constraints import PositiveFloat, PositiveInt, check_fields
from biggan.runtime.distributed import SINGLE_PROCESS, World
from biggan.runtime.errors import ConfigError, DataError, suggestion

SCORES = ("is", "fid", "kid", "prdc", "intra", "accuracy")

LEAST = {"is": SPLITS, "prdc": prdc.NEIGHBOUR_OF_DENSITY + 1}  # images; 2 for the others

NEEDS_REFERENCE = ("fid", "kid", "prdc", "intra")


class MetricRequest(NamedTuple):
    """A score and from how many images: "fid50k" is ("fid", 50000)."""

    score: str
    images: int

    def __str__(self) -> str:
        return f"{self.score}{self.images // 1000}k" if self.images % 1000 == 0 else f"{self.score}{self.images}"


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation while training, of the averaged generator."""

    every: PositiveInt | None = None
    """Steps between evaluations; None: none."""
    recipe: str = "fid5k"
    """Scores and how many images each; the first decides which model is the best."""
    extractor: str = "inception"
    """inception, dinov2 or module:FILE. Loading a module:FILE runs the code in it: see --trust-extractor."""
    extractor_weights: Path | None = None
    """A file with the extractor's weights, where there is no network."""
    reference_images: PositiveInt = 10_000
    """Real images to compare with, at most."""
    max_time_fraction: PositiveFloat = 0.04
    """Of the time, at most; an evaluation that falls due earlier is put off."""

    def check(self) -> None:
        """Raises ConfigError on a recipe or a number that makes no sense."""
        parse_recipe(self.recipe)
        check_fields(self, "eval")


class Evaluation(NamedTuple):
    """Scores by name, and how they were made."""

    scores: dict[str, dict[str, float]]
    recipe: dict[str, Any]

    def save(self, file: Path) -> None:
        """As JSON, whole or not at all. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (json.dumps(self._asdict(), indent=2, allow_nan=False) + "\n").encode())


def higher_is_better(name: str) -> bool:
    """Of a score by its name in an Evaluation."""
    return not any(word in name for word in ("fid", "kid", "distance"))


def parse_recipe(text: str) -> tuple[MetricRequest, ...]:
    """The scores of "fid50k,is50k,prdc10k". Raises ConfigError on a word that is none, or that comes twice."""
    wanted = []
    for word in text.split(","):
        found = re.fullmatch(r"([a-z]+)(\d+)(k?)", word.strip())
        if found is None or found[1] not in SCORES:
            known = suggestion(found[1] if found else re.sub(r"\d.*", "", word.strip()), SCORES)
            raise ConfigError(f"recipe {word.strip()!r}: a score and how many images, such as fid50k; {known}")
        images = int(found[2]) * (1000 if found[3] else 1)
        least = LEAST.get(found[1], 2)
        if images < least or found[1] in [other.score for other in wanted]:
            raise ConfigError(f"recipe {word.strip()!r}: each score once, of at least {least} images")
        wanted.append(MetricRequest(found[1], images))
    return tuple(wanted)


def evaluate(
    samples: ImageSet,
    reference: ImageSet | None,
    extractor: Extractor,
    wanted: tuple[MetricRequest, ...],
    *,
    cache: Path | None = None,
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """All the scores of `samples`, some of them against `reference`. What the reference gives is kept in the folder `cache`.

    The Frechet distance uses all images of the reference; the other scores as many as of the samples, if there are. All
    ranks must call it. Raises ConfigError as `refuse_impossible`, DataError on features that are not finite."""
    refuse_impossible(samples, reference, extractor, wanted)
    n = dict(wanted)
    kept = max((n.get(score, 0) for score in ("kid", "prdc", "intra")), default=0)
    found = collect_statistics(
        samples,
        extractor,
        moments=n.get("fid", 0),
        kept=max(kept, n.get("accuracy", 0)),
        splits=n.get("is", 0),
        named=n.get("accuracy", 0),
        world=world,
        what="samples",
    )
    scores: dict[str, dict[str, dict[str, float]]] = {}
    if "is" in n:
        name = "inception_score" if extractor.is_inception else "exp_kl_score"
        scores["is"] = {name: found.entropies.score()._asdict() | {"images": n["is"], "splits": SPLITS}}
    if "accuracy" in n:
        scores["accuracy"] = {"accuracy": accuracy(found, n["accuracy"])}
    if reference is not None and any(score in NEEDS_REFERENCE for score in n):
        whole = "fid" in n
        real = reference_statistics(reference, extractor, whole, kept, cache, world)
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
        "kid": {"subsets": SUBSETS, "seed": SUBSET_SEED},
        "prdc": {"neighbour": prdc.NEIGHBOUR, "neighbour_of_density": prdc.NEIGHBOUR_OF_DENSITY},
        "versions": {name: version(name) for name in ("biggan", "torch")},
    }
    return Evaluation({name: score for want in wanted for name, score in scores[want.score].items()}, recipe)


def refuse_impossible(
    samples: ImageSet, reference: ImageSet | None, extractor: Extractor, wanted: tuple[MetricRequest, ...]
) -> None:
    """Raises ConfigError where a score needs a reference, logits, the same classes on both sides, or more images than there
    are; before anything long has begun."""
    for want in wanted:
        if want.score in NEEDS_REFERENCE and reference is None:
            raise ConfigError(f"{want} compares with real images: add --data SOURCE")
        least = LEAST.get(want.score, 2)
        for images, needed in ((samples, want.images), (reference, least)):
            if images is not None and images.count is not None and needed > images.count:
                raise ConfigError(f"{want} needs {needed} images, {images.description} has {images.count}")
        if want.score == "intra" and samples.class_names != reference.class_names:
            raise ConfigError(f"{want} compares class by class, and the two sides have other classes")
    logits = extractor(next(iter(samples.batches(2)))[0]).logits
    scores = {want.score for want in wanted}
    if logits is None and scores & {"is", "accuracy"}:
        raise ConfigError(f"extractor {extractor.name} gives no logits, which is and accuracy need")
    if "accuracy" in scores and logits.shape[1] != len(samples.class_names):
        known, made = logits.shape[1], len(samples.class_names)
        raise ConfigError(f"accuracy: extractor {extractor.name} knows {known} classes, the images are of {made}")


def compared(
    found: FeatureStatistics, real: FeatureStatistics, n: dict[str, int], extractor: Extractor, classes: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The scores that need real images, by the words of the recipe."""
    fid, kid = ("fid", "kid") if extractor.is_inception else ("frechet_distance", "kernel_distance")
    scores: dict[str, dict[str, dict[str, float]]] = {}
    if "fid" in n:
        value = frechet_distance(found.moments, real.moments)
        scores["fid"] = {fid: {"value": value, "images": n["fid"], "reference_images": real.count}}
    if "kid" in n:
        ours, theirs = found.features[: n["kid"]], real.features[: n["kid"]]
        size = min(1000, len(ours) // 2, len(theirs) // 2)  # subsets of everything would all be the same
        if size < 2:
            raise ConfigError(f"kid{len(ours)} needs at least 4 images on each side")
        spread = kernel_distance(ours, theirs, size=size)
        counts = {"images": len(ours), "reference_images": len(theirs), "subset": size}
        scores["kid"] = {kid: spread._asdict() | counts}
    if "prdc" in n:
        ours, theirs = found.features[: n["prdc"]], real.features[: n["prdc"]]
        counts = {"images": len(ours), "reference_images": len(theirs)}
        precision_recall_density_coverage = prdc.precision_recall_density_coverage(theirs, ours)._asdict()
        scores["prdc"] = {name: {"value": value, **counts} for name, value in precision_recall_density_coverage.items()}
    if "intra" in n:
        scores["intra"] = {f"intra_{fid}": intra_class(found, real, n["intra"], classes)}
    return scores


def intra_class(found: FeatureStatistics, real: FeatureStatistics, images: int, classes: int) -> dict[str, float]:
    """The mean over classes of the Frechet distance within the class (Miyato & Koyama 2018), and each class's."""
    values = {}
    for number in range(classes):
        sides = [side.features[:images] for side in (found, real)]
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
    counts = {"images": images, "reference_images": min(images, len(real.features))}
    return {"value": sum(values.values()) / classes, **counts, **values}


def accuracy(found: FeatureStatistics, images: int) -> dict[str, float]:
    """Share of images that the extractor's logits name as the class they were made for."""
    right = found.named[:images] == found.labels[:images]
    return {"value": right.double().mean().item(), "images": images}


def table(evaluation: Evaluation) -> str:
    """The scores for a person, one a line."""
    lines = []
    for name, score in evaluation.scores.items():
        text = f"{score['mean']:.4f} +- {score['std']:.4f}" if "mean" in score else f"{score['value']:.4f}"
        against = f" against {score['reference_images']:,}" if "reference_images" in score else ""
        lines.append(f"{name:24} {text:20} {score['images']:,} images{against}")
    return "\n".join(lines) + "\n"
