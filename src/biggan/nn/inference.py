"""Networks prepared for inference: the function of the network in evaluation mode, with all that is constant precomputed.

Weights are reparametrized and resampling is merged into kernels once; batch normalization with standing statistics becomes
one multiplication and one addition per element. Shapes: N batch, C channels, E condition, I inputs, O outputs, H W pixels.
"""

import copy

import torch
from torch import Tensor, nn

from biggan.nn.batch_norm import Affine, AffineNorm, BatchNorm, ConditionalNorm
from biggan.nn.layers import Conv2d, ReparametrizedLayer
from biggan.nn.reparametrization import Identity


@torch.no_grad()
def for_inference(network: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> nn.Module:
    """A copy of the network for inference, its convolutions in `dtype` and `memory_format`; it needs no autocast. The copy
    keeps the standing statistics that the network has at the time of the call."""
    inference_network = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(inference_network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2d):
                setattr(parent, name, InferenceConv2d(layer, dtype, memory_format))
            elif isinstance(layer, ConditionalNorm) and isinstance(layer.normalize, BatchNorm):
                setattr(parent, name, InferenceConditionalNorm(layer))
            elif isinstance(layer, AffineNorm) and isinstance(layer.normalize, BatchNorm):
                setattr(parent, name, InferenceAffineNorm(layer))
    for layer in inference_network.modules():
        if isinstance(layer, ReparametrizedLayer):
            layer.weight.copy_(layer.effective_weight())
            layer.reparametrization = Identity(layer.weight.shape[0])
    return inference_network


class InferenceConv2d(nn.Module):
    """A convolution with a constant kernel: (N, I, H, W) -> (N, O, H', W')."""

    def __init__(self, layer: Conv2d, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias[: layer.computed_outputs].to(dtype)
        self.convolve, self.padding, self.dilation = layer.convolve, layer.padding, layer.dilation
        self.register_buffer("weight", layer.final_kernel().to(dtype).contiguous(memory_format=memory_format))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x.to(self.weight.dtype), self.weight, self.bias, self.padding, self.dilation)  # (N, O, H', W')


class InferenceConditionalNorm(ConditionalNorm):
    """x s + (bias - mean s) with s = gain / std, where mean and std are the standing statistics."""

    mean: Tensor
    scale: Tensor

    def __init__(self, layer: ConditionalNorm) -> None:
        super().__init__(normalize=nn.Identity(), gain=layer.gain, bias=layer.bias)
        mean_C, scale_C = standing_statistics(layer.normalize)
        self.register_buffer("mean", mean_C)
        self.register_buffer("scale", scale_C)

    def forward(self, x: Tensor, affine: Affine) -> Tensor:
        gain_NC, bias_NC = affine
        scale_NC = gain_NC * self.scale
        shift_NC = bias_NC - self.mean * scale_NC
        return torch.addcmul(shift_NC.to(x.dtype)[:, :, None, None], x, scale_NC.to(x.dtype)[:, :, None, None])


class InferenceAffineNorm(nn.Module):
    """x s + (bias - mean s) with s = gain / std, where mean and std are the standing statistics; gain and bias do not depend
    on a condition."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: AffineNorm) -> None:
        super().__init__()
        mean_C, scale_C = standing_statistics(layer.normalize)
        self.register_buffer("scale", layer.gain * scale_C)
        self.register_buffer("shift", layer.bias - mean_C * layer.gain * scale_C)

    def forward(self, x: Tensor, affine: Affine | None = None) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype)[:, None, None], x, self.scale.to(x.dtype)[:, None, None])


def standing_statistics(normalize: BatchNorm) -> tuple[Tensor, Tensor]:
    """Standing mean (C,) and 1 / sqrt(standing variance + epsilon) (C,)."""
    scale_C = torch.rsqrt(normalize.standing_variance + normalize.epsilon)
    return normalize.standing_mean.clone(), scale_C
