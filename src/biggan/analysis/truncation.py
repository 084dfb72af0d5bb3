"""The truncation curve: scores of one generator at many thresholds (BigGAN section 3.1 and Table 2).

At each threshold the statistics of batch normalization are collected anew. Not here: files and plots of it (see plots).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from biggan.metrics.evaluate import Evaluation, MetricRequest, evaluate
from biggan.metrics.features import Extractor
from biggan.metrics.statistics import ImageSet
from biggan.runtime.distributed import World
from biggan.runtime.errors import ConfigError
from biggan.sampling import image_sets
from biggan.sampling.sampler import Sampler

DISTANCES = ("fid", "frechet_distance")

ENTROPIES = ("inception_score", "exp_kl_score")

MOST_THRESHOLDS = 100


class Point(NamedTuple):
    """The scores at one threshold; None is no truncation."""

    threshold: float | None
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The threshold as a word."""
        return "none" if self.threshold is None else f"{self.threshold:.3g}"

    def record(self) -> dict[str, object]:
        """For JSON."""
        samples = self.evaluation.recipe["samples"]
        return {"threshold": self.threshold, "scores": self.evaluation.scores, "samples": samples}

    def value(self, score: str) -> float:
        """The score, or its mean over parts."""
        found = self.evaluation.scores[score]
        return found["mean"] if "mean" in found else found["value"]


def thresholds_of(text: str) -> list[float]:
    """Of "0.04:2:9", nine from 0.04 to 2 at equal ratios, or of "0.5,1,2". Descending. Raises ConfigError."""
    try:
        if ":" in text:
            low, high, count = text.split(":")
            low, high, count = float(low), float(high), int(count)
            if not (0 < low < high < math.inf and 2 <= count <= MOST_THRESHOLDS):
                raise ValueError
            return [high * (low / high) ** (place / (count - 1)) for place in range(count)]
        found = sorted({float(word) for word in text.split(",")}, reverse=True)
        if not 0 < found[-1] <= found[0] < math.inf:
            raise ValueError
        return found
    except ValueError:
        raise ConfigError(f"--thresholds {text}: give LOW:HIGH:COUNT such as 0.04:2:9, or a list such as 0.5,1,2") from None


def curve(
    sampler: Sampler,
    name: str,
    thresholds: list[float | None],
    reference: ImageSet,
    extractor: Extractor,
    wanted: tuple[MetricRequest, ...],
    *,
    seed: int,
    cache: Path | None,
    world: World,
) -> Iterator[Point]:
    """One point after the other; the same seed at each, so that neighboring points share their latents."""
    for threshold in thresholds:
        samples = image_sets.generated_images(sampler, name, truncation=threshold, seed=seed)
        yield Point(
            threshold,
            evaluate(samples, reference, extractor, wanted, cache=cache, world=world),
        )


def survival(
    sampler: Sampler, name: str, extractor: Extractor, *, threshold: float = 0.5, images: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Whether a model is amenable to truncation (BigGAN section 3.1 calls 16 % of models so without, and 60 % with
    orthogonal regularization, and gives no measure; this one is ours).

    It survives (1, else 0) where truncated samples have at most 1 % plus twice as many saturated values (0 or 255) as
    untruncated ones, and their exp-entropy score (the Inception Score of the extractor) is no lower. All ranks must call
    it."""
    saturated, scores = [], []
    for truncation in (None, threshold):
        samples = image_sets.generated_images(sampler, name, truncation=truncation, seed=seed)
        extreme = [((batch == 0) | (batch == 255)).float().mean() for batch, _ in samples.batches(min(images, 512))]
        saturated.append(sum(extreme).item() / len(extreme))
        evaluation = evaluate(samples, None, extractor, (MetricRequest("is", images),))
        scores.append(next(iter(evaluation.scores.values()))["mean"])
    survives = saturated[1] <= 2 * saturated[0] + 0.01 and scores[1] >= scores[0]
    return {"survives": float(survives), "saturated": saturated[0], "saturated_truncated": saturated[1]} | {
        "score": scores[0],
        "score_truncated": scores[1],
    }


def columns(points: list[Point], real_entropy: float | None) -> dict[str, Point]:
    """The three columns of the paper's Table 2: the threshold of the least distance, the one whose Inception Score is
    nearest to that of real images, and that of the largest Inception Score; as far as the scores are there."""
    scores = points[0].evaluation.scores
    distance = next((name for name in DISTANCES if name in scores), None)
    entropy = next((name for name in ENTROPIES if name in scores), None)
    found = {}
    if distance is not None:
        found[f"least {distance}"] = min(points, key=lambda point: point.value(distance))
    if entropy is not None and real_entropy is not None:
        found[f"{entropy} of real images"] = min(points, key=lambda point: abs(point.value(entropy) - real_entropy))
    if entropy is not None:
        found[f"largest {entropy}"] = max(points, key=lambda point: point.value(entropy))
    return found
