"""Linear, embedding and convolution layers whose weight passes through a reparametrization (nn/reparametrization,
nn/spectral_norm) in each forward pass.

Convolutions that resample do so exactly, within one convolution. Nearest-neighbor upsampling followed by a k x k convolution
equals a transposed convolution of stride 2 with a kernel of size k + 1; a k x k convolution followed by 2x2 average pooling
equals a convolution of stride 2 with a kernel of size k + 1. Both kernels are the k x k kernel summed over a 2x2 box. With
k = 3 this needs 2.25 times fewer multiplications. Bilinear upsampling treats the image border differently and is therefore
computed as two operations.

Shapes: N batch, I input channels or features, O outputs, K classes, E embedding, H W pixels, k kernel size.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast
from biggan.nn.initialization import Initializer
from biggan.nn.reparametrization import Reparametrization

Resampling = Literal["none", "up", "down"]

Interpolation = Literal["nearest", "bilinear"]


class ReparametrizedLayer(nn.Module):
    """Base class: a weight parameter of the given shape (O, ...), its reparametrization, and a bias (O,) if `bias`.

    `prepared`, `prepared_bias`: what the layer applies as it is, where nn/prepared_weights has computed it for the coming
    passes, else None.
    `in_float32`: the layer computes in the type of its weight, also where autocast is on elsewhere.
    """

    prepared: Tensor | None = None
    prepared_bias: Tensor | None = None
    in_float32 = False

    def __init__(self, *shape: int, reparametrization: Reparametrization, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.reparametrization = reparametrization(shape[0])

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Draw the weight, then initialize the reparametrization from it; set the bias to zero. Mutates the layer."""
        initializer(self.weight, rng)
        self.reparametrization.initialize_from(self.weight, rng)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def effective_weight(self) -> Tensor:
        """The reparametrized weight (O, ...). With spectral normalization in training mode, each call updates u."""
        return self.reparametrization(self.weight)

    def applied_weight(self) -> Tensor:
        """The weight that the layer applies, (O, ...) before resampling is merged into it: prepared, or reparametrized
        now."""
        return self.effective_weight() if self.prepared is None else self.prepared

    def applied_bias(self) -> Tensor | None:
        """The bias that the layer adds, (O,), or None: prepared, or as it is."""
        return self.bias if self.prepared_bias is None else self.prepared_bias


class Linear(ReparametrizedLayer):
    """Linear layer: (N, I) -> (N, O)."""

    def __init__(self, inputs: int, outputs: int, *, reparametrization: Reparametrization, bias: bool = True) -> None:
        super().__init__(outputs, inputs, reparametrization=reparametrization, bias=bias)

    def forward(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.applied_weight(), self.applied_bias())  # (N, O)


class Embedding(ReparametrizedLayer):
    """Class embedding: (N,) int64 -> (N, E). The table (K, E) is reparametrized as one matrix."""

    in_float32 = True  # autocast leaves embeddings alone

    def __init__(self, classes: int, dimension: int, *, reparametrization: Reparametrization) -> None:
        super().__init__(classes, dimension, reparametrization=reparametrization)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.applied_weight())  # (N, E)


class Conv2d(ReparametrizedLayer):
    """Convolution that preserves the image size, doubles it (`resample="up"`) or halves it ("down"):
    (N, I, H, W) -> (N, O, H', W').

    The weight is always the k x k kernel, k odd, before resampling is merged into it. `dilation` applies to kernels larger
    than 1x1, `interpolation` to "up". If `computed_outputs` is given, only that many output channels, the first ones,
    are computed; the weight still has all O.
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
        up = (upsampling_kernel, convolve_up) if interpolation == "nearest" else (identity_kernel, upsample_and_convolve)
        self.transform_kernel, self.convolve = {
            "none": (identity_kernel, convolve),
            "up": up,
            "down": (downsampling_kernel, convolve_down),
        }[resample]

    @property
    def transposed(self) -> bool:
        """Whether the final kernel is one of a transposed convolution, (I, O, k + 1, k + 1)."""
        return self.convolve is convolve_up

    def final_kernel(self) -> Tensor:
        """The kernel applied to the image: reparametrized, cut to the computed outputs, resampling merged into it."""
        if self.prepared is not None:
            return self.prepared
        return self.transform_kernel(self.effective_weight()[: self.computed_outputs], self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.applied_bias()
        if bias is not None and self.computed_outputs is not None:
            bias = bias[: self.computed_outputs]
        return self.convolve(x, self.final_kernel(), bias, self.padding, self.dilation)  # (N, O, H', W')


class TransposedConv2d(ReparametrizedLayer):
    """Transposed convolution of stride 2, k odd: (N, I, H, W) -> (N, O, 2H, 2W). The weight is (O, I, k, k)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, reparametrization: Reparametrization, bias: bool = True
    ) -> None:
        super().__init__(outputs, inputs, kernel, kernel, reparametrization=reparametrization, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return transposed_conv2d(x, self.effective_weight(), self.bias)  # (N, O, 2H, 2W)


def transposed_conv2d(x: Tensor, weight_OIkk: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution of stride 2, k odd: (N, I, H, W) -> (N, O, 2H, 2W)."""
    padding = weight_OIkk.shape[-1] // 2
    return F.conv_transpose2d(x, weight_OIkk.transpose(0, 1), bias, stride=2, padding=padding, output_padding=1)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """Convolution of stride 1: (N, I, H, W) -> (N, O, H, W)."""
    return F.conv2d(x, kernel, bias, padding=padding, dilation=dilation)


def upsample_and_convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """Bilinear upsampling, then a convolution of stride 1: (N, I, H, W) -> (N, O, 2H, 2W)."""
    return convolve(upsample(x, "bilinear"), kernel, bias, padding, dilation)


def convolve_up(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """Transposed convolution with a kernel of `upsampling_kernel`, which contains the dilation:
    (N, I, H, W) -> (N, O, 2H, 2W)."""
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=padding)


def convolve_down(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    """Strided convolution with a kernel of `downsampling_kernel`, which contains the dilation:
    (N, I, H, W) -> (N, O, H/2, W/2)."""
    return F.conv2d(x, kernel, bias, stride=2, padding=padding)


def upsample(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Double height and width: (N, C, H, W) -> (N, C, 2H, 2W), in the type of x."""
    if interpolation == "nearest":
        return NearestUpsampling.apply(x)
    return F.interpolate(x, scale_factor=2, mode=interpolation).to(x.dtype)


class NearestUpsampling(torch.autograd.Function):
    """Each pixel as a 2x2 square: (N, C, H, W) -> (N, C, 2H, 2W). Under autocast on CUDA torch's own function gives float32,
    which then spreads through the residual stream, and compiled its gradient scatters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            return F.interpolate(x, scale_factor=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 4 * F.avg_pool2d(gradient, 2)  # the sum over each square


def dilate_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """The dense kernel equal to a dilated one, with zeros between the taps; d is the dilation:
    (O, I, k, k) -> (O, I, d (k - 1) + 1, d (k - 1) + 1)."""
    if dilation == 1:
        return kernel_OIkk
    size = dilation * (kernel_OIkk.shape[-1] - 1) + 1
    dilated = kernel_OIkk.new_zeros(*kernel_OIkk.shape[:2], size, size)
    dilated[:, :, ::dilation, ::dilation] = kernel_OIkk
    return dilated


def box_sum(kernel_OIkk: Tensor) -> Tensor:
    """Full convolution of each k x k kernel with a 2x2 box of ones: (O, I, k, k) -> (O, I, k + 1, k + 1)."""
    rows = F.pad(kernel_OIkk, (0, 0, 0, 1)) + F.pad(kernel_OIkk, (0, 0, 1, 0))  # (O, I, k + 1, k)
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))  # (O, I, k + 1, k + 1)


def identity_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """The kernel itself, for convolutions without merged resampling."""
    return kernel_OIkk


def upsampling_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """Kernel (I, O, d + 1, d + 1) of the transposed convolution of stride 2 that equals nearest-neighbor upsampling followed
    by a convolution with `kernel_OIkk`; d is the size of the dilated kernel."""
    return box_sum(dilate_kernel(kernel_OIkk, dilation).flip(2, 3)).transpose(0, 1)


def downsampling_kernel(kernel_OIkk: Tensor, dilation: int) -> Tensor:
    """Kernel (O, I, d + 1, d + 1) of the convolution of stride 2 that equals a convolution with `kernel_OIkk` followed by
    2x2 average pooling; d is the size of the dilated kernel."""
    return box_sum(dilate_kernel(kernel_OIkk, dilation)) / 4
