"""Residual blocks of BigGAN and BigGAN-deep (appendix B; docs/papers/biggan.md, "Generator" and "Discriminator").

Upsampling (nearest or bilinear) and 2x2 average pooling commute with 1x1 convolutions, so every skip connection is computed
at the lower resolution; in the main path resampling is merged into the 3x3 convolutions (nn/layers). Blocks build their
layers through a `LayerFactory`, so that kernel sizes, norms and reparametrizations are chosen in one place,
models/layer_factory.

Shapes: N batch, I inputs, O outputs, E condition, K classes, H W pixels; H' W' are H W, doubled or halved by resampling.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.batch_norm import Affine, gains_and_biases

Affines = Sequence[Affine | None]  # of the norms of a block, None for those that are not conditional


NORM_NAMES = ("norm_1", "norm_2", "norm_3", "norm_4")
"""Attributes of a block that hold its norms, in their order; a block may have fewer."""


class LayerFactory(NamedTuple):
    """Functions that build the layers of a network according to its config."""

    linear: Callable[..., nn.Module]
    """(inputs, outputs, bias=True) -> linear layer (N, I) -> (N, O)."""
    embedding: Callable[[int, int], nn.Module]
    """(classes, dimension) -> class embedding (N,) int64 -> (N, E)."""
    conv: Callable[..., nn.Module]
    """(inputs, outputs, kernel, resample="none", bias=True) -> convolution (N, I, H, W) -> (N, O, H', W'). `kernel`
    defaults to the kernel size in the network's config."""
    norm: Callable[[int], nn.Module]
    """channels -> norm: x (N, C, H, W), gain and bias (N, C) or None -> (N, C, H, W)."""
    upsample: Callable[[Tensor], Tensor]
    """(N, C, H, W) -> (N, C, 2H, 2W), with the interpolation of the network's config."""


def affines_of_blocks(blocks: Iterable[nn.Module], conditions: Iterable[Tensor | None]) -> list[Affines]:
    """Gains and biases of the norms of each block, for the condition (N, E) of each block (None: its norms take none). Those
    of blocks with the same condition are computed together."""
    blocks, conditions = list(blocks), list(conditions)
    norms = [[getattr(block, name, None) for name in NORM_NAMES] for block in blocks]
    affines: list[Affines] = [[None] * len(NORM_NAMES) for _ in blocks]
    for condition in {id(condition): condition for condition in conditions if condition is not None}.values():
        members = [index for index, other in enumerate(conditions) if other is condition]
        values = gains_and_biases([norm for index in members for norm in norms[index]], condition)
        for number, index in enumerate(members):
            affines[index] = values[number * len(NORM_NAMES) : (number + 1) * len(NORM_NAMES)]
    return affines


class GeneratorBlock(nn.Module):
    """Generator block of BigGAN: (N, I, H, W) -> (N, O, 2H, 2W), or (N, O, H, W) without `up`.

    Main path: norm, ReLU, [upsample], conv 3x3, norm, ReLU, conv 3x3. Skip: the identity if neither width nor size changes,
    else [upsample], conv 1x1.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool, layers: LayerFactory) -> None:
        super().__init__()
        self.norm_1 = layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, outputs, resample="up" if up else "none")
        self.norm_2 = layers.norm(outputs)
        self.conv_2 = layers.conv(outputs, outputs)
        self.skip = layers.conv(inputs, outputs, 1) if up or inputs != outputs else nn.Identity()
        self.resize = layers.upsample if up else identity

    def forward(self, x: Tensor, affines: Affines) -> Tensor:
        """x (N, I, H, W) and the gains and biases of its norms -> (N, O, H', W')."""
        h = F.relu(self.norm_1(x, affines[0]))  # (N, I, H, W)
        h = self.conv_1(h)  # (N, O, 2H, 2W)
        h = F.relu(self.norm_2(h, affines[1]))  # (N, O, 2H, 2W)
        h = self.conv_2(h)  # (N, O, 2H, 2W)
        return h + self.resize(self.skip(x))  # (N, O, 2H, 2W)


class DiscriminatorBlock(nn.Module):
    """Discriminator block of BigGAN: (N, I, H, W) -> (N, O, H/2, W/2), or (N, O, H, W) without `down`.

    Main path: [norm, ReLU], conv 3x3, norm, ReLU, conv 3x3, [2x2 average]. Skip: the identity if neither width nor size
    changes, else [2x2 average], conv 1x1. The width between the convolutions is O if `wide` (SA-GAN, BigGAN), else I
    (SN-GAN). The first block of a network (`first`) has no preactivation and is always wide.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool, first: bool, wide: bool, layers: LayerFactory) -> None:
        super().__init__()
        hidden = outputs if wide or first else inputs
        self.norm_1 = None if first else layers.norm(inputs)
        self.conv_1 = layers.conv(inputs, hidden)
        self.norm_2 = layers.norm(hidden)
        self.conv_2 = layers.conv(hidden, outputs, resample="down" if down else "none")
        self.skip = layers.conv(inputs, outputs, 1) if down or inputs != outputs else nn.Identity()
        self.resize = average_pool if down else identity

    def forward(self, x: Tensor, affines: Affines) -> Tensor:
        """x (N, I, H, W) and the gains and biases of its norms -> (N, O, H', W')."""
        h = x if self.norm_1 is None else F.relu(self.norm_1(x, affines[0]))  # (N, I, H, W)
        h = self.conv_1(h)  # (N, hidden, H, W)
        h = F.relu(self.norm_2(h, affines[1]))  # (N, hidden, H, W)
        h = self.conv_2(h)  # (N, O, H', W')
        return h + self.skip(self.resize(x))  # (N, O, H', W')


class DeepGeneratorBlock(nn.Module):
    """Generator block of BigGAN-deep, a bottleneck of width I/4: (N, I, H, W) -> (N, O, 2H, 2W), or (N, O, H, W) without
    `up`; O at most I.

    Main path: four times norm, ReLU, convolution (1x1, 3x3, 3x3, 1x1), upsampled before the first 3x3 if `up`. Skip: the
    first O channels, upsampled if `up`.
    """

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
        self.resize = layers.upsample if up else identity

    def forward(self, x: Tensor, affines: Affines) -> Tensor:
        """x (N, I, H, W) and the gains and biases of its norms -> (N, O, H', W')."""
        h = self.conv_1(F.relu(self.norm_1(x, affines[0])))  # (N, I/4, H, W)
        h = self.conv_2(F.relu(self.norm_2(h, affines[1])))  # (N, I/4, H', W')
        h = self.conv_3(F.relu(self.norm_3(h, affines[2])))  # (N, I/4, H', W')
        h = self.conv_4(F.relu(self.norm_4(h, affines[3])))  # (N, O, H', W')
        return h + self.resize(x[:, : self.outputs])  # (N, O, H', W')


class DeepDiscriminatorBlock(nn.Module):
    """Discriminator block of BigGAN-deep, a bottleneck of width O/4: (N, I, H, W) -> (N, O, H/2, W/2), or (N, O, H, W)
    without `down`; O at least I.

    Main path: norm, ReLU, conv 1x1, twice (norm, ReLU, conv 3x3), norm, ReLU, [2x2 average], conv 1x1. Skip: [2x2 average],
    then, if O > I, concatenation with O - I channels that a 1x1 convolution computes from it.
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
        self.resize = average_pool if down else identity

    def forward(self, x: Tensor, affines: Affines) -> Tensor:
        """x (N, I, H, W) and the gains and biases of its norms -> (N, O, H', W')."""
        h = self.conv_1(F.relu(self.norm_1(x, affines[0])))  # (N, O/4, H, W)
        h = self.conv_2(F.relu(self.norm_2(h, affines[1])))  # (N, O/4, H, W)
        h = self.conv_3(F.relu(self.norm_3(h, affines[2])))  # (N, O/4, H, W)
        h = self.conv_4(self.resize(F.relu(self.norm_4(h, affines[3]))))  # (N, O, H', W')
        x = self.resize(x)  # (N, I, H', W')
        if self.added is not None:
            x = torch.cat([x, self.added(x)], dim=1)  # (N, O, H', W')
        return h + x


def average_pool(x: Tensor) -> Tensor:
    """2x2 average pooling: (N, C, H, W) -> (N, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def identity(x: Tensor) -> Tensor:
    """No resampling: (N, C, H, W) -> (N, C, H, W)."""
    return x


RESIDUAL_BLOCKS = (GeneratorBlock, DiscriminatorBlock, DeepGeneratorBlock, DeepDiscriminatorBlock)
"""All of them, which are traced by torch.compile without a break."""
