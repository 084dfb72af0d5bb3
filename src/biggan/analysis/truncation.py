"""The truncation curve: scores of one generator at many truncation thresholds (BigGAN section 3.1 and Table 2).

At each threshold the statistics of batch normalization are collected anew. Plots are in analysis/truncation_plots.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from biggan.metrics.evaluate import Evaluation, MetricRequest, evaluate, score_value
from biggan.metrics.features import Extractor
from biggan.metrics.statistics import ImageSet
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError
from biggan.sampling import image_sets
from biggan.sampling.sampler import Sampler

MAX_THRESHOLDS = 100


class CurvePoint(NamedTuple):
    """The scores at one threshold; None: without truncation."""

    threshold: float | None
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The threshold as text, "none" without truncation."""
        return "none" if self.threshold is None else f"{self.threshold:.3g}"

    def record(self) -> dict[str, object]:
        """Threshold, scores and recipe of the samples, for JSON."""
        samples = self.evaluation.recipe["samples"]
        return {"threshold": self.threshold, "scores": self.evaluation.scores, "samples": samples}

    def axes(self) -> tuple[str | None, str | None]:
        """Names of the distance to the real images and of the Inception Score, by either name; None: not measured."""
        scores = self.evaluation.scores
        distances = (name for name in ("fid", "frechet_distance") if name in scores)
        entropies = (name for name in ("inception_score", "exp_kl_score") if name in scores)
        return next(distances, None), next(entropies, None)

    def value(self, score: str) -> float:
        """The value of a score; for one that is computed on several splits, their mean."""
        return score_value(self.evaluation.scores[score])


def parse_thresholds(text: str) -> list[float]:
    """Thresholds in descending order from "LOW:HIGH:COUNT", such as "0.04:2:9" (geometrically spaced), or from a list such
    as "0.5,1,2". Raises ConfigError on any other text."""
    try:
        if ":" in text:
            low_text, high_text, count_text = text.split(":")
            low, high, count = float(low_text), float(high_text), int(count_text)
            if not (0 < low < high < math.inf and 2 <= count <= MAX_THRESHOLDS):
                raise ValueError
            return [high * (low / high) ** (index / (count - 1)) for index in range(count)]
        thresholds = sorted({float(word) for word in text.split(",")}, reverse=True)
        if not 0 < thresholds[-1] <= thresholds[0] < math.inf:
            raise ValueError
        return thresholds
    except ValueError:
        raise ConfigError(f"--thresholds {text}: give LOW:HIGH:COUNT such as 0.04:2:9, or a list such as 0.5,1,2") from None


def truncation_curve(
    sampler: Sampler,
    name: str,
    thresholds: list[float | None],
    reference: ImageSet,
    extractor: Extractor,
    metrics: tuple[MetricRequest, ...],
    *,
    seed: int,
    cache: Path | None,
    world: World,
) -> Iterator[CurvePoint]:
    """The points of the curve, as they are measured; at every threshold the same seed, so that the underlying latents are
    the same up to resampled coordinates. All ranks must iterate together."""
    for threshold in thresholds:
        samples = image_sets.generated_images(sampler, name, truncation=threshold, seed=seed)
        evaluation = evaluate(samples, reference, extractor, metrics, cache=cache, world=world)
        yield CurvePoint(threshold, evaluation)


def measure_truncation_amenability(
    sampler: Sampler, name: str, extractor: Extractor, *, threshold: float = 0.5, images: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Whether a model is amenable to truncation, with the numbers that decide it.

    BigGAN section 3.1 calls 16 % of its models amenable without orthogonal regularization and 60 % with it, and gives no
    criterion; this one is ours. "survives" is 1, else 0, where truncated samples have at most 1 % more than twice as many
    saturated values (0 or 255) as untruncated ones, and their entropy score (the Inception Score of the extractor) is no
    lower. All ranks must call it together."""
    saturated, scores = [], []
    for truncation in (None, threshold):
        samples = image_sets.generated_images(sampler, name, truncation=truncation, seed=seed)
        batches = samples.batches(min(images, 512))
        fractions = [((batch == 0) | (batch == 255)).float().mean() for batch, _ in batches]
        saturated.append(sum(fractions).item() / len(fractions))
        evaluation = evaluate(samples, None, extractor, (MetricRequest("is", images),))
        scores.append(next(iter(evaluation.scores.values()))["mean"])
    survives = saturated[1] <= 2 * saturated[0] + 0.01 and scores[1] >= scores[0]
    return {
        "survives": float(survives),
        "saturated": saturated[0],
        "saturated_truncated": saturated[1],
        "score": scores[0],
        "score_truncated": scores[1],
    }


def table2_columns(points: list[CurvePoint], real_entropy_score: float | None) -> dict[str, CurvePoint]:
    """The points of the three columns of BigGAN's Table 2, by column: with the smallest distance to the real images, with
    the Inception Score nearest to that of real images, and with the largest Inception Score; as far as these were
    measured."""
    distance, entropy_score = points[0].axes()
    columns = {}
    if distance is not None:
        columns[f"least {distance}"] = min(points, key=lambda point: point.value(distance))
    if entropy_score is not None and real_entropy_score is not None:
        columns[f"{entropy_score} of real images"] = min(
            points, key=lambda point: abs(point.value(entropy_score) - real_entropy_score)
        )
    if entropy_score is not None:
        columns[f"largest {entropy_score}"] = max(points, key=lambda point: point.value(entropy_score))
    return columns
