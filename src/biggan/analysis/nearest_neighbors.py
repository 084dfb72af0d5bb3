"""The real images nearest to generated ones, by features or by pixels (BigGAN appendix A)."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.metrics.features import Extractor


class NearestNeighbors(NamedTuple):
    """For each sample the nearest real images, nearest first."""

    distances: Tensor
    """(N, count)"""
    images: Tensor
    """uint8 (N, count, 3, R, R)"""


def neighbors(samples: Tensor, batches: Iterable, extractor: Extractor | None, count: int) -> NearestNeighbors:
    """The `count` nearest of the real `batches` to each of the samples (N, 3, R, R), by features, or by pixels (0 to 255)
    for no extractor. Holds one batch and the best so far."""
    queries = feature_vectors(samples, extractor)
    distances = torch.full((len(samples), count), math.inf)
    found = samples.new_zeros(len(samples), count, *samples.shape[1:])
    for images, _ in batches:
        table = torch.cat([distances, torch.cdist(queries, feature_vectors(images, extractor))], dim=1)  # (N, count + B)
        distances, places = table.topk(count, dim=1, largest=False)
        candidates = torch.cat([found, images[None].expand(len(samples), *images.shape)], dim=1)
        found = candidates[torch.arange(len(samples))[:, None], places]
    return NearestNeighbors(distances, found)


def feature_vectors(images: Tensor, extractor: Extractor | None) -> Tensor:
    """(N, F): features, or pixels."""
    return images.flatten(1).float() if extractor is None else extractor(images).features
