"""Files of earlier versions: one table of renames for configs, logs and tensors, applied wherever such a file is read.

A config is looked at as nested dictionaries of JSON, a field by its dotted path. Tests load every config, log and model that
the project has recorded.
"""

import functools
import re
from collections.abc import Collection
from typing import Any, NamedTuple


class Renamed(NamedTuple):
    """A field that has moved. `families`: of these model families only; None: of all."""

    old: str
    new: str
    families: tuple[str, ...] | None = None


RESNETS = ("biggan", "biggan-deep", "sagan", "sngan")
MLP, CONV, IMAGENET = ("improved-mlp",), ("improved-conv",), ("improved-imagenet",)
IMPROVED = MLP + CONV + IMAGENET

FIELDS = (
    Renamed("found", "dataset"),
    Renamed("watch", "monitor"),
    Renamed("monitor.share", "monitor.max_time_fraction"),
    Renamed("monitor.remedy_rates", "monitor.rollback_lr_factor"),
    Renamed("monitor.remedy_r1", "monitor.rollback_r1"),
    Renamed("monitor.remedy_r1_every", "monitor.rollback_r1_interval"),
    Renamed("eval.share", "eval.max_time_fraction"),
    Renamed("classify.test", "classify.test_data"),
    Renamed("data.labels_seed", "data.label_seed"),
    Renamed("train.generator_batches", "train.generator_batch_multiplier"),
    Renamed("train.compare_across_ranks", "train.sync_minibatch_discrimination"),
    Renamed("train.statistics_ranks", "train.sync_bn_group_size"),
    Renamed("train.moments", "train.optimizer_state"),
    Renamed("train.discriminator_average", "train.discriminator_ema_decay"),
    Renamed("train.recompute", "train.activation_checkpointing"),
    Renamed("train.standing_passes", "train.standing_stats_batches"),
    Renamed("objective.unsupervised", "objective.unsupervised_weight"),
    Renamed("regularization.generator_orthogonal", "regularization.generator.orthogonal"),
    Renamed("regularization.generator.gradient_norm", "regularization.generator.max_grad_norm"),
    Renamed("regularization.generator.historical_average", "regularization.generator.historical_averaging"),
    Renamed("regularization.discriminator.gradient_norm", "regularization.discriminator.max_grad_norm"),
    Renamed("regularization.discriminator.historical_average", "regularization.discriminator.historical_averaging"),
    Renamed("regularization.discriminator.gradient_every", "regularization.discriminator.r1_interval"),
    Renamed("model.skip_z", "model.latent_injection", RESNETS),
    Renamed("model.z_entry", "model.latent_injection", RESNETS),
    Renamed("model.spectral_epsilon", "model.spectral_norm_epsilon", RESNETS),
    Renamed("model.generator_kernel", "model.generator.kernel_size", RESNETS),
    Renamed("model.generator_dilation", "model.generator.dilation", RESNETS),
    Renamed("model.upsampling", "model.generator.upsampling", RESNETS),
    Renamed("model.generator_weights", "model.generator.reparametrization", RESNETS),
    Renamed("model.generator_attention", "model.generator.attention", RESNETS),
    Renamed("model.output_channels", "model.generator.output_channels", RESNETS),
    Renamed("model.discriminator_width", "model.discriminator.width", RESNETS),
    Renamed("model.discriminator_kernel", "model.discriminator.kernel_size", RESNETS),
    Renamed("model.discriminator_dilation", "model.discriminator.dilation", RESNETS),
    Renamed("model.discriminator_norm", "model.discriminator.norm", RESNETS),
    Renamed("model.discriminator_head", "model.discriminator.head", RESNETS),
    Renamed("model.discriminator_hidden", "model.discriminator.hidden_width", RESNETS),
    Renamed("model.discriminator_dropout", "model.discriminator.dropout", RESNETS),
    Renamed("model.discriminator_attention", "model.discriminator.attention", RESNETS),
    Renamed("model.generator_norm", "model.generator.norm"),
    Renamed("model.reference_batch", "model.generator.reference_batch_size"),
    Renamed("model.minibatch_kernels", "model.discriminator.minibatch_kernels"),
    Renamed("model.minibatch_dimensions", "model.discriminator.minibatch_kernel_dim"),
    Renamed("model.input_noise", "model.discriminator.input_noise", IMPROVED),
    Renamed("model.generator_hidden", "model.generator.hidden", MLP),
    Renamed("model.discriminator_hidden", "model.discriminator.hidden", MLP),
    Renamed("model.noise", "model.discriminator.noise", MLP),
    Renamed("model.width", "model.discriminator.width", CONV),
    Renamed("model.generator_width", "model.generator.width", CONV),
    Renamed("model.input_dropout", "model.discriminator.input_dropout", CONV),
    Renamed("model.dropout", "model.discriminator.dropout", CONV),
)

VALUES: dict[str, dict[Any, Any]] = {
    "model.latent_injection": {True: "chunks", False: "input"},
    "model.conditioning": {"perceptron": "mlp"},
    "latent.distribution": {"signs": "rademacher"},
    "augment.policy": {"colour": "color"},
}

LOG_KEYS = (
    (r"^D_loss_(real|fake|pair|class)$", r"D/loss_\1"),
    (r"^D_loss_sigmapenalty$", "D/sigma_penalty"),
    (r"^([DG])_loss_historicalaverage$", r"\1/historical_averaging"),
    (r"^G_loss_(fake|pair)$", "G/loss"),
    (r"^G_loss_features$", "G/feature_matching"),
    (r"^([DG])_loss_", r"\1/"),
    (r"^D_(real|fake)_right$", r"D/acc_\1"),
    (r"^D_(real|fake)$", r"D/logit_\1"),
    (r"^D_classes_right$", "D/acc_class"),
    (r"^D_trained_right$", "D/acc_train"),
    (r"^D_held_out_right$", "D/acc_held_out"),
    (r"^recognised$", "conditional_accuracy"),
    (r"^diversity_within$", "diversity_within_class"),
    (r"^class/", "class_norm/"),
    (r"^gradient/", "grad_norm/"),
    (r"^watch_seconds$", "monitor_seconds"),
    (r"^made_by$", "recipe_hash"),
    (r"^before_a_return$", "before_rollback"),
)

TENSORS = (
    (r"\brule\.left_vector$", "reparametrization.u"),
    (r"\brule\.gain(?=/|$)", "reparametrization.gain"),
    (r"\bstandardize\.(standing_\w+)$", r"normalize.\1"),
)

RUN_FILES = {
    "watch.jsonl": "monitor.jsonl",
    "tests.jsonl": "classifier_test.jsonl",
    "returns.json": "rollbacks.json",
}


def renamed_field(name: str, known: Collection[str]) -> str | None:
    """Today's name, one of `known`, of a field of earlier versions, which may depend on the model family; None: there is
    none."""
    names = [name]
    for field in FIELDS:
        names += [field.new + old.removeprefix(field.old) for old in names if f"{old}.".startswith(f"{field.old}.")]
    return next((new for new in names[1:] if new in known), None)


def migrate_config(data: Any) -> Any:
    """A config, or a model's config.json, of any earlier version in today's names and values. What is no nest of
    dictionaries is given back as it is, for the reader to refuse."""
    if not isinstance(data, dict):
        return data
    data = copy_tree(data)
    if isinstance(data.get("objective"), str):
        data["objective"] = {"loss": data["objective"]}
    model = data.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    for field in FIELDS:
        if field.families is None or family in field.families:
            move(data, field.old.split("."), field.new.split("."))
    for path, values in VALUES.items():
        *parents, leaf = path.split(".")
        owner = walk(data, parents)
        if isinstance(owner, dict) and leaf in owner:
            owner[leaf] = replace_values(owner[leaf], values)
    return data


def migrate_log_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a log with today's names."""
    return {migrate_name(name, LOG_KEYS): value for name, value in line.items()}


def migrate_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a checkpoint or a model under today's names."""
    return {migrate_name(name, TENSORS): tensor for name, tensor in tensors.items()}


@functools.cache
def migrate_name(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """The name by the first pattern of the table that it matches, else as it is. Cached: each line of a log has the same
    names."""
    for pattern, replacement in table:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def copy_tree(data: dict[str, Any]) -> dict[str, Any]:
    """The nest of dictionaries, so that the caller's stays as it is."""
    return {key: copy_tree(value) if isinstance(value, dict) else value for key, value in data.items()}


def walk(data: Any, path: list[str]) -> Any:
    """What lies at a path, None where there is nothing."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def move(data: dict[str, Any], old: list[str], new: list[str]) -> None:
    """Move a value to another path, where it is not overruled by one that is there already. Mutates the dictionaries."""
    owner = walk(data, old[:-1])
    if not isinstance(owner, dict) or old[-1] not in owner:
        return
    value, target = owner.pop(old[-1]), data
    for key in new[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            return
    target.setdefault(new[-1], value)


def replace_values(value: Any, values: dict[Any, Any]) -> Any:
    """A renamed value, or a list with renamed items."""
    if isinstance(value, list):
        return [replace_values(item, values) for item in value]
    renamed = isinstance(value, (str, bool)) and value in values
    return values[value] if renamed else value
