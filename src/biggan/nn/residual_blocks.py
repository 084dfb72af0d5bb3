"""Residual blocks of BigGAN and BigGAN-deep (appendix B; docs/papers/biggan.md, "Generator" and "Discriminator"). Upsampling
(nearest or bilinear) and 2x2 averaging commute with 1x1 convolutions, so every skip works at the lower resolution; the 3x3
ones take the resampling in (nn/layers).

What a block is made of comes from outside, as `LayerFactory`, so that kernels, norms and rules are chosen in one place.
Shapes: N batch, I inputs, O outputs, E condition, HW pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerFactory(NamedTuple):
    """Functions that make the layers of a network, with the choices of its config applied."""

    linear: Callable[..., nn.Module]
    """(inputs, outputs, bias=True) -> layer (N, I) -> (N, O)"""
    embedding: Callable[[int, int], nn.Module]
    """(classes, dimension) -> layer (N,) int64 -> (N, E)"""
    conv: Callable[..., nn.Module]
    """(inputs, outputs, kernel, resample="none", bias=True) -> layer; without `kernel` the network's usual one"""
    norm: Callable[[int], nn.Module]
    """channels -> layer of (x (N, C, H, W), condition (N, E))"""
    upsample: Callable[[Tensor], Tensor]
    """(N, C, H, W) -> (N, C, 2H, 2W)"""


class GeneratorBlock(nn.Module):
    """Norm, ReLU, [up], conv 3x3, norm, ReLU, conv 3x3, plus a skip: (N, I, H, W) -> (N, O, 2H, 2W), or (N, O, H, W).

    The skip is the identity unless the width or the size changes; then it is up, conv 1x1.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool, layers: LayerFactory) -> None:
        super().__init__()
        self.norm_1 = layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, outputs, resample="up" if up else "none")
        self.norm_2 = layers.norm(outputs)
        self.conv_2 = layers.conv(outputs, outputs)
        self.skip = layers.conv(inputs, outputs, 1) if up or inputs != outputs else nn.Identity()
        self.resize = layers.upsample if up else unchanged

    def forward(self, x: Tensor, condition_NE: Tensor) -> Tensor:
        h = F.relu(self.norm_1(x, condition_NE))  # (N, I, H, W)
        h = self.conv_1(h)  # (N, O, 2H, 2W)
        h = F.relu(self.norm_2(h, condition_NE))  # (N, O, 2H, 2W)
        h = self.conv_2(h)  # (N, O, 2H, 2W)
        return h + self.resize(self.skip(x))  # (N, O, 2H, 2W)


class DiscriminatorBlock(nn.Module):
    """[Norm, ReLU], conv 3x3, norm, ReLU, conv 3x3, [2x2 average], plus a skip: (N, I, H, W) -> (N, O, H', W').

    The width between the convolutions is O if `wide` (SA-GAN, BigGAN), else I (SN-GAN). The first block of a network has no
    preactivation, and is always wide. The skip is the identity unless the width or the size changes.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool, first: bool, wide: bool, layers: LayerFactory) -> None:
        super().__init__()
        hidden = outputs if wide or first else inputs
        self.norm_1 = None if first else layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, hidden)
        self.norm_2 = layers.norm(hidden)
        self.conv_2 = layers.conv(hidden, outputs, resample="down" if down else "none")
        self.skip = layers.conv(inputs, outputs, 1) if down or inputs != outputs else nn.Identity()
        self.resize = average if down else unchanged

    def forward(self, x: Tensor, condition_NE: Tensor | None) -> Tensor:
        h = x if self.norm_1 is None else F.relu(self.norm_1(x, condition_NE))  # (N, I, H, W)
        h = self.conv_1(h)  # (N, hidden, H, W)
        h = F.relu(self.norm_2(h, condition_NE))  # (N, hidden, H, W)
        h = self.conv_2(h)  # (N, O, H', W')
        return h + self.skip(self.resize(x))  # (N, O, H', W')


class DeepGeneratorBlock(nn.Module):
    """A bottleneck of a quarter of the inputs: four times norm, ReLU, convolution (1x1, 3x3, 3x3, 1x1; the first 3x3 after
    upsampling if `up`), plus a skip that keeps the first O channels: (N, I, H, W) -> (N, O, H', W'), O at most I."""

    def __init__(self, inputs: int, outputs: int, *, up: bool, layers: LayerFactory) -> None:
        super().__init__()
        hidden = inputs // 4
        self.outputs = outputs
        self.norm_1 = layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, hidden, 1)
        self.norm_2 = layers.norm(hidden)
        self.conv_2 = layers.conv(hidden, hidden, resample="up" if up else "none")
        self.norm_3 = layers.norm(hidden)
        self.conv_3 = layers.conv(hidden, hidden)
        self.norm_4 = layers.norm(hidden)
        self.conv_4 = layers.conv(hidden, outputs, 1)
        self.resize = layers.upsample if up else unchanged

    def forward(self, x: Tensor, condition_NE: Tensor) -> Tensor:
        h = self.conv_1(F.relu(self.norm_1(x, condition_NE)))  # (N, I/4, H, W)
        h = self.conv_2(F.relu(self.norm_2(h, condition_NE)))  # (N, I/4, H', W')
        h = self.conv_3(F.relu(self.norm_3(h, condition_NE)))  # (N, I/4, H', W')
        h = self.conv_4(F.relu(self.norm_4(h, condition_NE)))  # (N, O, H', W')
        return h + self.resize(x[:, : self.outputs])  # (N, O, H', W')


class DeepDiscriminatorBlock(nn.Module):
    """A bottleneck of a quarter of the outputs: (N, I, H, W) -> (N, O, H', W'), O at least I.

    Main path: norm, ReLU, conv 1x1, twice (norm, ReLU, conv 3x3), norm, ReLU, [2x2 average], conv 1x1. Skip: [2x2 average],
    then, where the width grows, x joined with a 1x1 convolution of x.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool, layers: LayerFactory) -> None:
        super().__init__()
        hidden = outputs // 4
        self.norm_1 = layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, hidden, 1)
        self.norm_2 = layers.norm(hidden)
        self.conv_2 = layers.conv(hidden, hidden)
        self.norm_3 = layers.norm(hidden)
        self.conv_3 = layers.conv(hidden, hidden)
        self.norm_4 = layers.norm(hidden)
        self.conv_4 = layers.conv(hidden, outputs, 1)
        self.added = layers.conv(inputs, outputs - inputs, 1) if outputs > inputs else None
        self.resize = average if down else unchanged

    def forward(self, x: Tensor, condition_NE: Tensor | None) -> Tensor:
        h = self.conv_1(F.relu(self.norm_1(x, condition_NE)))  # (N, O/4, H, W)
        h = self.conv_2(F.relu(self.norm_2(h, condition_NE)))  # (N, O/4, H, W)
        h = self.conv_3(F.relu(self.norm_3(h, condition_NE)))  # (N, O/4, H, W)
        h = self.conv_4(self.resize(F.relu(self.norm_4(h, condition_NE))))  # (N, O, H', W')
        x = self.resize(x)  # (N, I, H', W')
        if self.added is not None:
            x = torch.cat([x, self.added(x)], dim=1)  # (N, O, H', W')
        return h + x


def average(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def unchanged(x: Tensor) -> Tensor:
    return x
