"""How a run trains: alternation of the networks, batch, optimizers, averages, and what is written when."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from biggan.runtime.constraints import (
    BatchSize,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Remedy,
    Repeats,
    StatisticsBatches,
    check_fields,
)
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import DeviceName, MemoryFormatName, Numerics, PrecisionName

GeneratorRate = Annotated[float, Ge(0), Remedy("0 freezes the generator")]
DiscriminatorRate = Annotated[float, Ge(0), Remedy("0 freezes the discriminator")]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Steps, batch, optimizers, averages, precision, and what is written when. A step is a generator step."""

    steps: PositiveInt = 150_000
    """Generator steps of the whole run."""
    minutes: PositiveFloat | None = None
    """Stop after this much training time, if that comes before the last step; None: no limit."""
    batch: BatchSize = 2048
    """Global batch: images per optimizer step of either network, over all ranks and accumulated micro-batches."""
    micro_batch: BatchSize | None = None
    """Images per forward pass, over all ranks; gradients are accumulated up to the batch. None: the whole batch."""
    sync_minibatch_discrimination: bool = False
    """Minibatch discrimination compares the images of all ranks, not only each rank's own."""
    sync_bn_group_size: PositiveInt | None = None
    """Number of neighboring ranks that share batch statistics (synchronized batch norm). None: those of one machine.
    DEVIATION from BigGAN section 3, whose statistics are of all ranks: on several machines give the number of all ranks for
    that, and to go on with a run on another number of machines with the same arithmetic."""
    gradient_exchange: Literal["float32", "bf16"] = "float32"
    """Type in which gradients are averaged over ranks: bf16 halves what is sent."""
    discriminator_steps: Repeats = 2
    """Discriminator optimizer steps per generator step."""
    generator_steps: Repeats = 1
    """Generator optimizer steps in a row after those of the discriminator; together they count as one step."""
    generator_lr: GeneratorRate = 5e-5
    """Learning rate of the generator; 0: it is frozen."""
    discriminator_lr: DiscriminatorRate = 2e-4
    """Learning rate of the discriminator; 0: it is frozen."""
    lr_decay_start: int | None = None
    """Step from which both learning rates fall linearly to 0 at the last step; None: constant."""
    generator_batch_multiplier: Repeats = 1
    """The generator's batch is this many times the batch."""
    adam_beta1: Fraction = 0.0
    """Adam's decay of the first moment."""
    adam_beta2: Fraction = 0.999
    """Adam's decay of the second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to the root of Adam's second moment."""
    optimizer_state: Literal["reset", "keep"] = "reset"
    """Whether a run with --init-from takes over the optimizer state of the checkpoint that it starts from."""
    ema_decay: Fraction = 0.9999
    """Decay of the moving average of the generator's weights; 0: no average."""
    ema_start: NonNegativeInt = 0
    """Step up to which the average is a copy of the generator's weights."""
    discriminator_ema_decay: Fraction | None = None
    """Decay of a moving average of the discriminator's weights, to be used as a classifier; None: none is kept."""
    device: DeviceName = "auto"
    """auto: CUDA where there is a GPU, else the CPU."""
    precision: PrecisionName = "auto"
    """bf16: autocast with float32 weights, statistics and spectral norms. auto: bf16 where the hardware has it."""
    memory_format: MemoryFormatName = "channels-last"
    """Memory layout of convolution weights and activations."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Run each optimizer step as one CUDA graph. auto: on one GPU, where all operations of the step allow it. on: an error
    that says why where they do not; on a CPU, for tests, eager steps on inputs in fixed buffers."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the residual blocks of the networks (torch.compile), which fuses normalization, gains and ReLU. auto: on one
    GPU, each network that has no R1, R2 or activation checkpointing. on: an error where a network cannot be compiled. It
    takes half a minute to a minute and a half at the start and changes results by rounding."""
    tf32: bool = False
    """On CUDA, float32 products may use TF32 (10 bits of mantissa): those of spectral norms, and with precision fp32 those
    of all layers. Those of orthogonal regularization always do where precision is bf16."""
    cudnn_benchmark: bool = True
    """On CUDA, cuDNN times its convolution algorithms for each shape and takes the fastest."""
    deterministic: bool = False
    """On CUDA, every step gives the same bits each time; slower, and an operation that cannot is an error."""
    activation_checkpointing: bool = False
    """Keep only the inputs of each block and compute the rest again in the backward pass: less memory, a third more work."""
    seed: int = 0
    """Of the initial weights and of every random draw in training."""
    log_every: PositiveInt = 50
    """Steps between lines of stats.jsonl."""
    profile: PositiveInt | None = None
    """Record so many steps with torch.profiler, after five of warm-up, into RUN/profile: a trace for chrome://tracing or
    Perfetto, and a table of the largest operations; None: nothing is recorded."""
    sample_every: PositiveInt = 1000
    """Steps between sample sheets; RUN/model is renewed with each."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints."""
    checkpoint_minutes: PositiveFloat | None = 10
    """A checkpoint is written at the latest this long after the last; None: by steps only."""
    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints stay on disk; that of the best model stays too."""
    on_divergence: Literal["stop", "roll-back"] = "stop"
    """When a gradient is no longer finite: stop, or go on from the last checkpoint with half the learning rates."""
    max_rollbacks: NonNegativeInt = 3
    """How often a run rolls back before it stops."""
    standing_stats_batches: StatisticsBatches = 32
    """Batches whose batch norm statistics are averaged for sampling (standing statistics, BigGAN appendix C.1)."""

    @property
    def numerics(self) -> Numerics:
        """What of the fields applies to the whole process."""
        return Numerics(tf32=self.tf32, cudnn_benchmark=self.cudnn_benchmark, deterministic=self.deterministic)

    def check(self) -> None:
        """Raises ConfigError with the field, its value and a remedy."""
        check_fields(self, "train")
        if self.generator_lr == self.discriminator_lr == 0:
            raise ConfigError("train.generator_lr and train.discriminator_lr are both 0: nothing would be trained")
        if self.lr_decay_start is not None and not 0 <= self.lr_decay_start < self.steps:
            raise ConfigError(
                f"train.lr_decay_start={self.lr_decay_start} must be at least 0 and below train.steps={self.steps}: "
                "use --train.lr-decay-start None for constant rates"
            )
        if self.micro_batch is not None and self.batch % self.micro_batch:
            near = nearest_divisor(self.batch, self.micro_batch)
            raise ConfigError(
                f"train.batch={self.batch} is not divisible by train.micro_batch={self.micro_batch}: "
                f"use --train.micro-batch {near} or --train.batch {-(-self.batch // self.micro_batch) * self.micro_batch}"
            )


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))
