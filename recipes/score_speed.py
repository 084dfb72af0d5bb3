"""How long do the scores of 50,000 images take, once there are features? `python recipes/score_speed.py`

Random 2048-dimensional features and 1008 logits of 50,000 images a side: Inception Score, Frechet and kernel distance of
all, precision, recall, density and coverage of 10,000. Prints the seconds of each and the peak memory of the process.
"""

import resource
import time

import torch

from biggan.metrics.prdc import precision_recall_density_coverage
from biggan.metrics.scores import InceptionScore, Moments, frechet_distance, kernel_distance

IMAGES, NEIGHBORS, WIDTH, LOGITS, PIECE = 50_000, 10_000, 2048, 1008, 1024


def features(seed: int, rng: torch.Generator) -> torch.Tensor:
    mix = torch.randn(WIDTH, WIDTH, generator=rng) / WIDTH**0.5
    values = torch.empty(IMAGES, WIDTH)
    for part in values.split(PIECE):
        part.copy_((torch.randn(part.shape, generator=rng) @ mix + 0.1 * seed).relu())
    return values


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = features(0, rng), features(1, rng)
    started = last = time.perf_counter()

    def lap(name: str, value: object) -> None:
        nonlocal last
        now = time.perf_counter()
        print(f"{name:32} {now - last:6.1f} s   {value}")
        last = now

    inception_score = InceptionScore(IMAGES, 10)
    for start in range(0, IMAGES, PIECE):
        inception_score.add(torch.randn(min(PIECE, IMAGES - start), LOGITS, generator=rng))
    lap("Inception Score", inception_score.score())
    sums = []
    for values in (real, fake):
        sums.append(Moments())
        for part in values.split(PIECE):
            sums[-1].add(part)
    lap("moments of both", "")
    lap("Frechet distance", frechet_distance(*(moments.mean_and_covariance() for moments in sums)))
    lap("kernel distance", kernel_distance(fake, real))
    lap("precision, recall, density, coverage", precision_recall_density_coverage(real[:NEIGHBORS], fake[:NEIGHBORS]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"together {time.perf_counter() - started:.1f} s, peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
