"""Batch normalization for generators: batch statistics in training, standing statistics afterwards.

Source: BigGAN appendix B (conditional gain centered at 1, bias at 0, both from bias-free spectrally normalized linear maps)
and appendix C.1 (standing statistics); docs/papers/biggan.md, "Generator" and "Truncation, sampling, and standing
statistics". There are no running averages: they would belong to the raw weights, while samples are drawn with averaged ones.
A module in evaluation mode uses its standing statistics, and `collect_standing_statistics` fills them with equal-weight
averages of the means and variances of whole batches.

Statistics are float32 for any input type. Shapes: N batch, C channels, E condition, HW pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer

SumOverRanks = Callable[[Tensor], Tensor]


class BatchNorm(nn.Module):
    """x -> (x - mean) / sqrt(variance + epsilon) per channel; the variance is the biased one.

    `sum_over_ranks` (None for one process) sums a tensor over all ranks, and its gradient too, so that the statistics
    are those of the global batch; all ranks must then call forward together.
    Buffers: `standing_mean`, `standing_variance` (C,), used in evaluation mode.
    """

    def __init__(self, channels: int, *, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("standing_mean", torch.zeros(channels))
        self.register_buffer("standing_variance", torch.ones(channels))
        self.epsilon = epsilon
        self.sum_over_ranks: SumOverRanks | None = None
        self.collected: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type: batch statistics in training, else standing ones (see the header)."""
        if self.collected is not None:
            mean_C, variance_C = self.batch_statistics(x)
            self.collected.append((mean_C, variance_C))
            return self.apply_statistics(x, mean_C, variance_C)  # (N, C, H, W)
        if not self.training:
            return self.apply_statistics(x, self.standing_mean, self.standing_variance)  # (N, C, H, W)
        if self.sum_over_ranks is not None:
            return self.apply_statistics(x, *self.batch_statistics(x))  # (N, C, H, W)
        return F.batch_norm(x, None, None, training=True, eps=self.epsilon)  # (N, C, H, W)

    def batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) over batch, pixels and ranks, in float32."""
        total = self.sum_over_ranks or (lambda values: values)
        count = total(x.new_full((1,), x.numel() // x.shape[1], dtype=torch.float32))
        mean_C = total(x.sum((0, 2, 3), dtype=torch.float32)) / count
        centered = x.float() - mean_C[:, None, None]
        variance_C = total(centered.square().sum((0, 2, 3))) / count
        return mean_C, variance_C

    def apply_statistics(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """(N, C, H, W), in the type of x; computed in float32."""
        if self.sum_over_ranks is None:
            return F.batch_norm(x, mean_C, variance_C, training=False, eps=self.epsilon)
        scale_C = torch.rsqrt(variance_C + self.epsilon)  # with gradients through the statistics
        return ((x.float() - mean_C[:, None, None]) * scale_C[:, None, None]).to(x.dtype)


class AffineNorm(nn.Module):
    """What `normalize` makes of x, times a learned gain (starts at 1), plus a learned bias (starts at 0).

    `normalize` is Standardize for batch normalization, the identity for gain and bias alone.
    """

    def __init__(self, channels: int, *, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.gain = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Gain 1, bias 0; mutates the layer."""
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, condition_NE: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> the same; the condition is ignored."""
        x = self.normalize(x)
        return torch.addcmul(self.bias[:, None, None].to(x.dtype), x, self.gain[:, None, None].to(x.dtype))


class BiasOnlyNorm(nn.Module):
    """What `normalize` makes of x, plus a learned bias (starts at 0): the published networks of Salimans et al. 2016."""

    def __init__(self, channels: int, *, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.bias = nn.Parameter(torch.empty(channels))

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Bias 0; mutates the layer."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        x = self.normalize(x)
        return x + self.bias[:, None, None].to(x.dtype)


class FeatureNorm(nn.Module):
    """A norm for rows: (N, C) -> (N, C)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_NC: Tensor) -> Tensor:
        return self.norm(x_NC[:, :, None, None]).flatten(1)  # (N, C)


def normalizes_features(network: nn.Module) -> bool:
    """Whether batch statistics of rows are taken somewhere: of one row there are none."""
    return any(
        isinstance(module, FeatureNorm) and isinstance(module.norm.normalize, BatchNorm) for module in network.modules()
    )


class ConditionalNorm(nn.Module):
    """y = standardize(x) (1 + gain(c)) + bias(c), for a condition c of shape (N, E). BigGAN appendix B.

    `gain` and `bias` are maps (N, E) -> (N, C): linear, a small network, or a table (below). `normalize` as above.
    """

    def __init__(self, *, normalize: nn.Module, gain: nn.Module, bias: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.gain = gain
        self.bias = bias

    def forward(self, x: Tensor, condition_NE: Tensor) -> Tensor:
        x = self.normalize(x)
        gain_NC = (1 + self.gain(condition_NE).float()).to(x.dtype)
        bias_NC = self.bias(condition_NE).to(x.dtype)
        return torch.addcmul(bias_NC[:, :, None, None], x, gain_NC[:, :, None, None])  # (N, C, H, W)


class NoNorm(nn.Module):
    """No norm: x itself, whatever the condition."""

    def forward(self, x: Tensor, condition_NE: Tensor | None = None) -> Tensor:
        return x


class ClassConditionalTable(nn.Module):
    """A row of C numbers for each class, starting at 0; conditions are class weights (N, K), one-hot or blends.
    Conditional batch normalization before the shared embedding (Dumoulin et al. 2017; SA-GAN; docs/papers/biggan.md,
    "SA-GAN")."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels))

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Zeros, so that gains start at 1 and biases at 0; mutates the table."""
        nn.init.zeros_(self.weight)

    def forward(self, condition_NK: Tensor) -> Tensor:
        return condition_NK @ self.weight  # (N, C)


class MLPMap(nn.Module):
    """Linear, ReLU, linear, as wide in the middle as the condition; a negative result of BigGAN's appendix H.

    `linear(inputs, outputs, bias=...)` makes the layers."""

    def __init__(self, condition: int, channels: int, *, linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.hidden = linear(condition, condition)
        self.output = linear(condition, channels, bias=False)

    def forward(self, condition_NE: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(condition_NE)))  # (N, C)


def sync_batch_norm(network: nn.Module, sum_over_ranks: SumOverRanks) -> None:
    """From now on the batch statistics of every norm in the network are those of all ranks' batches. Mutates the layers."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.sum_over_ranks = sum_over_ranks


@contextmanager
def collect_standing_statistics(module: nn.Module, all_batches: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Inside, every normalization layer uses the statistics of the batch at hand and remembers them; on leaving,
    the standing statistics become the equal-weight averages of what was remembered. Mutates the buffers only.

    `all_batches` makes of the values (batches here, C) those of every rank's batches, in an order that does not depend on
    the number of ranks; None where all batches were seen here.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.collected = []
    try:
        yield
        for layer in layers:
            assert layer.collected, "no forward pass was made while collecting statistics"
            means, variances = zip(*layer.collected, strict=True)
            for buffer, values in ((layer.standing_mean, means), (layer.standing_variance, variances)):
                mine = torch.stack(values)  # (batches here, C)
                buffer.copy_((mine if all_batches is None else all_batches(mine)).mean(0))
    finally:
        for layer in layers:
            layer.collected = None
