"""Layers whose weight is a direction per output, times a length that is found from data before the first step.

Source: Salimans & Kingma 2016 (weight normalization, data-dependent start), as the networks of Salimans et al. 2016 use it;
docs/papers/improved_gan.md, "Network and training tables". Of convolutions the weight is divided by its length, of rows the
outputs are, which is the same: each time what has fewer numbers. nn/spectral.WeightNorm is the other form, a rule for the
layers of BigGAN.

Shapes: N batch, I inputs, O outputs, HW pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer
from biggan.nn.layers import ReparametrizedLayer, transposed
from biggan.nn.reparametrization import Identity

EPSILON = 1e-6  # added to the squared length

Map = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # inputs, weight (O, I, ...), bias (O,) or none -> outputs


class WeightNormLayer(ReparametrizedLayer):
    """y = map(x, scale * weight / ||weight||) + bias, a scale and a bias per output.

    `init_std`: in the pass inside `data_dependent_init` the layer takes the scale and the bias that give its outputs
    mean 0 and this deviation; None: that pass leaves them at 1 and 0. The scale learns only if it is `learnable_scale`.
    """

    def __init__(self, apply: Map, *shape: int, init_std: float | None = 1.0, learnable_scale: bool = False) -> None:
        super().__init__(*shape, reparametrization=Identity, bias=True)
        self.apply_map, self.init_std, self.initializing = apply, init_std, False
        if learnable_scale:
            self.scale = nn.Parameter(torch.empty(shape[0]))
        else:
            self.register_buffer("scale", torch.empty(shape[0]))

    @torch.no_grad()
    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the weight anew, scale 1, bias 0; mutates the layer."""
        super().initialize(initializer, generator)
        self.scale.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.initializing and self.init_std is not None:
            self.start(self.apply_map(x, self.normed_weight(), None))
        return self.apply_map(x, self.normed_weight(), self.bias)  # (N, O) or (N, O, H', W')

    def normed_weight(self) -> Tensor:
        """(O, ...), each output's part of the length of its scale."""
        factor_O = self.scale * (self.weight.flatten(1).square().sum(1) + EPSILON).rsqrt()
        return self.weight * factor_O.view(-1, *[1] * (self.weight.dim() - 1))

    @torch.no_grad()
    def start(self, y: Tensor) -> None:
        """From outputs with the scale as it is and without bias; mutates scale and bias."""
        dims = [0, *range(2, y.dim())]
        mean_O = y.float().mean(dims)
        std_O = y.float().var(dims, unbiased=False).sqrt().clamp(min=EPSILON)
        self.scale.mul_(self.init_std / std_O)
        self.bias.copy_(-mean_O * self.init_std / std_O)


class WeightNormLinear(WeightNormLayer):
    """The same for rows, (N, I) -> (N, O), and faster: what depends on the weight alone (its copy in the type of the
    products, and the factors) is made once for all passes until the weight changes, and the two parts of the weight's
    gradient are written in one pass over it."""

    def __init__(self, inputs: int, outputs: int, **options: object) -> None:
        super().__init__(F.linear, outputs, inputs, **options)
        self.made_for: tuple[int, torch.dtype, torch.device] | None = None
        self.made: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.initializing or torch.compiler.is_exporting():
            return super().forward(x)
        dtype = product_type(x)
        version = (self.weight._version, dtype, self.weight.device)
        if self.made_for != version:
            self.made_for, self.made = version, prepared(self.weight, dtype)
        return WeightNormProduct.apply(x, self.weight, self.scale, self.bias, *self.made)  # (N, O)


def product_type(x: Tensor) -> torch.dtype:
    """In which type products of x are computed: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype


@torch.no_grad()
def prepared(weight_OI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight as it is multiplied, and 1 / its length, (O,) float32."""
    return weight_OI.to(dtype), (torch.linalg.vector_norm(weight_OI, dim=1).square() + EPSILON).rsqrt()


class WeightNormProduct(torch.autograd.Function):
    """scale x W' / ||W|| + bias, from W in the type of the products and 1 / ||W||."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, used: Tensor, inverse: Tensor) -> Tensor:
        y = F.linear(x.to(used.dtype), used)  # (N, O)
        ctx.save_for_backward(x, weight, scale, used, inverse, y)
        return torch.addcmul(bias.to(used.dtype), y, (scale * inverse).to(used.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, used, inverse, y = ctx.saved_tensors
        needs_x, needs_weight, needs_scale, needs_bias = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # a second derivative is wanted: the same by operations that have one
            y = F.linear(x.to(used.dtype), weight.to(used.dtype))
            inverse = (weight.square().sum(1) + EPSILON).rsqrt()
        inward = gradient * (scale * inverse).to(gradient.dtype)  # (N, O), at x W'
        by_x = (inward @ used if inverse.grad_fn is None else inward @ weight.to(used.dtype)) if needs_x else None
        by_weight = by_scale = None
        if needs_weight or needs_scale:
            by_factor_O = (gradient * y).sum(0, dtype=torch.float32)
            # d(1 / ||w||) / dw = -w / ||w||^3
            by_length_O = -by_factor_O * scale * inverse**3
            by_weight = torch.addcmul((inward.T @ x.to(used.dtype)).to(weight.dtype), weight, by_length_O[:, None])
            by_scale = by_factor_O * inverse if needs_scale else None
        by_bias = gradient.sum(0, dtype=torch.float32) if needs_bias else None
        return by_x, by_weight, by_scale, by_bias, None, None


def linear(inputs: int, outputs: int, **options: object) -> WeightNormLinear:
    """(N, I) -> (N, O)."""
    return WeightNormLinear(inputs, outputs, **options)


def conv2d(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, **options: object
) -> WeightNormLayer:
    """(N, I, H, W) -> (N, O, H', W')."""
    return WeightNormLayer(partial(F.conv2d, stride=stride, padding=padding), outputs, inputs, kernel, kernel, **options)


def conv_transpose2d(inputs: int, outputs: int, kernel: int, **options: object) -> WeightNormLayer:
    """Transposed convolution: (N, I, H, W) -> (N, O, 2H, 2W)."""
    return WeightNormLayer(transposed, outputs, inputs, kernel, kernel, **options)


@contextmanager
def data_dependent_init(network: nn.Module) -> Iterator[None]:
    """Around the one pass, before the first step, in which layers take what they need from the images (or latents) at hand:
    those here, and any other with a `initializing` flag. Mutates them."""
    layers = [layer for layer in network.modules() if hasattr(layer, "initializing")]
    for layer in layers:
        layer.initializing = True
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.initializing = False


def needs_data_dependent_init(network: nn.Module) -> bool:
    """Whether the network has layers that want that pass."""
    return any(hasattr(layer, "initializing") for layer in network.modules())
