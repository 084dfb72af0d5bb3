"""Minibatch discrimination: features of an image that measure its similarity to the other images in its batch.

Source: Salimans et al. 2016, section 3.2, and the published CIFAR-10 layer (docs/papers/improved_gan.md, "Minibatch
discrimination"). Real images are compared with real ones and generated with generated ones only. The paper's formula sums
over all images of the batch; its text and the published code exclude the image itself, and so does this layer.

Shapes: N images of all groups, G images of one group, A features, B kernels, C dimensions of each kernel.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast
from biggan.nn.initialization import Initializer

Gather = Callable[[Tensor], tuple[Tensor, int]]  # projections of this rank -> those of all ranks, index of this rank's first


class MinibatchDiscrimination(nn.Module):
    """f (N, A) -> o (N, B): o_b(x_i) = sum over j != i of exp(-|| M_ib - M_jb ||_1) + bias_b, M_i = f_i T, T (A, B, C).

    T = theta exp(log_scale) / ||theta||, with the norm over A. `gather` (None for one process) concatenates the projections
    M (G, B C) of all ranks, with gradients, so that images are compared across ranks; it also returns the index of the first
    that belongs to this rank. Computed in float32.
    """

    def __init__(self, features: int, kernels: int, dimensions: int) -> None:
        super().__init__()
        self.kernels, self.dimensions = kernels, dimensions
        self.weight = nn.Parameter(torch.empty(kernels * dimensions, features))
        self.log_scale = nn.Parameter(torch.empty(kernels, dimensions))
        self.bias = nn.Parameter(torch.empty(kernels))
        self.gather: Gather | None = None
        self.initializing = False

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Draw theta; set log_scale to 0 and bias to -1. Mutates the layer."""
        initializer(self.weight, rng)
        nn.init.zeros_(self.log_scale)
        nn.init.constant_(self.bias, -1.0)

    def forward(self, features_NA: Tensor, groups: int = 1) -> Tensor:
        """(N, A) -> (N, B). The batch consists of `groups` equal groups; images are compared within their group only."""
        with without_autocast(features_NA.device):
            directions = self.weight / torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
            projected = features_NA.float() @ directions.T  # (N, B C)
            if self.initializing:
                self.initialize_from_data(projected)
            projected = projected * self.log_scale.exp().flatten()
            similarities = torch.cat([self.similarity(group) for group in projected.chunk(groups)])  # (N, B)
            return similarities + self.bias

    def similarity(self, group: Tensor) -> Tensor:
        """Projections (G, B C) of one group -> the sum of exp(-distance) to all other images of the group, over all ranks,
        (G, B)."""
        others, first = (group, 0) if self.gather is None else self.gather(group)
        distance = torch.cdist(self.split_kernels(group), self.split_kernels(others), p=1)  # (B, G, others)
        self_mask = torch.zeros_like(distance)
        self_mask.diagonal(first, 1, 2)[:, : len(group)].fill_(math.inf)
        return (-(distance + self_mask)).exp().sum(2).T  # (G, B)

    def split_kernels(self, projected: Tensor) -> Tensor:
        """(G, B C) -> (B, G, C)."""
        return projected.unflatten(1, (self.kernels, self.dimensions)).transpose(0, 1)

    @torch.no_grad()
    def initialize_from_data(self, projected: Tensor) -> None:
        """Set scales such that half the mean distance to the nearest other image is 1, and biases such that the mean output
        is 0. `projected` (G, B C): projections with scale 1 of one group; with fewer than two images nothing changes.
        Mutates log_scale and bias."""
        if len(projected) < 2:
            return
        distance = torch.cdist(self.split_kernels(projected), self.split_kernels(projected), p=1)  # (B, G, G)
        distance.diagonal(0, 1, 2).fill_(math.inf)
        half_B = (distance.amin(2).mean(1) / 2).clamp(min=1e-6)  # 0 if every image occurs twice
        self.log_scale.copy_(-half_B.log()[:, None].expand_as(self.log_scale))
        self.bias.copy_(-(-distance / half_B[:, None, None]).exp().sum(2).mean(1))


def build_minibatch_discrimination(features: int, kernels: int | None, dimensions: int) -> tuple[nn.Module, int]:
    """A layer with this number of kernels, and the number of features that it adds; none and 0 for `kernels` None."""
    if kernels is None:
        return NoMinibatchFeatures(), 0
    return MinibatchDiscrimination(features, kernels, dimensions), kernels


def sync_minibatch_discrimination(network: nn.Module, gather: Gather) -> None:
    """Make minibatch discrimination in the network compare images across all ranks. Mutates the layers."""
    for layer in network.modules():
        if isinstance(layer, MinibatchDiscrimination):
            layer.gather = gather


class NoMinibatchFeatures(nn.Module):
    """No minibatch features: (N, A) -> (N, 0)."""

    def forward(self, features_NA: Tensor, groups: int = 1) -> Tensor:
        return features_NA[:, :0]
