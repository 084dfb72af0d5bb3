"""How two sets of features overlap, by nearest neighbours: precision and recall, density and coverage.

Sources: Kynkaanniemi et al. 2019 (improved precision and recall), Naeem et al. 2020 (density and coverage). Distances are
made in chunks of rows, so that memory does not grow with N squared. Shapes: N, M images, F features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.runtime.errors import DataError

ROWS = 1000  # of a table of distances at a time

NEIGHBOUR = 3  # precision and recall, as in the paper

NEIGHBOUR_OF_DENSITY = 5  # density and coverage, as in the paper


class PRDC(NamedTuple):
    """Each from 0 to 1, but for density, which may be larger."""

    precision: float
    """Share of generated images that lie within a ball around a real one."""
    recall: float
    """Share of real images that lie within a ball around a generated one."""
    density: float
    """In how many balls around real images a generated one lies, over the neighbours that make a ball."""
    coverage: float
    """Share of real images with a generated one in their ball."""


def precision_recall_density_coverage(real_NF: Tensor, fake_MF: Tensor) -> PRDC:
    """Of real and generated features. Raises DataError where there are too few images for a ball, or a feature is not
    finite."""
    for name, features in (("real", real_NF), ("generated", fake_MF)):
        if len(features) <= NEIGHBOUR_OF_DENSITY:
            raise DataError(f"neighbours need more than {NEIGHBOUR_OF_DENSITY} {name} images, there are {len(features)}")
        if not features.isfinite().all():
            raise DataError(f"features of {name} images are not finite")
    centre = real_NF.mean(0)  # far from 0 the products that distances are made of would cancel
    real_NF, fake_MF = real_NF - centre, fake_MF - centre
    real_radii, real_wide = knn_radii(real_NF, (NEIGHBOUR, NEIGHBOUR_OF_DENSITY))
    (fake_radii,) = knn_radii(fake_MF, (NEIGHBOUR,))
    precise, dense = 0, 0
    recalled, nearest_neighbors = (torch.zeros(len(real_NF), dtype=torch.bool), torch.full((len(real_NF),), torch.inf))
    for rows, distances in distance_blocks(fake_MF, real_NF):
        precise += (distances <= real_radii).any(1).sum().item()
        dense += (distances < real_wide).sum().item()
        recalled |= (distances <= fake_radii[rows, None]).any(0)
        nearest_neighbors = torch.minimum(nearest_neighbors, distances.amin(0))
    return PRDC(
        precision=precise / len(fake_MF),
        recall=recalled.double().mean().item(),
        density=dense / (NEIGHBOUR_OF_DENSITY * len(fake_MF)),
        coverage=(nearest_neighbors < real_wide).double().mean().item(),
    )


def knn_radii(features_NF: Tensor, neighbors: tuple[int, ...]) -> list[Tensor]:
    """For each of `neighbors`, the distance (N,) of each image to its so manieth nearest other one."""
    furthest = max(neighbors) + 1  # the nearest is itself
    near = [
        distances.topk(furthest, dim=1, largest=False).values for _, distances in distance_blocks(features_NF, features_NF)
    ]
    near_NK = torch.cat(near)  # (N, furthest), ascending
    return [near_NK[:, neighbour].contiguous() for neighbour in neighbors]


def distance_blocks(first_NF: Tensor, second_MF: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances (rows, M) between some of the first and all of the second, piece by piece."""
    for start in range(0, len(first_NF), ROWS):
        rows = slice(start, min(start + ROWS, len(first_NF)))
        yield rows, torch.cdist(first_NF[rows], second_MF)


def nearest_neighbors(queries_NF: Tensor, features_MF: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (N, count) of the nearest of the features to each query, nearest first."""
    found = [distances.topk(count, dim=1, largest=False) for _, distances in distance_blocks(queries_NF, features_MF)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
