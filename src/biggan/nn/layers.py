"""Linear maps, tables and convolutions whose weight passes through a rule (nn/spectral) before it is used.

Layers that resample do it inside the convolution, exactly: nearest upsampling followed by a k x k convolution is a
transposed convolution of stride 2 with a kernel of k + 1, and a k x k convolution followed by 2x2 averaging is a convolution
of stride 2 with such a kernel; both are the k x k kernel summed over a 2x2 box. With k = 3 that needs 2.25 times fewer
products. Bilinear upsampling weighs the border otherwise and is done as written.

Shapes: N batch, I input channels or features, O outputs, K classes, E embedding, HW pixels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.init import Initializer
from biggan.nn.spectral import WeightRule

Resampling = Literal["none", "up", "down"]
Interpolation = Literal["nearest", "bilinear"]


class Weighted(nn.Module):
    """A weight of shape (O, ...), its rule, and perhaps a bias (O,); what the layers below share."""

    def __init__(self, *shape: int, rule: WeightRule, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.rule = rule(shape[0])

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the weight and what its rule keeps anew, zero the bias; mutates the layer."""
        initializer(self.weight, generator)
        self.rule.start(self.weight, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def used_weight(self) -> Tensor:
        """The weight as the rule has it; in training mode spectral normalisation moves its vector."""
        return self.rule(self.weight)


class Linear(Weighted):
    """(N, I) -> (N, O)."""

    def __init__(self, inputs: int, outputs: int, *, rule: WeightRule, bias: bool = True) -> None:
        super().__init__(outputs, inputs, rule=rule, bias=bias)

    def forward(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.used_weight(), self.bias)  # (N, O)


class Embedding(Weighted):
    """Table of class vectors: (N,) int64 -> (N, E). For the rule the whole table is one matrix."""

    def __init__(self, classes: int, dimension: int, *, rule: WeightRule) -> None:
        super().__init__(classes, dimension, rule=rule)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.used_weight())  # (N, E)


class Conv2d(Weighted):
    """Convolution that keeps the size, doubles it ("up") or halves it ("down"): (N, I, H, W) -> (N, O, H', W').

    The parameter is always the plain k x k kernel, k odd, and so is what the rule sees. `dilation` spreads its taps.
    `interpolation` is how "up" enlarges. `kept` computes the first so many of the O outputs only; None: all.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        rule: WeightRule,
        resample: Resampling = "none",
        dilation: int = 1,
        interpolation: Interpolation = "nearest",
        kept: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(outputs, inputs, kernel, kernel, rule=rule, bias=bias)
        self.dilation = dilation if kernel > 1 else 1
        self.padding = self.dilation * (kernel - 1) // 2
        self.kept = kept
        self.resample = resample
        self.interpolation = interpolation
        self.convolve = {
            "none": self.convolve_alone,
            "up": self.convolve_upsampled if interpolation == "nearest" else self.convolve_interpolated,
            "down": self.convolve_downsampled,
        }[resample]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.used_weight()[: self.kept]  # (O, I, k, k)
        bias = None if self.bias is None else self.bias[: self.kept]
        return self.convolve(x, weight, bias)

    def convolve_alone(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=self.padding, dilation=self.dilation)  # (N, O, H, W)

    def convolve_interpolated(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.convolve_alone(upsample(x, "bilinear"), weight, bias)  # (N, O, 2H, 2W)

    def convolve_upsampled(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel = upsampling_kernel(spread(weight, self.dilation))  # (I, O, k + 1, k + 1)
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=self.padding)  # (N, O, 2H, 2W)

    def convolve_downsampled(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel = downsampling_kernel(spread(weight, self.dilation))  # (O, I, k + 1, k + 1)
        return F.conv2d(x, kernel, bias, stride=2, padding=self.padding)  # (N, O, H/2, W/2)


def upsample(x: Tensor, interpolation: Interpolation) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode=interpolation)


def spread(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """A dilated kernel written out with its zeros: (O, I, k, k) -> (O, I, d (k - 1) + 1, d (k - 1) + 1)."""
    if dilation == 1:
        return kernel_OIkk
    size = dilation * (kernel_OIkk.shape[-1] - 1) + 1
    wide = kernel_OIkk.new_zeros(*kernel_OIkk.shape[:2], size, size)
    wide[:, :, ::dilation, ::dilation] = kernel_OIkk
    return wide


def box_sum(kernel_OIkk: Tensor) -> Tensor:
    """Full convolution of each k x k kernel with a 2x2 box of ones: (O, I, k, k) -> (O, I, k + 1, k + 1)."""
    rows = F.pad(kernel_OIkk, (0, 0, 0, 1)) + F.pad(kernel_OIkk, (0, 0, 1, 0))  # (O, I, k + 1, k)
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))  # (O, I, k + 1, k + 1)


def upsampling_kernel(kernel_OIkk: Tensor) -> Tensor:
    """Kernel (I, O, k + 1, k + 1) of the transposed convolution equal to nearest upsampling, then `kernel_OIkk`."""
    return box_sum(kernel_OIkk.flip(2, 3)).transpose(0, 1)


def downsampling_kernel(kernel_OIkk: Tensor) -> Tensor:
    """Kernel (O, I, k + 1, k + 1) of the stride-2 convolution equal to `kernel_OIkk`, then 2x2 averaging."""
    return box_sum(kernel_OIkk) / 4
