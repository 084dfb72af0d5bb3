"""Self-attention over pixels in the form of SA-GAN's released code (Zhang et al. 2019), which BigGAN uses;
docs/papers/biggan.md, "Self-attention".

Keys and values are max-pooled 2x2; dot products are not scaled; out = x + gamma * o(attended), with gamma initialized to 0.
Shapes: N batch, C channels, H W pixels, Q queries, K keys, D dimensions of queries and keys, V dimensions of values.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer


class SelfAttention(nn.Module):
    """Residual self-attention block: (N, C, H, W) -> (N, C, H, W); C at least 8, H and W even.

    `conv(inputs, outputs, kernel, bias=...)` builds its convolutions."""

    def __init__(self, channels: int, *, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.theta = conv(channels, channels // 8, 1, bias=False)
        self.phi = conv(channels, channels // 8, 1, bias=False)
        self.g = conv(channels, channels // 2, 1, bias=False)
        self.o = conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.empty(()))
        self.attend = attend

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Set gamma to 0, so that the block starts as the identity. Mutates gamma."""
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        query = flatten_pixels(self.theta(x))  # (N, 1, HW, C/8)
        key = flatten_pixels(F.max_pool2d(self.phi(x), 2))  # (N, 1, HW/4, C/8)
        value = flatten_pixels(F.max_pool2d(self.g(x), 2))  # (N, 1, HW/4, C/2)
        attended = self.attend(query, key, value)  # (N, 1, HW, C/2)
        attended = attended.squeeze(1).transpose(1, 2).unflatten(2, (height, width))  # (N, C/2, H, W)
        return x + self.gamma.to(x.dtype) * self.o(attended)  # (N, C, H, W)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key') value, unscaled: (N, 1, Q, D), (N, 1, K, D), (N, 1, K, V), V at least D -> (N, 1, Q, V).

    Queries and keys are zero-padded to V dimensions, which leaves their dot products unchanged: for equal dimensions torch
    has kernels that never store the (Q, K) attention matrix, which used to take most of the memory of a step at 64x64. They
    also need the dimensions next to each other in memory, as they are in channels-last tensors; others are copied."""
    padding = (0, value.shape[3] - query.shape[3])
    query, key, value = (x.contiguous() for x in (F.pad(query, padding), F.pad(key, padding), value))  # all (N, 1, ?, V)
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, 1, Q, V)


def flatten_pixels(x: Tensor) -> Tensor:
    """One attention head with a token for each pixel: (N, C, H, W) -> (N, 1, HW, C). No copy for channels-last tensors."""
    return x.flatten(2).transpose(1, 2)[:, None]
