"""Minibatch discrimination: how alike each image's features are to those of the others in its batch.

Source: Salimans et al. 2016, section 3.2, and the published CIFAR-10 layer (docs/papers/improved_gan.md, "Minibatch
discrimination"). Real and generated images are compared among themselves only. The formula's sum is over all images; the
text and the code leave the image itself out, and so do we.

Shapes: N images of all parts, P of one part, A features, B kernels, C dimensions of each.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast
from biggan.nn.initialization import Initializer

Gather = Callable[[Tensor], tuple[Tensor, int]]  # rows of this rank -> rows of all, and where its own begin


class MinibatchDiscrimination(nn.Module):
    """f (N, A) -> o (N, B): o_b(x_i) = sum over j != i of exp(-|| M_ib - M_jb ||_1) + bias_b, M_i = f_i T, T (A, B, C).

    T = theta exp(log_scale) / ||theta||, the norm over A. `gather` (None for one process) puts the rows (P, B C) of all
    ranks below each other, with gradients, so that images are compared across ranks: it gives all rows, and the number of
    the first that is this rank's. float32.
    """

    def __init__(self, features: int, kernels: int, dimensions: int) -> None:
        super().__init__()
        self.kernels, self.dimensions = kernels, dimensions
        self.weight = nn.Parameter(torch.empty(kernels * dimensions, features))
        self.log_scale = nn.Parameter(torch.empty(kernels, dimensions))
        self.bias = nn.Parameter(torch.empty(kernels))
        self.gather: Gather | None = None
        self.initializing = False

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw theta anew, log_scale 0, bias -1; mutates the layer."""
        initializer(self.weight, generator)
        nn.init.zeros_(self.log_scale)
        nn.init.constant_(self.bias, -1.0)

    def forward(self, features_NA: Tensor, groups: int = 1) -> Tensor:
        """The batch consists of `groups` equal groups, each compared within itself."""
        with without_autocast(features_NA.device):
            unit = self.weight / torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
            projected = features_NA.float() @ unit.T  # (N, B C)
            if self.initializing:
                self.start(projected)
            projected = projected * self.log_scale.exp().flatten()
            near = torch.cat([self.similarity(part) for part in projected.chunk(groups)])  # (N, B)
            return near + self.bias

    def similarity(self, mine: Tensor) -> Tensor:
        """(P, B C) -> (P, B), summed over all other rows of this part, of all ranks."""
        rows, first = (mine, 0) if self.gather is None else self.gather(mine)
        distance = torch.cdist(self.by_kernel(mine), self.by_kernel(rows), p=1)  # (B, P, rows)
        itself = torch.zeros_like(distance)
        itself.diagonal(first, 1, 2)[:, : len(mine)].fill_(math.inf)
        return (-(distance + itself)).exp().sum(2).T  # (P, B)

    def by_kernel(self, rows: Tensor) -> Tensor:
        """(P, B C) -> (B, P, C)."""
        return rows.unflatten(1, (self.kernels, self.dimensions)).transpose(0, 1)

    @torch.no_grad()
    def start(self, projected: Tensor) -> None:
        """From projections with scale 1 of a batch that is one part: scales such that half the mean distance of the nearest
        other image is 1, biases such that the mean output is 0. Mutates both; one image alone says nothing."""
        if len(projected) < 2:
            return
        distance = torch.cdist(self.by_kernel(projected), self.by_kernel(projected), p=1)  # (B, P, P)
        distance.diagonal(0, 1, 2).fill_(math.inf)
        half_B = (distance.amin(2).mean(1) / 2).clamp(min=1e-6)  # 0 where every image is there twice
        self.log_scale.copy_(-half_B.log()[:, None].expand_as(self.log_scale))
        self.bias.copy_(-(-distance / half_B[:, None, None]).exp().sum(2).mean(1))


def build_minibatch_discrimination(features: int, kernels: int | None, dimensions: int) -> tuple[nn.Module, int]:
    """The layer for so many kernels, and how many features it adds; None: none."""
    if kernels is None:
        return NoMinibatchFeatures(), 0
    return MinibatchDiscrimination(features, kernels, dimensions), kernels


def sync_minibatch_discrimination(network: nn.Module, gather: Gather) -> None:
    """From now on the minibatch features of a network compare the images of all ranks. Mutates the layers."""
    for layer in network.modules():
        if isinstance(layer, MinibatchDiscrimination):
            layer.gather = gather


class NoMinibatchFeatures(nn.Module):
    """None: (N, A) -> (N, 0)."""

    def forward(self, features_NA: Tensor, groups: int = 1) -> Tensor:
        return features_NA[:, :0]
