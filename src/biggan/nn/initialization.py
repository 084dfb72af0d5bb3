"""Weight initialization. BigGAN, section 3 and appendix C: orthogonal for every weight with two or more dimensions, zero for
biases.

All random numbers come from a torch.Generator that the caller passes, never from torch's global one.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Initializer = Callable[[Tensor, torch.Generator], None]  # overwrites the tensor with random numbers

InitializerName = Literal["orthogonal", "normal", "glorot", "glorot-residual"]


def orthogonal(weight: Tensor, rng: torch.Generator) -> None:
    """Orthonormal rows or columns of the weight viewed as a matrix (outputs, everything else) (Saxe et al. 2014)."""
    nn.init.orthogonal_(weight, generator=rng)


def normal(weight: Tensor, rng: torch.Generator) -> None:
    """Normal with mean 0 and standard deviation 0.02, as in DCGAN and the CIFAR-10 script of BigGAN-PyTorch."""
    nn.init.normal_(weight, std=0.02, generator=rng)


def glorot(weight: Tensor, rng: torch.Generator) -> None:
    """Uniform with variance 2 / (fan in + fan out) (Glorot & Bengio 2010), as SA-GAN (docs/papers/biggan.md, "SA-GAN")."""
    nn.init.xavier_uniform_(weight, generator=rng)


def glorot_residual(weight: Tensor, rng: torch.Generator) -> None:
    """Glorot with gain sqrt(2) for kernels larger than 1x1 and gain 1 for all other weights, as in SN-GAN
    (docs/papers/biggan.md, "SN-GAN")."""
    spatial = weight.dim() == 4 and weight.shape[-1] > 1
    nn.init.xavier_uniform_(weight, gain=math.sqrt(2) if spatial else 1.0, generator=rng)


def normal_with_std(std: float) -> Initializer:
    """Initializer that draws from a normal distribution with mean 0 and this standard deviation."""

    def draw(weight: Tensor, rng: torch.Generator) -> None:
        nn.init.normal_(weight, std=std, generator=rng)

    return draw


INITIALIZERS: dict[InitializerName, Initializer] = {
    "orthogonal": orthogonal,
    "normal": normal,
    "glorot": glorot,
    "glorot-residual": glorot_residual,
}


def initialize(module: nn.Module, initializer: Initializer, rng: torch.Generator) -> None:
    """Initialize all weights of `module`, layer by layer in order of registration. Mutates the module.

    A layer with weights to initialize defines a method `initialize(initializer, rng)`; other layers are left alone.
    """
    for layer in module.modules():
        initialize_layer = getattr(layer, "initialize", None)
        if initialize_layer is not None:
            initialize_layer(initializer, rng)
