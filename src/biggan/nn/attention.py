"""Self-attention over pixels, as released by Zhang et al. 2019 (SA-GAN) and used by BigGAN; docs/papers/biggan.md,
"Self-attention".

Keys and values are max-pooled 2x2; no scaling of the dot products; out = x + gamma * o(attended), gamma starts at 0.
Shapes: N batch, C channels, H W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer


class SelfAttention(nn.Module):
    """(N, C, H, W) -> (N, C, H, W); C at least 8, H and W even.

    `conv(inputs, outputs, kernel, bias=...)` makes the layers."""

    def __init__(self, channels: int, *, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.theta = conv(channels, channels // 8, 1, bias=False)
        self.phi = conv(channels, channels // 8, 1, bias=False)
        self.g = conv(channels, channels // 2, 1, bias=False)
        self.o = conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.empty(()))
        self.attend = attend

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """The block starts as the identity; mutates gamma."""
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        query = pixels_last(self.theta(x))  # (N, 1, HW, C/8)
        key = pixels_last(F.max_pool2d(self.phi(x), 2))  # (N, 1, HW/4, C/8)
        value = pixels_last(F.max_pool2d(self.g(x), 2))  # (N, 1, HW/4, C/2)
        attended = self.attend(query, key, value)  # (N, 1, HW, C/2)
        attended = attended.squeeze(1).transpose(1, 2).unflatten(2, (height, width))  # (N, C/2, H, W)
        return x + self.gamma.to(x.dtype) * self.o(attended)  # (N, C, H, W)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key') value: (N, 1, Q, D), (N, 1, K, D), (N, 1, K, V), V at least D -> (N, 1, Q, V).

    The narrower ones are filled up with zeros, which changes no product: with one width for all torch never keeps the (Q, K)
    table, which was most of the memory of a step at 64x64."""
    zeros = (0, value.shape[3] - query.shape[3])
    query, key = F.pad(query, zeros), F.pad(key, zeros)  # (N, 1, Q, V), (N, 1, K, V)
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, 1, Q, V)


def pixels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, one head, HW, C); no copy in channels-last."""
    return x.flatten(2).transpose(1, 2)[:, None]
