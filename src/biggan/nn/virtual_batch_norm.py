"""Virtual batch normalization: each example is normalized with the statistics of a fixed reference batch and of itself,
independently of the other examples in its batch.

Source: Salimans et al. 2016, section 3.5, in its exact form; docs/papers/improved_gan.md, "Virtual batch normalization" (the
published code at first pooled the statistics of the whole live batch). The reference batch is prepended to the live batch
and passes through the network with it, with gradients. DEVIATION from that code: gains start at 1 (AffineNorm), not at
N(1, 0.02).

Shapes: B reference examples, N live examples, C channels, H W pixels, Z latent, E class embedding.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class VirtualBatchNorm(nn.Module):
    """(B + N, C, H, W) -> (B + N, C, H, W), the same in training and evaluation. The first B examples are normalized with
    their own mean and variance, each live example with those of the B reference examples and itself, in which it has weight
    1 / (B + 1). Statistics are float32."""

    def __init__(self, reference_size: int, *, epsilon: float) -> None:
        super().__init__()
        self.reference_size, self.epsilon = reference_size, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """The reference batch and the live one, concatenated: (B + N, C, H, W) -> (B + N, C, H, W)."""
        batch, size = x.float(), self.reference_size  # the reference batch and then the live one
        reference_mean_1C = batch[:size].mean((0, 2, 3))[None]
        reference_variance_1C = batch[:size].var((0, 2, 3), unbiased=False)[None]
        live_mean_NC = batch[size:].mean((2, 3))
        live_variance_NC = batch[size:].var((2, 3), unbiased=False)
        w = 1 / (size + 1)
        mean_NC = w * live_mean_NC + (1 - w) * reference_mean_1C
        # E[x^2] - E[x]^2 in the form of a sum of squares, which has no catastrophic cancellation.
        variance_NC = w * (live_variance_NC + (live_mean_NC - mean_NC).square())
        variance_NC = variance_NC + (1 - w) * (reference_variance_1C + (reference_mean_1C - mean_NC).square())
        means = torch.cat([reference_mean_1C.expand(size, -1), mean_NC])  # (B + N, C)
        variances = torch.cat([reference_variance_1C.expand(size, -1), variance_NC])  # (B + N, C)
        scales = (variances + self.epsilon).rsqrt()
        return torch.addcmul(expand_pixels(-means * scales, x), x, expand_pixels(scales, x))  # (B + N, C, H, W)


def expand_pixels(values_NC: Tensor, x: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, 1), in the type of x."""
    return values_NC.to(x.dtype)[:, :, None, None]


class ReferenceBatch(nn.Module):
    """The reference batch of a generator: latents `z` (B, Z) and classes `y` (B,), buffers that are set once before
    training."""

    z: Tensor
    y: Tensor

    def __init__(self, size: int, z_dim: int) -> None:
        super().__init__()
        self.register_buffer("z", torch.zeros(size, z_dim))
        self.register_buffer("y", torch.zeros(size, dtype=torch.int64))

    def set(self, z_BZ: Tensor, y_B: Tensor) -> None:
        """Set latents and classes of the reference batch. Mutates the buffers."""
        self.z.copy_(z_BZ)
        self.y.copy_(y_B)

    def prepend_reference(self, z_NZ: Tensor, e_NE: Tensor, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Latents (B + N, Z) and class embeddings (B + N, E) of the reference batch followed by the live batch."""
        return torch.cat([self.z.to(z_NZ.dtype), z_NZ]), torch.cat([embed(self.y).to(e_NE.dtype), e_NE])

    def drop_reference(self, x: Tensor) -> Tensor:
        """The live batch alone: (B + N, ...) -> (N, ...)."""
        return x[len(self.z) :]


class NoReference(nn.Module):
    """The interface of ReferenceBatch for networks without virtual batch normalization: returns its inputs unchanged."""

    def prepend_reference(self, z_NZ: Tensor, e_NE: Tensor, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Latents (N, Z) and class embeddings (N, E), unchanged."""
        return z_NZ, e_NE

    def drop_reference(self, x: Tensor) -> Tensor:
        """x, unchanged."""
        return x


class VirtualBatchNormConfig(Protocol):
    """The config fields from which a reference batch is built."""

    norm: str
    reference_batch_size: int


def build_reference_batch(config: VirtualBatchNormConfig, z_dim: int) -> nn.Module:
    """A ReferenceBatch for latents of size `z_dim` if the norms are virtual, else NoReference."""
    return ReferenceBatch(config.reference_batch_size, z_dim) if config.norm == "virtual" else NoReference()
