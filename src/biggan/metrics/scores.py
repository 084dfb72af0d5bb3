"""Scores of generated images from features and logits: Inception Score, Frechet distance (FID), kernel distance (KID).

Sources: Salimans et al. 2016, section 4 (Inception Score; docs/papers/improved_gan.md, "Inception Score"), Heusel et al.
2017 (FID), Binkowski et al. 2018 (KID). All scores are computed in float64. Shapes: N, M images, F features, K classes.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from biggan.runtime.errors import DataError, NonFiniteScore

KID_DEGREE = 3

KID_SUBSETS, KID_SEED = 100, 2020  # number of subsets, and seed of their choice


class MeanAndStd(NamedTuple):
    """Mean and population standard deviation of a score over splits or subsets of the images."""

    mean: float
    std: float


class Moments:
    """Mean and covariance of features, accumulated in batches on the device of the features; needs O(F^2) memory there for
    any N."""

    def __init__(self) -> None:
        self.count = 0
        self.shift: Tensor | None = None  # mean of the first batch, subtracted to avoid cancellation
        self.total: Tensor | None = None
        self.outer: Tensor | None = None

    def add(self, features_NF: Tensor) -> None:
        """Add a batch of features."""
        features = features_NF.double()
        if self.shift is None:
            width = features.shape[1]
            self.shift = features.mean(0)
            self.total, self.outer = features.new_zeros(width), features.new_zeros(width, width)
        features = features - self.shift
        self.count += len(features)
        self.total += features.sum(0)
        self.outer.addmm_(features.T, features)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (F,) and unbiased covariance (F, F) in float64 on the CPU. Raises DataError on fewer than two images."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, there are {self.count}")
        mean = self.total / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return (mean + self.shift).cpu(), covariance.cpu()


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Frechet distance of two Gaussians, each given as (mean, covariance); at least 0.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Heusel et al. 2017). Both roots are of symmetric
    positive semidefinite matrices, whose negative eigenvalues are rounding errors, so that covariances may be singular
    (fewer images than features). Raises NonFiniteScore where the moments or the distance are not finite.
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    if not all(moment.isfinite().all() for moment in (*first, *second)):
        raise NonFiniteScore("the mean or the covariance of the features is not finite")
    try:
        values, vectors = torch.linalg.eigh(covariance_1)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        product = root @ covariance_2 @ root
        trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    except torch.linalg.LinAlgError as error:
        raise NonFiniteScore("the eigenvalues of the features' covariance cannot be computed") from error
    difference = mean_1 - mean_2
    distance = (difference @ difference + covariance_1.trace() + covariance_2.trace() - 2 * trace_of_root).item()
    if not math.isfinite(distance):  # max(0, nan) would be 0, the best of all scores
        raise NonFiniteScore(f"the Frechet distance is {distance}: the features are too large for float64")
    return max(0.0, distance)


class InceptionScore:
    """Inception Score of logits that are accumulated in batches: the sums of p(y|x) and p(y|x) log p(y|x) by split."""

    def __init__(self, images: int, splits: int) -> None:
        self.bounds = [split * images // splits for split in range(splits + 1)]
        self.num_images = 0
        self.p_sums: list[Tensor | None] = [None] * splits
        self.negative_entropies = [0.0] * splits

    def add(self, logits_NK: Tensor) -> None:
        """Add a batch of logits. Splits are contiguous and of equal size, up to one image."""
        log_p = logits_NK.double().log_softmax(1)
        p = log_p.exp()
        products = (p * log_p).sum(1)
        for split, (start, stop) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            chunk = slice(max(0, start - self.num_images), max(0, stop - self.num_images))
            if p[chunk].shape[0]:
                total = self.p_sums[split]
                self.p_sums[split] = p[chunk].sum(0) if total is None else total + p[chunk].sum(0)
                self.negative_entropies[split] += products[chunk].sum().item()
        self.num_images += len(p)

    def score(self) -> MeanAndStd:
        """exp(mean KL(p(y|x) || p(y))) of each split, with p(y) of the split. Raises DataError if images are missing."""
        if self.num_images < self.bounds[-1] or None in [None if total is None else 0 for total in self.p_sums]:
            splits = len(self.p_sums)
            raise DataError(
                f"{splits} splits need at least one image each, and {self.bounds[-1]} in total; there are {self.num_images}"
            )
        scores = []
        for start, stop, p_sum, negative_entropy in zip(
            self.bounds, self.bounds[1:], self.p_sums, self.negative_entropies, strict=False
        ):
            count = stop - start
            p_y = p_sum / count
            scores.append(math.exp(negative_entropy / count - torch.xlogy(p_y, p_y).sum().item()))
        with np.errstate(all="ignore"):  # what is not finite is refused by the caller
            return MeanAndStd(float(np.mean(scores)), float(np.std(scores)))


def kernel_distance(
    first_NF: Tensor, second_NF: Tensor, *, subsets: int = KID_SUBSETS, size: int = 1000, seed: int = KID_SEED
) -> MeanAndStd:
    """Kernel distance: the unbiased squared maximum mean discrepancy under the kernel (x.y / F + 1)^3.

    Mean and standard deviation over `subsets` random pairs of subsets of `size` images, the same subsets as torch-fidelity's
    for the same seed. Raises DataError on fewer than `size` images. Source: Binkowski et al. 2018.
    """
    counts = len(first_NF), len(second_NF)
    if min(counts) < size:
        raise DataError(f"a kernel distance over subsets of {size} images needs as many in each set, not {min(counts)}")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        pair = [features[rng.choice(len(features), size, replace=False)].double() for features in (first_NF, second_NF)]
        values.append(squared_mmd(*pair))
    with np.errstate(all="ignore"):  # what is not finite is refused by the caller
        return MeanAndStd(float(np.mean(values)), float(np.std(values)))


def squared_mmd(first_MF: Tensor, second_MF: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy from M images of each set."""
    size = len(first_MF)
    within = [polynomial_kernel(x, x) for x in (first_MF, second_MF)]
    pairs = sum((k.sum() - k.trace()).item() for k in within) / (size * (size - 1))
    return pairs - 2 * polynomial_kernel(first_MF, second_MF).mean().item()


def polynomial_kernel(first_MF: Tensor, second_MF: Tensor) -> Tensor:
    """Kernel matrix (M, M) of (x.y / F + 1)^3."""
    return (first_MF @ second_MF.T).div_(first_MF.shape[1]).add_(1).pow_(KID_DEGREE)
