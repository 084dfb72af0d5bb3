"""Nearest real images of samples, to see whether a generator copies its training images.

Source: BigGAN section 4.2 (docs/papers/biggan.md, "Qualitative findings"). Shapes: N samples, B batch, F features, R
resolution.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.metrics.features import Extractor
from biggan.runtime.errors import NonFiniteScore


class NearestNeighbors(NamedTuple):
    """The real images nearest to each sample, in ascending order of their distance."""

    distances: Tensor
    """(N, count), Euclidean."""
    images: Tensor
    """(N, count, 3, R, R) uint8."""


def find_nearest_neighbors(
    samples: Tensor, batches: Iterable[tuple[Tensor, Tensor]], extractor: Extractor | None, count: int
) -> NearestNeighbors:
    """The `count` real images nearest to each of the uint8 samples (N, 3, R, R), among `batches` of images and labels.

    Distances are between features, or without an extractor between pixels (0 to 255). One batch is in memory at a time.
    Raises NonFiniteScore where a distance is not finite."""
    queries = feature_vectors(samples, extractor)
    distances = torch.full((len(samples), count), math.inf)
    nearest = samples.new_zeros(len(samples), count, *samples.shape[1:])
    for images, _ in batches:
        table = torch.cat([distances, torch.cdist(queries, feature_vectors(images, extractor))], dim=1)  # (N, count + B)
        distances, indices = table.topk(count, dim=1, largest=False)
        rows = torch.arange(len(samples))[:, None]
        kept = nearest[rows, indices.clamp(max=count - 1)]  # (N, count, 3, R, R)
        is_new = (indices >= count)[..., None, None, None]
        nearest = torch.where(is_new, images[(indices - count).clamp(min=0)], kept)  # (N, count, 3, R, R)
    if not distances.isfinite().all():
        raise NonFiniteScore("distances between these features are not finite: use another extractor")
    return NearestNeighbors(distances, nearest)


def feature_vectors(images: Tensor, extractor: Extractor | None) -> Tensor:
    """Features (N, F) of uint8 images; without an extractor their pixels, 0 to 255."""
    return images.flatten(1).float() if extractor is None else extractor(images).features
