"""Batch normalization with batch statistics in training and standing statistics in evaluation, and its affine variants.

Source: BigGAN appendix B (conditional gain centered at 1, bias at 0, both from spectrally normalized linear layers without
bias) and appendix C.1 (standing statistics); docs/papers/biggan.md, "Generator" and "Truncation, sampling, and standing
statistics". There are no running averages: they would belong to the raw weights, while samples are drawn with averaged
weights. In evaluation mode the standing statistics are used; `sampling/standing_statistics` sets them to the means over
several batches of the batch mean and of the batch variance.

Statistics are float32 for every input type. Shapes: N batch, C channels, E condition, K classes, H W pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer
from biggan.nn.layers import Linear
from biggan.nn.sync_batch_norm import SumOverRanks, SyncBatchNorm, global_statistics

Affine = tuple[Tensor, Tensor]  # gain and bias (N, C)


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) per channel, with the biased variance and without gain and bias.

    `sum_over_ranks` (None for one process) sums a tensor over all ranks, and its gradient too, so that the statistics are
    those of the global batch; all ranks must then call forward together. `packed`: with one exchange each way
    (nn/sync_batch_norm), which cannot be differentiated twice.
    Buffers: `standing_mean` and `standing_variance` (C,), used in evaluation mode.
    """

    standing_mean: Tensor
    standing_variance: Tensor

    def __init__(self, channels: int, *, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("standing_mean", torch.zeros(channels))
        self.register_buffer("standing_variance", torch.ones(channels))
        self.epsilon = epsilon
        self.sum_over_ranks: SumOverRanks | None = None
        self.packed = True
        self.global_statistics = global_statistics
        # Means and variances of the batches seen, while standing statistics are collected.
        self.collected_statistics: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W) in the type of x, with batch statistics in training mode and inside
        `collect_standing_statistics`, else with standing statistics."""
        if self.collected_statistics is not None:
            mean_C, variance_C = self.batch_statistics(x)
            self.collected_statistics.append((mean_C, variance_C))
            return self.apply_statistics(x, mean_C, variance_C)  # (N, C, H, W)
        if not self.training:
            return self.apply_statistics(x, self.standing_mean, self.standing_variance)  # (N, C, H, W)
        if self.sum_over_ranks is not None and self.packed:
            return SyncBatchNorm.apply(x, self.sum_over_ranks, self.global_statistics, self.epsilon)  # (N, C, H, W)
        if self.sum_over_ranks is not None:
            return self.apply_statistics(x, *self.batch_statistics(x))  # (N, C, H, W)
        return F.batch_norm(x, None, None, training=True, eps=self.epsilon)  # (N, C, H, W)

    def batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) over batch, pixels and ranks, in float32."""
        global_sum = self.sum_over_ranks or (lambda values: values)
        count = global_sum(x.new_full((1,), x.numel() // x.shape[1], dtype=torch.float32))
        mean_C = global_sum(x.sum((0, 2, 3), dtype=torch.float32)) / count
        centered = x.float() - mean_C[:, None, None]
        variance_C = global_sum(centered.square().sum((0, 2, 3))) / count
        return mean_C, variance_C

    def apply_statistics(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """x normalized with the given statistics: (N, C, H, W) in the type of x, computed in float32."""
        if self.sum_over_ranks is None:
            return F.batch_norm(x, mean_C, variance_C, training=False, eps=self.epsilon)
        scale_C = torch.rsqrt(variance_C + self.epsilon)  # F.batch_norm has no gradient with respect to the statistics
        return ((x.float() - mean_C[:, None, None]) * scale_C[:, None, None]).to(x.dtype)


class AffineNorm(nn.Module):
    """normalize(x) * gain + bias, with a learned gain (C,), initially 1, and bias (C,), initially 0.

    `normalize`: a normalization without gain and bias, such as BatchNorm; nn.Identity() for gain and bias alone.
    """

    prepared_gain: Tensor | None = None  # in the type of activations, as nn/prepared_weights has them for the coming passes
    prepared_bias: Tensor | None = None

    def __init__(self, channels: int, *, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.gain = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Set the gain to 1 and the bias to 0. Mutates the layer."""
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, affine: Affine | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W). `affine` is ignored; it is accepted so that conditional and unconditional norms are
        interchangeable."""
        x = self.normalize(x)
        gain_C = self.gain if self.prepared_gain is None else self.prepared_gain
        bias_C = self.bias if self.prepared_bias is None else self.prepared_bias
        return torch.addcmul(bias_C[:, None, None].to(x.dtype), x, gain_C[:, None, None].to(x.dtype))


class BiasOnlyNorm(nn.Module):
    """normalize(x) + bias, with a learned bias (C,), initially 0, and no gain, as in the published networks of Salimans et
    al. 2016. `normalize` as for AffineNorm."""

    def __init__(self, channels: int, *, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.bias = nn.Parameter(torch.empty(channels))

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Set the bias to 0. Mutates the layer."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.normalize(x)
        return x + self.bias[:, None, None].to(x.dtype)


class FeatureNorm(nn.Module):
    """Applies a norm for images to feature vectors: (N, C) -> (N, C)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_NC: Tensor) -> Tensor:
        return self.norm(x_NC[:, :, None, None]).flatten(1)  # (N, C)


def normalizes_features(network: nn.Module) -> bool:
    """Whether the network has batch normalization of feature vectors, which needs two or more examples: for images, one
    example has statistics over its pixels."""
    return any(
        isinstance(module, FeatureNorm) and isinstance(module.norm.normalize, BatchNorm) for module in network.modules()
    )


class ConditionalNorm(nn.Module):
    """Conditional normalization, y = normalize(x) * gain + bias with a gain 1 + gain(c) and a bias bias(c) for each image
    and channel, which depend on a condition c (N, E). BigGAN appendix B.

    `gain` and `bias`: modules (N, E) -> (N, C), such as a linear layer, MLPMap or ClassConditionalTable. `normalize`: a
    normalization without gain and bias, such as BatchNorm; nn.Identity() for gain and bias alone. The gains and biases of
    all norms of a network are computed together, by `gains_and_biases`.
    """

    def __init__(self, *, normalize: nn.Module, gain: nn.Module, bias: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.gain = gain
        self.bias = bias

    def forward(self, x: Tensor, affine: Affine) -> Tensor:
        """(N, C, H, W) and gain and bias (N, C) -> (N, C, H, W)."""
        x, (gain_NC, bias_NC) = self.normalize(x), affine
        return torch.addcmul(bias_NC.to(x.dtype)[:, :, None, None], x, gain_NC.to(x.dtype)[:, :, None, None])


def gains_and_biases(norms: Sequence[nn.Module], condition_NE: Tensor) -> list[Affine | None]:
    """Gain and bias (N, C) of each of the conditional norms, for one condition; None for other norms. Where all are linear
    in the condition they are computed in one product."""
    conditional = [norm for norm in norms if isinstance(norm, ConditionalNorm)]
    maps = [norm.gain for norm in conditional] + [norm.bias for norm in conditional]
    pairs: list[Affine]
    if maps and all(isinstance(layer, ClassConditionalTable) or is_product(layer) for layer in maps):
        weights = [layer.applied_weight() for layer in maps]  # (C, E) each
        values = F.linear(condition_NE, torch.cat(weights))  # (N, sum of 2 C)
        gains, biases = values.chunk(2, dim=1)
        sizes = [len(weight_CE) for weight_CE in weights[: len(conditional)]]
        pairs = list(zip((1 + gains).split(sizes, dim=1), biases.split(sizes, dim=1), strict=True))
    else:
        pairs = [(1 + norm.gain(condition_NE), norm.bias(condition_NE)) for norm in conditional]
    affines = iter(pairs)
    return [next(affines) if isinstance(norm, ConditionalNorm) else None for norm in norms]


def is_product(layer: nn.Module) -> bool:
    """Whether a layer is a linear one without bias."""
    return isinstance(layer, Linear) and layer.bias is None


class NoNorm(nn.Module):
    """No normalization: returns x; `affine` is ignored."""

    def forward(self, x: Tensor, affine: Affine | None = None) -> Tensor:
        return x


class ClassConditionalTable(nn.Module):
    """A learned vector (C,) per class, initially 0: class weights (N, K), one-hot or mixtures of classes, -> (N, C).

    As gain and bias of ConditionalNorm this is the class-conditional batch normalization that preceded BigGAN's shared
    embedding (Dumoulin et al. 2017; SA-GAN; docs/papers/biggan.md, "SA-GAN")."""

    prepared: Tensor | None = None  # the table in the type of products, as nn/prepared_weights has it for the coming passes

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels))

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Set the table to 0, so that conditional gains start at 1 and biases at 0. Mutates the table."""
        nn.init.zeros_(self.weight)

    def forward(self, condition_NK: Tensor) -> Tensor:
        return condition_NK @ self.weight  # (N, C)

    def applied_weight(self) -> Tensor:
        """The table as the weight of a linear layer, (C, K)."""
        return (self.weight if self.prepared is None else self.prepared).T


class MLPMap(nn.Module):
    """MLP from a condition to gains or biases, with one hidden layer of the size of the condition and ReLU:
    (N, E) -> (N, C). A negative result of BigGAN's appendix H.

    `linear(inputs, outputs, bias=...)` builds its layers."""

    def __init__(self, condition: int, channels: int, *, linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.hidden = linear(condition, condition)
        self.output = linear(condition, channels, bias=False)

    def forward(self, condition_NE: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(condition_NE)))  # (N, C)


def sync_batch_norm(network: nn.Module, sum_over_ranks: SumOverRanks, *, packed: bool = True) -> None:
    """Make all batch normalization of the network use statistics over the batches of all ranks, `packed` unless gradients
    are to be differentiated. Mutates the layers."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.sum_over_ranks, layer.packed = sum_over_ranks, packed
