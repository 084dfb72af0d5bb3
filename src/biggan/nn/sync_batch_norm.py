"""Batch normalization with the statistics of all ranks: one exchange in the forward pass and one in the backward pass.

The plain form, in nn/batch_norm, has three exchanges forward and as many backward, and keeps what automatic differentiation
wants; its gradient can be differentiated again, which that of this form cannot. Shapes: N batch, C channels, H W pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SumOverRanks = Callable[[Tensor], Tensor]


def global_statistics(x: Tensor, sum_over_ranks: SumOverRanks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over batch, pixels and ranks, float32, and the number of values of a channel (1,)
    float64.

    What is exchanged is (count, sum, sum of squares) in float64, so that the difference of large sums loses nothing."""
    variance_C, mean_C = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    count = mean_C.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
    mean_C, variance_C = mean_C.double(), variance_C.double()
    packed = torch.cat([count, count * mean_C, count * (variance_C + mean_C.square())])
    count, sum_C, squares_C = sum_over_ranks(packed).split([1, len(mean_C), len(mean_C)])
    mean_C = sum_C / count
    variance_C = (squares_C / count - mean_C.square()).clamp(min=0)
    return mean_C.float(), variance_C.float(), count


class SyncBatchNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + epsilon) with statistics of all ranks: (N, C, H, W) -> the same shape and type. Keeps x
    and two vectors. All ranks must call it and its backward pass in the same order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sum_over_ranks: SumOverRanks, statistics: Callable[..., Any], epsilon: float) -> Tensor:
        """`statistics(x, sum_over_ranks)`: as `global_statistics`."""
        mean_C, variance_C, count = statistics(x, sum_over_ranks)
        ctx.sum_over_ranks = sum_over_ranks
        ctx.save_for_backward(x, mean_C, torch.rsqrt(variance_C + epsilon), count)
        return F.batch_norm(x, mean_C, variance_C, training=False, eps=epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """s (g - mean of g - y mean of g y), where s is 1 / sqrt(variance + epsilon) and y the output."""
        x, mean_C, scale_C, count = ctx.saved_tensors
        g = gradient.float()
        sum_C = g.sum((0, 2, 3))
        product_C = ((g * x).sum((0, 2, 3)) - mean_C * sum_C) * scale_C  # sum of g y
        means_2C = ctx.sum_over_ranks(torch.cat([sum_C, product_C])) / count
        mean_g_C, mean_gy_C = means_2C.float().chunk(2)
        slope_C = -scale_C.square() * mean_gy_C
        shift_C = -scale_C * mean_g_C - slope_C * mean_C
        expand = lambda values_C: values_C[:, None, None]  # noqa: E731
        result = torch.addcmul(torch.addcmul(expand(shift_C), x.float(), expand(slope_C)), g, expand(scale_C))
        return result.to(x.dtype), None, None, None
