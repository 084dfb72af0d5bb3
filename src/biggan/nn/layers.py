"""Linear maps, tables and convolutions whose weight is reparametrized before it is used.

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

from biggan.nn.initialization import Initializer
from biggan.nn.reparametrization import Reparametrization

Resampling = Literal["none", "up", "down"]

Interpolation = Literal["nearest", "bilinear"]


class ReparametrizedLayer(nn.Module):
    """Base class: a weight (O, ...) with its reparametrization, and perhaps a bias (O,)."""

    def __init__(self, *shape: int, reparametrization: Reparametrization, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.reparametrization = reparametrization(shape[0])

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the weight and the state of its reparametrization, set the bias to 0; mutates the layer."""
        initializer(self.weight, generator)
        self.reparametrization.start(self.weight, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with; in training mode spectral normalization moves its vector."""
        return self.reparametrization(self.weight)


class Linear(ReparametrizedLayer):
    """(N, I) -> (N, O)."""

    def __init__(self, inputs: int, outputs: int, *, reparametrization: Reparametrization, bias: bool = True) -> None:
        super().__init__(outputs, inputs, reparametrization=reparametrization, bias=bias)

    def forward(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.effective_weight(), self.bias)  # (N, O)


class Embedding(ReparametrizedLayer):
    """Table of class vectors: (N,) int64 -> (N, E). Spectral normalization sees the whole table as one matrix."""

    def __init__(self, classes: int, dimension: int, *, reparametrization: Reparametrization) -> None:
        super().__init__(classes, dimension, reparametrization=reparametrization)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.effective_weight())  # (N, E)


class Conv2d(ReparametrizedLayer):
    """Convolution that keeps the size, doubles it ("up") or halves it ("down"): (N, I, H, W) -> (N, O, H', W').

    The parameter is always the plain k x k kernel, k odd, and so is what the reparametrization sees. `dilation` spreads its
    taps. `interpolation` is how "up" enlarges. `computed_outputs`: only the first so many of the O outputs are computed;
    None: all.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        reparametrization: Reparametrization,
        resample: Resampling = "none",
        dilation: int = 1,
        interpolation: Interpolation = "nearest",
        computed_outputs: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(outputs, inputs, kernel, kernel, reparametrization=reparametrization, bias=bias)
        self.dilation = dilation if kernel > 1 else 1
        self.padding = self.dilation * (kernel - 1) // 2
        self.computed_outputs = computed_outputs
        self.transform_kernel, self.convolve = {
            "none": (identity_kernel, convolve),
            "up": (upsampling_kernel, convolve_up)
            if interpolation == "nearest"
            else (identity_kernel, convolve_interpolated),
            "down": (downsampling_kernel, convolve_down),
        }[resample]

    def final_kernel(self) -> Tensor:
        """The kernel that is convolved with the image: reparametrized, cut to the outputs computed, resampling folded in."""
        return self.transform_kernel(self.effective_weight()[: self.computed_outputs], self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[: self.computed_outputs]
        return self.convolve(x, self.final_kernel(), bias, self.padding, self.dilation)  # (N, O, H', W')


class TransposedConv2d(ReparametrizedLayer):
    """Transposed convolution, k odd, that doubles the size: (N, I, H, W) -> (N, O, 2H, 2W). Its weight is (O, I, k, k)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, reparametrization: Reparametrization, bias: bool = True
    ) -> None:
        super().__init__(outputs, inputs, kernel, kernel, reparametrization=reparametrization, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return transposed(x, self.effective_weight(), self.bias)  # (N, O, 2H, 2W)


def transposed(x: Tensor, weight_OIkk: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution of stride 2, k odd: (N, I, H, W) -> (N, O, 2H, 2W)."""
    padding = weight_OIkk.shape[-1] // 2
    return F.conv_transpose2d(x, weight_OIkk.transpose(0, 1), bias, stride=2, padding=padding, output_padding=1)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """With a plain kernel: (N, I, H, W) -> (N, O, H, W)."""
    return F.conv2d(x, kernel, bias, padding=padding, dilation=dilation)


def convolve_interpolated(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """Bilinear upsampling, then a plain kernel: (N, I, H, W) -> (N, O, 2H, 2W)."""
    return convolve(upsample(x, "bilinear"), kernel, bias, padding, dilation)


def convolve_up(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """With an upsampling kernel, its dilation written out: (N, I, H, W) -> (N, O, 2H, 2W)."""
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=padding)


def convolve_down(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """With a downsampling kernel, its dilation written out: (N, I, H, W) -> (N, O, H/2, W/2)."""
    return F.conv2d(x, kernel, bias, stride=2, padding=padding)


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


def identity_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """The kernel of a convolution that does not resample."""
    return kernel_OIkk


def upsampling_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """Kernel (I, O, k + 1, k + 1) of the transposed convolution equal to nearest upsampling, then `kernel_OIkk`; k counts
    the zeros of the dilation."""
    return box_sum(spread(kernel_OIkk, dilation).flip(2, 3)).transpose(0, 1)


def downsampling_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """Kernel (O, I, k + 1, k + 1) of the stride-2 convolution equal to `kernel_OIkk`, then 2x2 averaging; k likewise."""
    return box_sum(spread(kernel_OIkk, dilation)) / 4
