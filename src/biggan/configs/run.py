"""A whole run as one frozen value: RunConfig, its JSON round trip, and the checks that span fields.

Each part is a dataclass beside its component. Nobody writes into a config after `check`; unknown keys are errors.
"""

import dataclasses
from dataclasses import dataclass, field

import tyro

from biggan.configs.monitor import MonitorConfig
from biggan.configs.overrides import flatten, replace_fields
from biggan.configs.train import TrainConfig
from biggan.data.dataset import DataConfig, DatasetInfo
from biggan.metrics.classification import ClassifyConfig
from biggan.metrics.evaluate import EvalConfig
from biggan.models.biggan import BigGANConfig
from biggan.models.registry import ModelConfig, check_feature_layer
from biggan.objectives.diffaugment import AugmentConfig
from biggan.objectives.objective_config import ObjectiveConfig
from biggan.objectives.regularization_config import RegularizationConfig
from biggan.runtime.errors import ConfigError
from biggan.runtime.text import shorten
from biggan.sampling.latents import LatentConfig


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
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    init_from: str | None = None
    """A run or a model folder whose weights the run starts from; its model and its latents are then those of the folder.
    RUN@STEP: one of its checkpoints, and then all that the run was made with holds here too, but for what is given, and for
    data sources, extractors and folders, which have to be given again: the run may be somebody else's."""
    dataset: tyro.conf.Suppress[DatasetInfo | None] = None
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
        self.monitor.check()
        self.classify.check()
        self.check_classes()
        if self.train.optimizer_state == "keep" and self.init_from is None:
            raise ConfigError("train.optimizer_state=keep is for a run that starts from another: add --init-from RUN")

    def check_classes(self) -> None:
        """Raises ConfigError where a D shall tell classes that cannot, or is given labels that it does not use."""
        supervised, family = self.objective.loss == "semi-supervised", self.model.family
        if supervised and not self.model.has_class_logits:
            how = "use a preset improved-*, or --model.discriminator.head classes"
            raise ConfigError(f"objective.loss=semi-supervised: D of model.family={family} gives no class logits: {how}")
        if self.data.labels_per_class is not None and not supervised:
            per_class = self.data.labels_per_class
            raise ConfigError(f"data.labels_per_class={per_class} is for --objective.loss semi-supervised: leave it out")
        if self.data.label_seed != DataConfig.label_seed and self.data.labels_per_class is None:
            raise ConfigError(f"data.label_seed={self.data.label_seed} needs data.labels_per_class: leave it out")
        if self.train.discriminator_ema_decay is not None and not supervised:
            average = self.train.discriminator_ema_decay
            raise ConfigError(
                f"train.discriminator_ema_decay={average} is for a D that learns classes (--objective.loss "
                f"semi-supervised), not for the {self.objective.loss} loss: give None"
            )
        if self.classify.test_data is not None and self.train.discriminator_ema_decay is None:
            raise ConfigError(
                "classify.test_data needs an averaged discriminator: add --train.discriminator-ema-decay 0.9999"
            )


def resolve(config: RunConfig, facts: DatasetInfo) -> RunConfig:
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
        check_feature_layer(model, config.objective.feature_layer)
    return dataclasses.replace(config, model=model, latent=latent, dataset=facts)


# These name a file, a program or a place: somebody else's folder shall not decide what is opened or run here. They come from
# the command line, a preset or Python, never from a config.json.
PLACES = {
    "preset",  # RUN is runs/PRESET-DATA unless it is given
    "data.source",
    "data.cache",
    "eval.extractor",
    "eval.extractor_weights",
    "monitor.held_out",
    "classify.test_data",
    "init_from",
}


def with_own_places(stored: RunConfig, own: RunConfig) -> RunConfig:
    """A config out of a file, in which what names files, programs and places (PLACES) is as in `own`."""
    known = flatten(own)
    return replace_fields(stored, {name: known[name] for name in PLACES})


# A run may be resumed with other values of these: they do not change what the steps already made would have been.
RESUMABLE = {
    "data.source",
    "data.cache",
    "data.labels",
    "data.allow_empty_classes",
    "data.skip_broken",
    "data.verify",
    "dataset.name",
    "train.steps",
    "train.minutes",
    "train.log_every",
    "train.profile",
    "train.sample_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.on_divergence",
    "train.max_rollbacks",
    "train.keep_checkpoints",
    "train.activation_checkpointing",
    "train.capture",
    "train.compile",
    "train.cudnn_benchmark",
}


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What stands against resuming `old` as `new`: "train.batch: 50 there, 64 here"."""
    before, after = flatten(old), flatten(new)
    if (old.init_from is None) == (
        new.init_from is None
    ):  # once it has begun, where its weights came from is not read again
        before, after = before | {"init_from": None}, after | {"init_from": None}
    resumable = RESUMABLE if new.train.lr_decay_start is None else RESUMABLE - {"train.steps"}  # rates fall towards it
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    names = [name for name in changed if name not in resumable and not name.startswith(("eval.", "monitor.", "classify."))]
    data = [describe_data(old, new)] if any(name.startswith("dataset.") for name in names) else []
    words = [
        f"{name}: {shorten(str(before.get(name)), 80)} there, {shorten(str(after.get(name)), 80)} here"
        for name in names
        if name[:8] != "dataset."
    ]
    return data + words


def describe_data(old: RunConfig, new: RunConfig) -> str:
    """That the images of two runs are not the same, in words."""
    texts = []
    for facts in (old.dataset, new.dataset):
        texts.append(
            "none"
            if facts is None
            else f"{facts.images} images of {shorten(str(facts.name), 80)}, {len(facts.class_names)} classes"
        )
    if texts[0] == texts[1]:
        return f"the data: other images or labels under the same name ({texts[0]})"
    return f"the data: {texts[0]} there, {texts[1]} here"
