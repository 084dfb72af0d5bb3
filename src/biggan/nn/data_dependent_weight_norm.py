"""Weight-normalized layers with data-dependent initialization: a direction and a scale per output, where scale and bias are
set from a first batch of data before training.

Source: Salimans & Kingma 2016 (weight normalization, data-dependent initialization), as the networks of Salimans et al. 2016
use it; docs/papers/improved_gan.md, "Network and training tables". nn/reparametrization.WeightNorm is weight normalization
for the residual networks of BigGAN, without data-dependent initialization.

Shapes: N batch, I inputs, O outputs, H W pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import is_autocast_enabled
from biggan.nn.initialization import Initializer
from biggan.nn.layers import ReparametrizedLayer, transposed_conv2d
from biggan.nn.reparametrization import Identity

EPSILON = 1e-6  # added to the squared norm of a weight

LinearOperator = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # inputs, weight (O, I, ...), bias (O,) -> outputs


class WeightNormLayer(ReparametrizedLayer):
    """y = operator(x, scale * weight / ||weight||) + bias, with one norm, scale and bias per output.

    `operator`: a linear map such as torch.nn.functional.conv2d. `init_std`: during the forward pass inside
    `data_dependent_init` the layer sets scale and bias such that its outputs have mean 0 and this standard deviation;
    None: scale and bias stay at 1 and 0. `learnable_scale`: the scale is a parameter, otherwise a buffer.
    """

    def __init__(
        self, operator: LinearOperator, *shape: int, init_std: float | None = 1.0, learnable_scale: bool = False
    ) -> None:
        super().__init__(*shape, reparametrization=Identity, bias=True)
        self.operator, self.init_std, self.initializing = operator, init_std, False
        if learnable_scale:
            self.scale = nn.Parameter(torch.empty(shape[0]))
        else:
            self.register_buffer("scale", torch.empty(shape[0]))

    @torch.no_grad()
    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Draw the weight; set the scale to 1 and the bias to 0. Mutates the layer."""
        super().initialize(initializer, rng)
        self.scale.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.initializing and self.init_std is not None:
            self.initialize_from_data(self.operator(x, self.normalized_weight(), None))
        return self.operator(x, self.normalized_weight(), self.bias)  # (N, O) or (N, O, H', W')

    def normalized_weight(self) -> Tensor:
        """scale * weight / ||weight||, (O, ...)."""
        factor_O = self.scale * (self.weight.flatten(1).square().sum(1) + EPSILON).rsqrt()
        return self.weight * factor_O.view(-1, *[1] * (self.weight.dim() - 1))

    @torch.no_grad()
    def initialize_from_data(self, y: Tensor) -> None:
        """Set scale and bias such that the outputs have mean 0 and standard deviation `init_std`. `y` (N, O) or
        (N, O, H', W'): the outputs with the present scale and without bias. Mutates the layer."""
        dims = [0, *range(2, y.dim())]
        mean_O = y.float().mean(dims)
        std_O = y.float().var(dims, unbiased=False).sqrt().clamp(min=EPSILON)
        self.scale.mul_(self.init_std / std_O)
        self.bias.copy_(-mean_O * self.init_std / std_O)


class WeightNormLinear(WeightNormLayer):
    """Weight-normalized linear layer, (N, I) -> (N, O), optimized for speed: outputs are scaled instead of the weight, which
    has more elements. The low-precision copy of the weight and its inverse norms are cached until the weight changes, and
    both terms of the weight's gradient are computed in one pass over it."""

    def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
        super().__init__(F.linear, outputs, inputs, **options)
        self.cache_key: tuple[int, torch.dtype, torch.device] | None = None
        self.cached: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.initializing or torch.compiler.is_exporting():
            return super().forward(x)
        dtype = matmul_dtype(x)
        key = (self.weight._version, dtype, self.weight.device)
        if self.cache_key != key:
            self.cache_key, self.cached = key, cast_and_inverse_norm(self.weight, dtype)
        return WeightNormLinearFunction.apply(x, self.weight, self.scale, self.bias, *self.cached)  # (N, O)


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The type in which matrix products with x are computed: that of autocast where it is on, else that of x."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast_enabled(x.device) else x.dtype


@torch.no_grad()
def cast_and_inverse_norm(weight_OI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight (O, I) in `dtype`, and 1 / ||weight|| per output, (O,) float32."""
    return weight_OI.to(dtype), (torch.linalg.vector_norm(weight_OI, dim=1).square() + EPSILON).rsqrt()


class WeightNormLinearFunction(torch.autograd.Function):
    """scale * (x W') / ||W|| + bias, given W both as the parameter and cast to the type of the product, and 1 / ||W||."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, cast_weight: Tensor, inverse_norm: Tensor
    ) -> Tensor:
        dtype = cast_weight.dtype
        y = F.linear(x.to(dtype), cast_weight)  # (N, O)
        ctx.save_for_backward(x, weight, scale, cast_weight, inverse_norm, y)
        return torch.addcmul(bias.to(dtype), y, (scale * inverse_norm).to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, scale and bias; None for those not needed, and for the two cached tensors."""
        x, weight, scale, cast_weight, inverse_norm, y = ctx.saved_tensors
        dtype = cast_weight.dtype
        needs_x, needs_weight, needs_scale, needs_bias = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # for second derivatives, recompute with differentiable operations what was cached
            y = F.linear(x.to(dtype), weight.to(dtype))
            inverse_norm = (weight.square().sum(1) + EPSILON).rsqrt()
            cast_weight = weight.to(dtype)
        grad_y = grad * (scale * inverse_norm).to(grad.dtype)  # (N, O), with respect to y = x W'
        grad_x = grad_y @ cast_weight if needs_x else None
        grad_weight = grad_scale = None
        if needs_weight or needs_scale:
            grad_factor_O = (grad * y).sum(0, dtype=torch.float32)  # with respect to scale / ||W||
            # d(1 / ||w||) / dw = -w / ||w||^3
            grad_norm_O = -grad_factor_O * scale * inverse_norm**3
            grad_weight = torch.addcmul((grad_y.T @ x.to(dtype)).to(weight.dtype), weight, grad_norm_O[:, None])
            grad_scale = grad_factor_O * inverse_norm if needs_scale else None
        grad_bias = grad.sum(0, dtype=torch.float32) if needs_bias else None
        return grad_x, grad_weight, grad_scale, grad_bias, None, None


def linear(inputs: int, outputs: int, **options: Any) -> WeightNormLinear:
    """Weight-normalized linear layer: (N, I) -> (N, O)."""
    return WeightNormLinear(inputs, outputs, **options)


def conv2d(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, **options: Any) -> WeightNormLayer:
    """Weight-normalized convolution: (N, I, H, W) -> (N, O, H', W')."""
    return WeightNormLayer(partial(F.conv2d, stride=stride, padding=padding), outputs, inputs, kernel, kernel, **options)


def conv_transpose2d(inputs: int, outputs: int, kernel: int, **options: Any) -> WeightNormLayer:
    """Weight-normalized transposed convolution of stride 2: (N, I, H, W) -> (N, O, 2H, 2W)."""
    return WeightNormLayer(transposed_conv2d, outputs, inputs, kernel, kernel, **options)


@contextmanager
def data_dependent_init(network: nn.Module) -> Iterator[None]:
    """Context for one forward pass, without gradients, in which layers initialize scale and bias from the images (or
    latents) of the pass: all layers with an `initializing` flag, those of this file and minibatch discrimination. Mutates
    them."""
    layers: list[Any] = [layer for layer in network.modules() if hasattr(layer, "initializing")]
    for layer in layers:
        layer.initializing = True
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.initializing = False


def needs_data_dependent_init(network: nn.Module) -> bool:
    """Whether the network has layers that are initialized from data."""
    return any(hasattr(layer, "initializing") for layer in network.modules())
