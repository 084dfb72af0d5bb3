"""Virtual batch normalization: each example is normalized with a fixed reference batch and itself, never with its
neighbors.

Source: Salimans et al. 2016, section 3.5, in the exact form; docs/papers/improved_gan.md, "Virtual batch normalization" (the
published code pooled the live batch at first). The reference batch goes through the network in front of the live one, in the
same pass, with gradients. DEVIATION from that code: gains start at 1 (AffineNorm), not at N(1, 0.02).

Shapes: B reference examples, N live ones, C channels, HW pixels, Z latent, E class embedding.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class VirtualBatchNorm(nn.Module):
    """x (B + N, C, H, W) -> the same: the first B examples with their own mean and variance, each of the others with those
    of the B and itself, it counting 1 / (B + 1). The same in training and in evaluation. Statistics are float32."""

    def __init__(self, reference: int, *, epsilon: float) -> None:
        super().__init__()
        self.reference, self.epsilon = reference, epsilon

    def forward(self, x: Tensor) -> Tensor:
        live = x.float()
        mean_1C = live[: self.reference].mean((0, 2, 3))[None]
        variance_1C = live[: self.reference].var((0, 2, 3), unbiased=False)[None]
        mean_NC = live[self.reference :].mean((2, 3))
        variance_NC = live[self.reference :].var((2, 3), unbiased=False)
        w = 1 / (self.reference + 1)
        both_NC = w * mean_NC + (1 - w) * mean_1C
        # The mean square less the squared mean, written as a sum of squares, which cannot cancel.
        spread_NC = w * (variance_NC + (mean_NC - both_NC).square())
        spread_NC = spread_NC + (1 - w) * (variance_1C + (mean_1C - both_NC).square())
        means = torch.cat([mean_1C.expand(self.reference, -1), both_NC])  # (B + N, C)
        variances = torch.cat([variance_1C.expand(self.reference, -1), spread_NC])  # (B + N, C)
        scales = (variances + self.epsilon).rsqrt()
        return torch.addcmul(shaped(-means * scales, x), x, shaped(scales, x))


def shaped(values_NC: Tensor, x: Tensor) -> Tensor:
    """In the type of x, to meet (N, C, H, W)."""
    return values_NC.to(x.dtype)[:, :, None, None]


class ReferenceBatch(nn.Module):
    """The latents (B, Z) and classes (B,) of the reference batch, fixed buffers, put there once."""

    def __init__(self, size: int, z_dim: int) -> None:
        super().__init__()
        self.register_buffer("z", torch.zeros(size, z_dim))
        self.register_buffer("y", torch.zeros(size, dtype=torch.int64))

    def set(self, z_BZ: Tensor, y_B: Tensor) -> None:
        """Choose the batch; mutates the buffers."""
        self.z.copy_(z_BZ)
        self.y.copy_(y_B)

    def prepend_reference(self, z_NZ: Tensor, e_NE: Tensor, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The reference batch and then the live one: (B + N, Z) and (B + N, E)."""
        return torch.cat([self.z.to(z_NZ.dtype), z_NZ]), torch.cat([embed(self.y).to(e_NE.dtype), e_NE])

    def drop_reference(self, x: Tensor) -> Tensor:
        """Without the reference batch."""
        return x[len(self.z) :]


class NoReference(nn.Module):
    """For networks whose norms need none."""

    def prepend_reference(self, z_NZ: Tensor, e_NE: Tensor, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """As they are."""
        return z_NZ, e_NE

    def drop_reference(self, x: Tensor) -> Tensor:
        """As it is."""
        return x


class VirtualBatchNormConfig(Protocol):
    """What a generator's config says of its norms."""

    norm: str
    reference_batch_size: int


def build_reference_batch(config: VirtualBatchNormConfig, z_dim: int) -> nn.Module:
    """The reference batch of a generator, where its norms are virtual; latents of size `z_dim`."""
    return ReferenceBatch(config.reference_batch_size, z_dim) if config.norm == "virtual" else NoReference()
