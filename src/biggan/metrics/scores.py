"""Scores of generated images, from features and logits alone: Inception Score, Frechet distance, kernel distance.

Sources: Salimans et al. 2016 section 4 (Inception Score; docs/papers/improved_gan.md, "Inception Score"), Heusel et al.
2017 (FID), Binkowski et al. 2018 (KID). Everything in float64. Not here: what made the features (see features),
neighbours (see manifold). Shapes: N images, F features, K classes."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from biggan.runtime.errors import DataError

KID_DEGREE = 3

SUBSETS, SUBSET_SEED = 100, 2020  # of the kernel distance


class MeanAndStd(NamedTuple):
    """A score over parts of the images: its mean and standard deviation (of the population)."""

    mean: float
    std: float


class Moments:
    """Mean and covariance of features that come in pieces; keeps F x F numbers, whatever N."""

    def __init__(self) -> None:
        self.count = 0
        self.shift: Tensor | None = None  # near the mean, so that nothing cancels
        self.total: Tensor | None = None
        self.outer: Tensor | None = None

    def add(self, features_NF: Tensor) -> None:
        """Count some more features in."""
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
        """(F,) and (F, F), float64, unbiased. Raises DataError where there are fewer than two images."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, there are {self.count}")
        mean = self.total / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return mean + self.shift, covariance


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) of two (mean, covariance), at least 0.

    The roots are of symmetric matrices, whose eigenvalues below 0 are rounding: right for fewer images than features too."""
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    values, vectors = torch.linalg.eigh(covariance_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ covariance_2 @ root
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    difference = mean_1 - mean_2
    distance = difference @ difference + covariance_1.trace() + covariance_2.trace() - 2 * trace_of_root
    return max(0.0, distance.item())


class SplitEntropies:
    """What the Inception Score needs of logits that come in pieces: for each split the sums of p and of p log p."""

    def __init__(self, images: int, splits: int) -> None:
        self.bounds = [split * images // splits for split in range(splits + 1)]
        self.seen = 0
        self.p_sums: list[Tensor | None] = [None] * splits
        self.negative_entropies = [0.0] * splits

    def add(self, logits_NK: Tensor) -> None:
        """Count some more logits in; the splits are contiguous."""
        log_p = logits_NK.double().log_softmax(1)
        p = log_p.exp()
        products = (p * log_p).sum(1)
        for split, (start, stop) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            part = slice(max(0, start - self.seen), max(0, stop - self.seen))
            if p[part].shape[0]:
                total = self.p_sums[split]
                self.p_sums[split] = p[part].sum(0) if total is None else total + p[part].sum(0)
                self.negative_entropies[split] += products[part].sum().item()
        self.seen += len(p)

    def score(self) -> MeanAndStd:
        """exp(mean KL(p(y|x) || p(y))), p(y) within each split. Raises DataError before all images have come."""
        if self.seen < self.bounds[-1] or None in [None if total is None else 0 for total in self.p_sums]:
            splits = len(self.p_sums)
            raise DataError(
                f"{splits} splits need at least one image each, and {self.bounds[-1]} in all; there are {self.seen}"
            )
        scores = []
        for start, stop, p_sum, negative_entropy in zip(
            self.bounds, self.bounds[1:], self.p_sums, self.negative_entropies, strict=False
        ):
            count = stop - start
            p_y = p_sum / count
            scores.append(math.exp(negative_entropy / count - torch.xlogy(p_y, p_y).sum().item()))
        return MeanAndStd(float(np.mean(scores)), float(np.std(scores)))


def kernel_distance(
    first_NF: Tensor, second_NF: Tensor, *, subsets: int = SUBSETS, size: int = 1000, seed: int = SUBSET_SEED
) -> MeanAndStd:
    """The unbiased squared maximum mean discrepancy under the kernel (x y / F + 1)^3, over random subsets of each.

    Subsets are those of torch-fidelity for the same seed. Raises DataError on fewer images than `size`."""
    counts = len(first_NF), len(second_NF)
    if min(counts) < size:
        raise DataError(f"a kernel distance over subsets of {size} images needs so many on each side, not {min(counts)}")
    numbers = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        parts = [features[numbers.choice(len(features), size, replace=False)].double() for features in (first_NF, second_NF)]
        values.append(discrepancy(*parts))
    return MeanAndStd(float(np.mean(values)), float(np.std(values)))


def discrepancy(first_MF: Tensor, second_MF: Tensor) -> float:
    """The unbiased estimate from M images of each."""
    size = len(first_MF)
    within = [kernel(x, x) for x in (first_MF, second_MF)]
    pairs = sum((k.sum() - k.trace()).item() for k in within) / (size * (size - 1))
    return pairs - 2 * kernel(first_MF, second_MF).mean().item()


def kernel(first_MF: Tensor, second_MF: Tensor) -> Tensor:
    """(x y / F + 1)^3: (M, M)."""
    return (first_MF @ second_MF.T).div_(first_MF.shape[1]).add_(1).pow_(KID_DEGREE)
