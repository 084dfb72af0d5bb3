"""How weights start. BigGAN, section 3 and appendix C: orthogonal for every weight of two or more dimensions, biases zero.

Every draw comes from a generator that the caller gives, never from the global one.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Initializer = Callable[[Tensor, torch.Generator], None]

InitializerName = Literal["orthogonal", "normal", "glorot", "glorot-residual"]


def orthogonal(weight: Tensor, generator: torch.Generator) -> None:
    """Rows or columns orthonormal, the weight seen as (outputs, everything else) (Saxe et al. 2014)."""
    nn.init.orthogonal_(weight, generator=generator)


def normal(weight: Tensor, generator: torch.Generator) -> None:
    """N(0, 0.02), as DCGAN and the CIFAR-10 script of BigGAN-PyTorch."""
    nn.init.normal_(weight, std=0.02, generator=generator)


def glorot(weight: Tensor, generator: torch.Generator) -> None:
    """Uniform with variance 2 / (inputs + outputs) (Glorot & Bengio 2010), as SA-GAN (docs/papers/biggan.md, "SA-GAN")."""
    nn.init.xavier_uniform_(weight, generator=generator)


def glorot_residual(weight: Tensor, generator: torch.Generator) -> None:
    """Glorot with gain sqrt(2) for k x k kernels, 1 for the rest, as SN-GAN (docs/papers/biggan.md, "SN-GAN")."""
    spatial = weight.dim() == 4 and weight.shape[-1] > 1
    nn.init.xavier_uniform_(weight, gain=math.sqrt(2) if spatial else 1.0, generator=generator)


def normal_of(deviation: float) -> Initializer:
    """N(0, deviation)."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        """As it says; mutates the weight."""
        nn.init.normal_(weight, std=deviation, generator=generator)

    return draw


INITIALIZERS: dict[InitializerName, Initializer] = {
    "orthogonal": orthogonal,
    "normal": normal,
    "glorot": glorot,
    "glorot-residual": glorot_residual,
}


def initialize(module: nn.Module, initializer: Initializer, generator: torch.Generator) -> None:
    """Draw every weight of `module` anew, layer by layer in order of registration; mutates it.

    A layer that has something to draw says so with a method `initialize(initializer, generator)`.
    """
    for layer in module.modules():
        start = getattr(layer, "initialize", None)
        if start is not None:
            start(initializer, generator)
