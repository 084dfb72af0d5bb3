"""Residual blocks of BigGAN; spec sections 2 and 3. Nearest upsampling and 2x2 averaging commute with 1x1 convolutions,
so every skip works at the lower resolution; the 3x3 ones take the resampling in (see nn/spectral).

Shapes: N batch, I inputs, O outputs, E condition, HW pixels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.norm import ConditionalBatchNorm
from biggan.nn.spectral import SpectralConv2d


class GeneratorBlock(nn.Module):
    """cBN, ReLU, up, conv 3x3, cBN, ReLU, conv 3x3, plus a skip of up, conv 1x1: (N, I, H, W) -> (N, O, 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, norm_epsilon: float, epsilon: float) -> None:
        super().__init__()
        self.norm_1 = ConditionalBatchNorm(inputs, condition, epsilon=norm_epsilon, spectral_epsilon=epsilon)
        self.conv_1 = SpectralConv2d(inputs, outputs, 3, resample="up", epsilon=epsilon)
        self.norm_2 = ConditionalBatchNorm(outputs, condition, epsilon=norm_epsilon, spectral_epsilon=epsilon)
        self.conv_2 = SpectralConv2d(outputs, outputs, 3, epsilon=epsilon)
        self.skip = SpectralConv2d(inputs, outputs, 1, epsilon=epsilon)

    def forward(self, x: Tensor, condition_NE: Tensor) -> Tensor:
        h = F.relu(self.norm_1(x, condition_NE))  # (N, I, H, W)
        h = self.conv_1(h)  # (N, O, 2H, 2W)
        h = F.relu(self.norm_2(h, condition_NE))  # (N, O, 2H, 2W)
        h = self.conv_2(h)  # (N, O, 2H, 2W)
        return h + F.interpolate(self.skip(x), scale_factor=2, mode="nearest")  # (N, O, 2H, 2W)


class DiscriminatorBlock(nn.Module):
    """[ReLU], conv 3x3 (I -> O), ReLU, conv 3x3, [2x2 average], plus a skip: (N, I, H, W) -> (N, O, H', W').

    The hidden width is O ("wide", SA-GAN). The skip is the identity unless the width or the size changes.
    """

    def __init__(self, inputs: int, outputs: int, *, downsample: bool, preactivation: bool, epsilon: float) -> None:
        super().__init__()
        self.preactivation = preactivation
        self.downsample = downsample
        self.conv_1 = SpectralConv2d(inputs, outputs, 3, epsilon=epsilon)
        self.conv_2 = SpectralConv2d(outputs, outputs, 3, resample="down" if downsample else "none", epsilon=epsilon)
        changes = downsample or inputs != outputs
        self.skip = SpectralConv2d(inputs, outputs, 1, epsilon=epsilon) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.relu(x) if self.preactivation else x)  # (N, O, H, W)
        h = self.conv_2(F.relu(h))  # (N, O, H', W')
        if self.downsample:
            x = F.avg_pool2d(x, 2)  # (N, I, H', W')
        if self.skip is not None:
            x = self.skip(x)  # (N, O, H', W')
        return h + x
