"""Precision and recall, density and coverage: how two sets of features overlap, by their nearest neighbors.

Sources: Kynkaanniemi et al. 2019 (improved precision and recall), Naeem et al. 2020 (density and coverage). Distances are
computed in blocks of queries, so memory does not grow with N * M. Shapes: N, M images, F features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.runtime.errors import DataError, NonFiniteScore

BLOCK_QUERIES = 1000  # queries whose distances are computed at a time

PRECISION_RECALL_NEIGHBORS = 3  # k of precision and recall, as in Kynkaanniemi et al. 2019

DENSITY_COVERAGE_NEIGHBORS = 5  # k of density and coverage, as in Naeem et al. 2020


class PRDC(NamedTuple):
    """Four measures of overlap. The ball of an image has its k-th nearest neighbor in its own set on its boundary."""

    precision: float
    """Fraction of generated images within the ball of some real image, 0 to 1."""
    recall: float
    """Fraction of real images within the ball of some generated image, 0 to 1."""
    density: float
    """Mean number of balls of real images that a generated image lies in, divided by k; at least 0, may exceed 1."""
    coverage: float
    """Fraction of real images whose ball contains a generated image, 0 to 1."""


def precision_recall_density_coverage(real_NF: Tensor, fake_MF: Tensor) -> PRDC:
    """PRDC of real and generated features. Raises DataError on too few images for k neighbors,
    NonFiniteScore on features or distances that are not finite."""
    for name, features in (("real", real_NF), ("generated", fake_MF)):
        if len(features) <= DENSITY_COVERAGE_NEIGHBORS:
            raise DataError(
                f"neighbors need more than {DENSITY_COVERAGE_NEIGHBORS} {name} images, there are {len(features)}"
            )
        if not features.isfinite().all():
            raise NonFiniteScore(f"features of {name} images are not finite")
    center = real_NF.mean(0)  # distances from inner products lose precision far from 0
    real_NF, fake_MF = real_NF - center, fake_MF - center
    real_radii, real_density_radii = knn_radii(real_NF, (PRECISION_RECALL_NEIGHBORS, DENSITY_COVERAGE_NEIGHBORS))
    (fake_radii,) = knn_radii(fake_MF, (PRECISION_RECALL_NEIGHBORS,))
    num_precise, num_balls = 0, 0
    recalled = torch.zeros(len(real_NF), dtype=torch.bool)
    nearest_distances = torch.full((len(real_NF),), torch.inf)
    for block, distances in distance_blocks(fake_MF, real_NF):
        num_precise += int((distances <= real_radii).any(1).sum())
        num_balls += int((distances < real_density_radii).sum())
        recalled |= (distances <= fake_radii[block, None]).any(0)
        nearest_distances = torch.minimum(nearest_distances, distances.amin(0))
    return PRDC(
        precision=num_precise / len(fake_MF),
        recall=recalled.double().mean().item(),
        density=num_balls / (DENSITY_COVERAGE_NEIGHBORS * len(fake_MF)),
        coverage=(nearest_distances < real_density_radii).double().mean().item(),
    )


def knn_radii(features_NF: Tensor, neighbors: tuple[int, ...]) -> list[Tensor]:
    """For each k in `neighbors`, the distance (N,) of each image to its k-th nearest other image."""
    num_nearest = max(neighbors) + 1  # the nearest is the image itself
    blocks = distance_blocks(features_NF, features_NF)
    nearest = [distances.topk(num_nearest, dim=1, largest=False).values for _, distances in blocks]
    nearest_NK = torch.cat(nearest)  # (N, num_nearest), ascending
    return [nearest_NK[:, k].contiguous() for k in neighbors]


def distance_blocks(first_NF: Tensor, second_MF: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances (B, M) of blocks of the first features to all of the second, with the slice of each block. Raises
    NonFiniteScore where they exceed float32."""
    for start in range(0, len(first_NF), BLOCK_QUERIES):
        block = slice(start, min(start + BLOCK_QUERIES, len(first_NF)))
        distances = torch.cdist(first_NF[block], second_MF)
        if not distances.isfinite().all():  # an infinite distance would lie in an infinite ball
            raise NonFiniteScore("the distances between features are not finite: the features are too large for float32")
        yield block, distances


def nearest_neighbors(queries_NF: Tensor, features_MF: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, both (N, count), of the features that are nearest to each query, in ascending order."""
    blocks = [distances.topk(count, dim=1, largest=False) for _, distances in distance_blocks(queries_NF, features_MF)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])
