"""Layers whose weight is divided by its largest singular value.

Source: Miyato et al. 2018 (spectral normalisation), as used in G and D by BigGAN, section 2; spec section 3, "SN".
A weight is seen as a matrix of shape (outputs, everything else). Each training forward makes one step of power iteration
from the kept left vector u, and no gradient passes through u and v. In evaluation the step is made but not kept,
so evaluation, sampling and analysis never move the vectors. This file is the one home of that rule.

Layers that resample do it inside the convolution, exactly: nearest upsampling followed by a 3x3 convolution is a transposed
4x4 convolution of stride 2, and a 3x3 convolution followed by 2x2 averaging is a 4x4 convolution of stride 2; both kernels
are the 3x3 kernel summed over a 2x2 box, and need 2.25 times fewer products.

Shapes: N batch, I input channels or features, O outputs, K classes, HW pixels.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.init import Initializer

Resampling = Literal["none", "up", "down"]


def power_iteration(weight_OM: Tensor, left_1O: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """One step of power iteration: unit vectors (u (1, O), v (1, M)) nearer to the leading singular pair of the matrix.

    Vectors shorter than `epsilon` are divided by `epsilon` instead of their length.
    """
    right_1M = F.normalize(left_1O @ weight_OM, eps=epsilon)
    left_1O = F.normalize(right_1M @ weight_OM.T, eps=epsilon)
    return left_1O, right_1M


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A region in which float32 stays float32; nothing to do, and no cost, where autocast is off."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class SpectralWeight(nn.Module):
    """A weight with its left singular vector; what the layers below share.

    Buffers: `left_vector` (1, O), float32, moved by each forward in training mode.
    """

    def __init__(self, *shape: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.register_buffer("left_vector", torch.empty(1, shape[0]))
        self.epsilon = epsilon

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the weight and the vector anew, zero the bias; mutates the layer."""
        initializer(self.weight, generator)
        with torch.no_grad():
            self.left_vector.normal_(generator=generator)
            if getattr(self, "bias", None) is not None:
                self.bias.zero_()

    def normalized_weight(self) -> Tensor:
        """weight / sigma, in float32 whatever the autocast state; in training mode keeps the new left vector."""
        with without_autocast(self.weight.device):
            weight_OM = self.weight.flatten(1)  # (O, I k k)
            with torch.no_grad():
                left_1O, right_1M = power_iteration(weight_OM, self.left_vector, self.epsilon)
                if self.training:
                    self.left_vector.copy_(left_1O)
            sigma = (left_1O @ weight_OM @ right_1M.T).squeeze()  # u W v', the gradient passes through W alone
            return self.weight / sigma


class SpectralLinear(SpectralWeight):
    """Linear layer (N, I) -> (N, O)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, epsilon: float) -> None:
        super().__init__(outputs, inputs, epsilon=epsilon)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.normalized_weight(), self.bias)  # (N, O)


class SpectralEmbedding(SpectralWeight):
    """Table of class vectors: (N,) int64 -> (N, E). The whole table is one matrix."""

    def __init__(self, classes: int, dimension: int, *, epsilon: float) -> None:
        super().__init__(classes, dimension, epsilon=epsilon)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.normalized_weight())  # (N, E)


class SpectralConv2d(SpectralWeight):
    """Convolution that keeps the size, doubles it ("up") or halves it ("down"): (N, I, H, W) -> (N, O, H', W').

    The parameter is always the plain k x k kernel; sigma is that of the plain kernel. "up" and "down" need k = 3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        resample: Resampling = "none",
        bias: bool = True,
        epsilon: float,
    ) -> None:
        super().__init__(outputs, inputs, kernel, kernel, epsilon=epsilon)
        assert resample == "none" or kernel == 3, "resampling is folded into 3x3 kernels only"
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normalized_weight()  # (O, I, k, k)
        if self.resample == "up":
            return F.conv_transpose2d(x, upsampling_kernel(weight), self.bias, stride=2, padding=1)  # (N, O, 2H, 2W)
        if self.resample == "down":
            return F.conv2d(x, downsampling_kernel(weight), self.bias, stride=2, padding=1)  # (N, O, H/2, W/2)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)  # (N, O, H, W)


def box_sum(kernel_OI33: Tensor) -> Tensor:
    """Full convolution of each 3x3 kernel with a 2x2 box of ones: (O, I, 3, 3) -> (O, I, 4, 4)."""
    rows = F.pad(kernel_OI33, (0, 0, 0, 1)) + F.pad(kernel_OI33, (0, 0, 1, 0))  # (O, I, 4, 3)
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))  # (O, I, 4, 4)


def upsampling_kernel(kernel_OI33: Tensor) -> Tensor:
    """Kernel (I, O, 4, 4) of the transposed convolution equal to nearest upsampling, then `kernel_OI33`, padding 1."""
    return box_sum(kernel_OI33.flip(2, 3)).transpose(0, 1)


def downsampling_kernel(kernel_OI33: Tensor) -> Tensor:
    """Kernel (O, I, 4, 4) of the stride-2 convolution equal to `kernel_OI33`, padding 1, then 2x2 averaging."""
    return box_sum(kernel_OI33) / 4
