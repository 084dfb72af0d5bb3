"""Evaluation: compute the scores of a recipe such as "fid50k,is50k" for one set of images, against another as reference.

Each set is read in one pass. The results contain a complete record of how they were made. Sets are streams of uint8 batches;
this module does not know the models that generate them. A score that is not finite is an error, never a result.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import biggan
from biggan.metrics import prdc
from biggan.metrics.cautions import compare_classes, compare_counts
from biggan.metrics.features import Extractor
from biggan.metrics.scores import KID_SEED, KID_SUBSETS, Moments, frechet_distance, kernel_distance
from biggan.metrics.statistics import SPLITS, FeatureStatistics, ImageSet, collect_statistics, reference_statistics
from biggan.runtime.atomic_io import write_file
from biggan.runtime.constraints import PositiveFloat, PositiveInt, check_fields
from biggan.runtime.environment import SINGLE_PROCESS, World
from biggan.runtime.errors import ConfigError, DataError, NonFiniteScore, suggestion

SCORES = ("is", "fid", "kid", "prdc", "intra", "accuracy")

MIN_IMAGES = {"is": SPLITS, "prdc": prdc.DENSITY_COVERAGE_NEIGHBORS + 1}  # 2 for the other scores

MAX_IMAGES = 10_000_000

NEEDS_REFERENCE = ("fid", "kid", "prdc", "intra")

SCORE_NAMES = ("fid", "frechet_distance", "kid", "kernel_distance", "inception_score", "exp_kl_score", "accuracy")
"""Scores of a whole generator in an Evaluation, by which runs are compared and plotted. fid, kid and inception_score are the
published ones; with another extractor than Inception the same numbers have the other names."""

MAX_DIGITS = 4  # significant digits of a printed score


class MetricRequest(NamedTuple):
    """A score and the number of generated images it is computed from: "fid50k" is ("fid", 50000)."""

    score: str
    images: int

    def __str__(self) -> str:
        return f"{self.score}{self.images // 1000}k" if self.images % 1000 == 0 else f"{self.score}{self.images}"


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluations of the generator's weight average during training."""

    every: PositiveInt | None = None
    """Generator steps between evaluations; None: no evaluation."""
    recipe: str = "fid5k"
    """Scores and their numbers of images, such as fid50k,is50k; the first score determines the best model."""
    extractor: str = "inception"
    """Feature extractor: inception, dinov2 or module:FILE. Loading a module:FILE runs its code: see --trust-extractor."""
    extractor_weights: Path | None = None
    """Local file with the extractor's weights, for machines without internet access; None: download them."""
    reference_images: PositiveInt = 10_000
    """Largest number of real images that samples are compared with."""
    max_time_fraction: PositiveFloat = 0.04
    """Largest fraction of training time spent on evaluations; an evaluation that would exceed it is postponed."""

    def check(self) -> None:
        """Raises ConfigError if the recipe is invalid or a field is out of its range."""
        parse_recipe(self.recipe)
        check_fields(self, "eval")


class Evaluation(NamedTuple):
    """Scores by name, and the complete recipe of how they were made."""

    scores: dict[str, dict[str, float]]
    recipe: dict[str, Any]
    cautions: tuple[str, ...] = ()
    """Sentences on what the scores should not be taken for."""

    def save(self, file: Path) -> None:
        """Write a JSON file atomically. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (json.dumps(self._asdict(), indent=2, allow_nan=False) + "\n").encode())


def higher_is_better(name: str) -> bool:
    """Whether larger values of a score, given by its name in an Evaluation, are better."""
    return not any(word in name for word in ("fid", "kid", "distance"))


def score_value(score: dict[str, float]) -> float:
    """The value of a score; of one that is computed on several splits or subsets, their mean."""
    return score["mean"] if "mean" in score else score["value"]


def parse_recipe(text: str) -> tuple[MetricRequest, ...]:
    """Parse a recipe such as "fid50k,is50k,prdc10k". Raises ConfigError on an unknown or repeated score and on too few
    images."""
    requests: list[MetricRequest] = []
    for word in text.split(","):
        match = re.fullmatch(r"([a-z]+)(\d+)(k?)", word.strip())
        if match is None or match[1] not in SCORES:
            hint = suggestion(match[1] if match else re.sub(r"\d.*", "", word.strip()), SCORES)
            raise ConfigError(f"recipe {word.strip()!r}: a score and a number of images, such as fid50k; {hint}")
        images = int(match[2][:12]) * (1000 if match[3] else 1)
        min_images = MIN_IMAGES.get(match[1], 2)
        if not min_images <= images <= MAX_IMAGES or match[1] in [request.score for request in requests]:
            raise ConfigError(
                f"recipe {word.strip()!r}: each score once, of at least {min_images} images and at most {MAX_IMAGES:,}"
            )
        requests.append(MetricRequest(match[1], images))
    return tuple(requests)


def evaluate(
    samples: ImageSet,
    reference: ImageSet | None,
    extractor: Extractor,
    requests: tuple[MetricRequest, ...],
    *,
    cache: Path | None = None,
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """Compute the requested scores of `samples`, some of them against `reference`, whose statistics are cached in `cache`.

    The Frechet distance uses all images of the reference; the other scores use as many reference images as samples, if there
    are as many. All ranks must call it. Raises ConfigError as `check_requests` does, NonFiniteScore on features, logits or
    scores that are not finite.
    """
    check_requests(samples, reference, extractor, requests)
    n = dict(requests)
    feature_images = max((n.get(score, 0) for score in ("kid", "prdc", "intra")), default=0)
    fake = collect_statistics(
        samples,
        extractor,
        moment_images=n.get("fid", 0),
        feature_images=max(feature_images, n.get("accuracy", 0)),
        entropy_images=n.get("is", 0),
        prediction_images=n.get("accuracy", 0),
        world=world,
        name="samples",
    )
    scores: dict[str, dict[str, dict[str, float]]] = {}
    if "is" in n:
        name = "inception_score" if extractor.is_inception else "exp_kl_score"
        with naming("is", n, extractor):
            scores["is"] = {name: fake.entropies.score()._asdict() | {"images": n["is"], "splits": SPLITS}}
    if "accuracy" in n:
        scores["accuracy"] = {"accuracy": accuracy(fake, n["accuracy"])}
    cautions: list[str] = []
    if reference is not None and any(score in NEEDS_REFERENCE for score in n):
        cautions += compare_classes(samples, reference)
        real = reference_statistics(reference, extractor, "fid" in n, feature_images, cache, world)
        scores |= reference_scores(fake, real, n, extractor, len(reference.class_names))
        cautions += [
            caution
            for score in ("fid", "intra")
            if score in n
            for caution in compare_counts(fake, real, score, n[score], len(reference.class_names))
        ]
    recipe = {
        "samples": samples.description,
        "reference": None if reference is None else reference.description | {"identity": reference.identity},
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "resizing": extractor.resizing,
            **extractor.numerics,
        },
        "kid": {"subsets": KID_SUBSETS, "seed": KID_SEED},
        "prdc": {
            "precision_recall_neighbors": prdc.PRECISION_RECALL_NEIGHBORS,
            "density_coverage_neighbors": prdc.DENSITY_COVERAGE_NEIGHBORS,
        },
        "versions": {"biggan": biggan.__version__, "torch": version("torch")},
    }
    for request in requests:
        with naming(request.score, n, extractor):
            require_finite(scores[request.score])
    values = {name: score for request in requests for name, score in scores[request.score].items()}
    return Evaluation(values, recipe, tuple(cautions))


@contextmanager
def naming(score: str, n: dict[str, int], extractor: Extractor) -> Iterator[None]:
    """A context in which a NonFiniteScore gets the name of the score, as in the recipe, and of the extractor."""
    try:
        yield
    except NonFiniteScore as error:
        raise NonFiniteScore(f"{MetricRequest(score, n[score])} with extractor {extractor.name}: {error}") from error


def require_finite(scores: dict[str, dict[str, float]]) -> None:
    """Raises NonFiniteScore where a number of a score is not finite."""
    for name, score in scores.items():
        for part, value in score.items():
            if not math.isfinite(value):
                raise NonFiniteScore(f"{part} of {name} is {value}, not finite, although the features are")


def check_requests(
    samples: ImageSet, reference: ImageSet | None, extractor: Extractor, requests: tuple[MetricRequest, ...]
) -> None:
    """Check before any long computation that all scores can be computed. Raises ConfigError as `check_images`, and if a
    score needs logits, or those of other classes."""
    check_images(samples, reference, requests)
    logits = extractor.outputs(next(iter(samples.batches(2)))[0]).logits
    scores = {request.score for request in requests}
    if logits is None and scores & {"is", "accuracy"}:
        raise ConfigError(f"extractor {extractor.name} gives no logits, which is and accuracy need")
    if "accuracy" in scores and logits.shape[1] != len(samples.class_names):
        expected, actual = logits.shape[1], len(samples.class_names)
        raise ConfigError(f"accuracy: extractor {extractor.name} predicts {expected} classes, the images have {actual}")


def check_images(samples: ImageSet, reference: ImageSet | None, requests: tuple[MetricRequest, ...]) -> None:
    """Check the two sets, before an extractor is opened. Raises ConfigError if a score needs a reference, equal classes in
    both sets, or more images than there are, and if a score by class is asked for images without classes."""
    for request in requests:
        if request.score in ("intra", "accuracy") and not samples.class_names:
            name = samples.description.get("generator", "the generator")
            raise ConfigError(f"{request}: {name} is unconditional, its images have no classes: leave {request.score} out")
        if request.score in NEEDS_REFERENCE and reference is None:
            raise ConfigError(f"{request} compares with real images: add --data SOURCE")
        min_images = MIN_IMAGES.get(request.score, 2)
        for images, needed in ((samples, request.images), (reference, min_images)):
            if images is not None and images.count is not None and needed > images.count:
                name = images.description.get("data", images.description.get("generator"))
                raise ConfigError(f"{request} needs {needed} images, {name} has {images.count}")
        if request.score == "intra" and samples.class_names != reference.class_names:
            raise ConfigError(f"{request} compares class by class, but samples and reference have different classes")


def reference_scores(
    fake: FeatureStatistics, real: FeatureStatistics, n: dict[str, int], extractor: Extractor, classes: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The scores that need real images, grouped by the score of the recipe. Raises ConfigError on too few images for kid,
    NonFiniteScore on a score that is not finite."""
    fid, kid = ("fid", "kid") if extractor.is_inception else ("frechet_distance", "kernel_distance")
    scores: dict[str, dict[str, dict[str, float]]] = {}
    if "fid" in n:
        with naming("fid", n, extractor):
            value = frechet_distance(fake.moments, real.moments)
        scores["fid"] = {fid: {"value": value, "images": n["fid"], "reference_images": real.num_images}}
    if "kid" in n:
        fake_features, real_features = fake.features[: n["kid"]], real.features[: n["kid"]]
        size = min(1000, len(fake_features) // 2, len(real_features) // 2)  # subsets as large as the set would all be equal
        if size < 2:
            raise ConfigError(f"kid{len(fake_features)} needs at least 4 images in each set")
        kid_score = kernel_distance(fake_features, real_features, size=size)
        counts = {"images": len(fake_features), "reference_images": len(real_features), "subset": size}
        scores["kid"] = {kid: kid_score._asdict() | counts}
    if "prdc" in n:
        fake_features, real_features = fake.features[: n["prdc"]], real.features[: n["prdc"]]
        counts = {"images": len(fake_features), "reference_images": len(real_features)}
        with naming("prdc", n, extractor):
            values = prdc.precision_recall_density_coverage(real_features, fake_features)._asdict()
        scores["prdc"] = {name: {"value": value, **counts} for name, value in values.items()}
    if "intra" in n:
        with naming("intra", n, extractor):
            scores["intra"] = {f"intra_{fid}": intra_class_distance(fake, real, n["intra"], classes)}
    return scores


def intra_class_distance(fake: FeatureStatistics, real: FeatureStatistics, images: int, classes: int) -> dict[str, float]:
    """Intra-class Frechet distance (Miyato & Koyama 2018): its mean over classes and the distance of each class, from the
    first `images` images of each set. Raises DataError on a class with fewer than 2 images."""
    values = {}
    for label in range(classes):
        class_features = []
        for statistics in (fake, real):
            features = statistics.features[:images]
            class_features.append(features[statistics.labels[: len(features)] == label])
        counts = [len(features) for features in class_features]
        if min(counts) < 2:
            raise DataError(f"intra needs 2 images of each class in both sets; of class {label} there are {counts}")
        moments = []
        for features in class_features:
            moments.append(Moments())
            moments[-1].add(features)
        values[f"class_{label}"] = frechet_distance(*(moment.mean_and_covariance() for moment in moments))
    num_images = {"images": images, "reference_images": min(images, len(real.features))}
    return {"value": sum(values.values()) / classes, **num_images, **values}


def accuracy(fake: FeatureStatistics, images: int) -> dict[str, float]:
    """Fraction of the first `images` samples that the extractor classifies as the class they were generated for."""
    correct = fake.predictions[:images] == fake.labels[:images]
    return {"value": correct.double().mean().item(), "images": images}


def format_table(evaluation: Evaluation) -> str:
    """The scores as a text table, one score per line."""
    lines = []
    for name, score in evaluation.scores.items():
        text = format_score(score)
        against = f" against {score['reference_images']:,}" if "reference_images" in score else ""
        lines.append(f"{name:24} {text:20} {score['images']:,} images{against}")
    return "\n".join(lines) + "\n"


def format_score(score: dict[str, float]) -> str:
    """A score with the digits that its number of images supports: at most 4 significant ones, 3 below 1,000 images, 2 below
    100. A mean over splits or subsets has as many decimals as two digits of its standard deviation."""
    value = score_value(score)
    if max(abs(value), score.get("std") or 0) > 1e6 or 0 < (score.get("std") or 1) < 1e-6:  # of no use in full
        return f"{value:.3e}" + (f" +- {score['std']:.1e}" if "std" in score else "")
    if score.get("std"):
        decimals = max(0, 1 - math.floor(math.log10(score["std"])))
        return f"{value:.{decimals}f} +- {score['std']:.{decimals}f}"
    digits = min(MAX_DIGITS, len(str(int(score.get("images", 10**MAX_DIGITS)))))
    text = format_digits(value, digits)
    return f"{text} +- 0" if "std" in score else text


def format_digits(value: float, digits: int) -> str:
    """A number rounded to so many significant digits, without an exponent unless it is tiny."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    decimals = digits - 1 - exponent
    return f"{value:.{digits - 1}e}" if exponent < -5 else f"{round(value, decimals):.{max(0, decimals)}f}"
