"""TODO: split from config."""

from dataclasses import dataclass
from typing import Literal

from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import DeviceName, MemoryFormatName, PrecisionName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The alternation of the players, their optimisers, and what is written when. Steps are generator steps."""

    steps: int = 150_000
    minutes: float | None = None
    """Stop after this much training time, if that comes before the last step."""
    batch: int = 2048
    """Global batch: images per optimiser step of either player."""
    micro_batch: int | None = None
    """Images per forward pass; gradients are accumulated up to the batch. None: the whole batch."""
    sync_minibatch_discrimination: bool = False
    """Minibatch features compare the images of all ranks, not only each rank's own."""
    sync_bn_group_size: int | None = None
    """Ranks next to each other that share batch statistics; None: all."""
    discriminator_steps: int = 2
    """Discriminator steps per generator step."""
    generator_steps: int = 1
    """Generator steps in a row, after those of the discriminator; one such round counts as one step everywhere else."""
    generator_lr: float = 5e-5
    """0: the generator is frozen."""
    discriminator_lr: float = 2e-4
    """0: the discriminator is frozen."""
    lr_decay_start: int | None = None
    """Step from which both rates fall evenly to 0 at the last step; None: constant."""
    generator_batch_multiplier: int = 1
    """The generator's batch is this many times the batch."""
    adam_beta1: float = 0.0
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    optimizer_state: Literal["reset", "keep"] = "reset"
    """Of the optimisers, where a run starts from a checkpoint of another."""
    ema_decay: float = 0.9999
    ema_start: int = 0
    """The average of the generator's weights follows them exactly up to this step."""
    discriminator_ema_decay: float | None = None
    """Decay of an average of the discriminator's weights, for telling classes; None: none is kept."""
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    """bf16: autocast with float32 weights, statistics and spectral norms. auto: bf16 where the hardware has it."""
    memory_format: MemoryFormatName = "channels-last"
    activation_checkpointing: bool = False
    """Keep only the inputs of each block and compute the rest again in the backward pass: less memory, a third more work."""
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    """Steps between sample sheets; the model folder is renewed with each."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    checkpoint_minutes: float | None = 10
    """A checkpoint at the latest this long after the last; None: by steps only."""
    keep_checkpoints: int = 2
    on_divergence: Literal["stop", "roll-back"] = "stop"
    """When a gradient is no longer finite: stop, or carry on from the last checkpoint with half the learning rates."""
    max_rollbacks: int = 3
    """How often a run rolls back before it stops."""
    standing_stats_batches: int = 32
    """Batches whose statistics are averaged for sampling (BigGAN appendix C.1)."""

    def check(self) -> None:
        """Raises ConfigError with the field, its value and a remedy."""
        positive = ("steps", "batch", "discriminator_steps", "adam_epsilon")
        positive += (
            "generator_batch_multiplier",
            "generator_steps",
            "log_every",
            "sample_every",
            "checkpoint_every",
            "keep_checkpoints",
            "standing_stats_batches",
        )
        optional = ("minutes", "micro_batch", "checkpoint_minutes", "sync_bn_group_size")
        for name in positive + tuple(name for name in optional if getattr(self, name) is not None):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be above 0")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "discriminator_ema_decay"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least 0 and below 1")
        for name in ("generator_lr", "discriminator_lr"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least 0: 0 freezes that player")
        if self.generator_lr == self.discriminator_lr == 0:
            raise ConfigError("train.generator_lr and train.discriminator_lr are both 0: nothing would be trained")
        if self.max_rollbacks < 0:
            raise ConfigError(f"train.max_rollbacks={self.max_rollbacks} must be at least 0")
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
