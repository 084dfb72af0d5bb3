"""A whole run as one frozen value: RunConfig, its JSON round trip, and the checks that span fields.

Each part is a dataclass beside its component. Nobody writes into a config after `check`; unknown keys are errors.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from pydantic import TypeAdapter, ValidationError

from biggan.analysis.collapse import WatchConfig
from biggan.augment import AugmentConfig
from biggan.data import DataConfig, DataFacts
from biggan.errors import ConfigError, suggestion
from biggan.latents import LatentConfig
from biggan.losses import ObjectiveConfig
from biggan.metrics.classification import ClassifyConfig
from biggan.metrics.evaluate import EvalConfig
from biggan.models import ModelConfig, check_layer
from biggan.models.biggan import BigGANConfig
from biggan.precision import DeviceName, MemoryFormatName, PrecisionName
from biggan.regularizers import RegularizationConfig
from biggan.settings import flatten, replaced


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
    compare_across_ranks: bool = False
    """Minibatch features compare the images of all ranks, not only each rank's own."""
    statistics_ranks: int | None = None
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
    generator_batches: int = 1
    """The generator's batch is this many times the batch."""
    adam_beta1: float = 0.0
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    moments: Literal["reset", "keep"] = "reset"
    """Of the optimisers, where a run starts from a checkpoint of another."""
    ema_decay: float = 0.9999
    ema_start: int = 0
    """The average of the generator's weights follows them exactly up to this step."""
    discriminator_average: float | None = None
    """Decay of an average of the discriminator's weights, for telling classes; None: none is kept."""
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    """bf16: autocast with float32 weights, statistics and spectral norms. auto: bf16 where the hardware has it."""
    memory_format: MemoryFormatName = "channels-last"
    recompute: bool = False
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
    standing_passes: int = 32
    """Batches whose statistics are averaged for sampling (BigGAN appendix C.1)."""

    def check(self) -> None:
        """Raises ConfigError with the field, its value and a remedy."""
        positive = ("steps", "batch", "discriminator_steps", "adam_epsilon")
        positive += (
            "generator_batches",
            "generator_steps",
            "log_every",
            "sample_every",
            "checkpoint_every",
            "keep_checkpoints",
            "standing_passes",
        )
        optional = ("minutes", "micro_batch", "checkpoint_minutes", "statistics_ranks")
        for name in positive + tuple(name for name in optional if getattr(self, name) is not None):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be above 0")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "discriminator_average"):
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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run does."""

    preset: tyro.conf.Suppress[str] = "custom"
    model: ModelConfig = field(default_factory=BigGANConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    init_from: str | None = None
    """A run or a model folder whose weights the run starts from; its model and its latents are then those of the folder.
    RUN@STEP: one of its checkpoints, and then all that the run was made with holds here too, but for what is given, and for
    data sources, extractors and folders, which have to be given again: the run may be somebody else's."""
    found: tyro.conf.Suppress[DataFacts | None] = None
    """What was found in the data; filled in when it is opened."""

    def check(self) -> None:
        """Raises ConfigError on the first field, or combination of fields, that makes no sense."""
        self.model.check()
        self.latent.check()
        self.data.check()
        self.objective.check()
        self.augment.check()
        self.regularization.check()
        self.train.check()
        self.eval.check()
        self.watch.check()
        self.classify.check()
        self.check_classes()
        if self.train.moments == "keep" and self.init_from is None:
            raise ConfigError("train.moments=keep is for a run that starts from another: add --init-from RUN")

    def check_classes(self) -> None:
        """Raises ConfigError where a D shall tell classes that cannot, or is given labels that it does not use."""
        supervised, family = self.objective.loss == "semi-supervised", self.model.family
        if supervised and not self.model.gives_classes:
            how = "use a preset improved-*, or --model.discriminator-head classes"
            raise ConfigError(f"objective.loss=semi-supervised: D of model.family={family} gives no class logits: {how}")
        if self.data.labels_per_class is not None and not supervised:
            per_class = self.data.labels_per_class
            raise ConfigError(f"data.labels_per_class={per_class} is for --objective.loss semi-supervised: leave it out")
        if self.train.discriminator_average is not None and not supervised:
            average = self.train.discriminator_average
            raise ConfigError(
                f"train.discriminator_average={average} is for a D that learns classes (--objective.loss semi-supervised), "
                f"not for the {self.objective.loss} loss: give None"
            )
        if self.classify.test is not None and self.train.discriminator_average is None:
            raise ConfigError("classify.test needs an averaged discriminator: add --train.discriminator-average 0.9999")


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))


def resolve(config: RunConfig, facts: DataFacts) -> RunConfig:
    """The config with what the data says written in (classes, count, content), and what follows from other fields.
    Raises ConfigError on a contradiction."""
    classes = len(facts.class_names)
    if config.model.num_classes not in (None, classes):
        raise ConfigError(
            f"model.num_classes={config.model.num_classes} but {facts.name} has {classes} classes: leave it out"
        )
    model, latent = dataclasses.replace(config.model, num_classes=classes), config.latent
    if latent.distribution == "annealed-normal" and latent.annealing_steps is None:
        latent = dataclasses.replace(latent, annealing_steps=config.train.steps)
    if config.objective.feature_layer is not None:
        check_layer(model, config.objective.feature_layer)
    return dataclasses.replace(config, model=model, latent=latent, found=facts)


def to_json(config: object) -> str:
    """Any config as JSON text."""
    return json.dumps(TypeAdapter(type(config)).dump_python(config, mode="json"), indent=2) + "\n"


def from_json(text: str, kind: type, where: Path) -> typing.Any:
    """The config of type `kind` in JSON text from the file `where`.

    Raises ConfigError on unknown keys, with a suggestion, and on values of a wrong type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not valid JSON ({error})") from error
    refuse_unknown_keys(data, kind, str(where))
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = relevant_error(error)
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {place}={first['input']!r}: {first['msg']}") from error


def relevant_error(error: ValidationError) -> typing.Any:
    """The first of pydantic's errors that is not about a member of a union that the data was not meant for."""
    errors = error.errors()
    others = {item["loc"][:-1] for item in errors if item["loc"][-1] == "family"}
    meant = [item for item in errors if not any(item["loc"][: len(other)] == other for other in others)]
    if meant:
        return meant[0]
    families = ", ".join(item["ctx"]["expected"] for item in errors if item["loc"][-1] == "family")
    return errors[0] | ({"msg": f"Input should be one of {families}"} if families else {})


def refuse_unknown_keys(data: object, kind: object, where: str) -> None:
    """Raises ConfigError on the first key, at any depth, that the dataclass `kind` does not have."""
    if isinstance(kind, types.UnionType):
        kind = member_of(kind, data)
    if not dataclasses.is_dataclass(kind) or not isinstance(data, dict):
        return
    hints = typing.get_type_hints(kind)
    for key, value in data.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {key!r}; {suggestion(key, hints)}")
        refuse_unknown_keys(value, hints[key], f"{where}: {key}")


def member_of(union: types.UnionType, data: object) -> object:
    """The dataclass of a union that the data is for: told by its `family`, or the only one."""
    members = [option for option in union.__args__ if dataclasses.is_dataclass(option)]
    family = data.get("family") if isinstance(data, dict) else None
    return next((member for member in members if getattr(member, "family", family) == family), None)


# These name a file, a program or a place: somebody else's folder shall not decide what is opened or run here. They come from
# the command line, a preset or Python, never from a config.json.
PLACES = {
    "preset",  # RUN is runs/PRESET unless it is given
    "data.source",
    "data.cache",
    "eval.extractor",
    "eval.extractor_weights",
    "watch.held_out",
    "classify.test",
    "init_from",
}


def with_own_places(stored: RunConfig, own: RunConfig) -> RunConfig:
    """A config out of a file, in which what names files, programs and places (PLACES) is as in `own`."""
    known = flatten(own)
    return replaced(stored, {name: known[name] for name in PLACES})


# A run may be resumed with other values of these: they do not change what the steps already made would have been.
RESUMABLE = {
    "data.source",
    "data.cache",
    "data.skip_broken",
    "found.name",
    "train.steps",
    "train.minutes",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.on_divergence",
    "train.max_rollbacks",
    "train.keep_checkpoints",
    "train.recompute",
}


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What stands against resuming `old` as `new`: "train.batch: 50 there, 64 here"."""
    before, after = flatten(old), flatten(new)
    resumable = RESUMABLE if new.train.lr_decay_start is None else RESUMABLE - {"train.steps"}  # rates fall towards it
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    names = [name for name in changed if name not in resumable and not name.startswith(("eval.", "watch.", "classify."))]
    return [f"{name}: {before.get(name)} there, {after.get(name)} here" for name in names]
