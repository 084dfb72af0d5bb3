"""Fields of a run's config that have no effect under the values of others, so that the command line can say so."""

from biggan.configs.overrides import flatten
from biggan.configs.run import RunConfig
from biggan.data.dataset import parse_prepared
from biggan.metrics.evaluate import NEEDS_REFERENCE, parse_recipe


def unused_fields(config: RunConfig) -> dict[str, str]:
    """{dotted name of a field: what would have to be set for it to have an effect} of a config that `check` accepts."""
    model, train, monitor = config.model, config.train, config.monitor
    layout = None if config.data.source is None else parse_prepared(config.data.source)[0]
    generator_norm, discriminator_norm = model.generator.norm, getattr(model.discriminator, "norm", "none")
    has_batch_norm = "batch" in (generator_norm, *discriminator_norm.split("-"))
    scores = {request.score for request in parse_recipe(config.eval.recipe)}
    needs: dict[str, tuple[bool, str]] = {
        "data.shuffle_buffer": (layout == "wds", "a wds: source"),
        "data.allow_empty_classes": (layout is None, "a source of class folders"),
        "data.skip_broken": (layout != "packed", "a source that is not decoded yet"),
        "train.tf32": (train.device != "cpu", "a GPU"),
        "train.cudnn_benchmark": (train.device != "cpu" and not train.deterministic, "a GPU, and not train.deterministic"),
        "train.max_rollbacks": (train.on_divergence == "roll-back", "train.on_divergence=roll-back"),
        "train.ema_start": (
            config.init_from is None and train.ema_start < train.steps,
            "a run that does not start from another, and more train.steps than that",
        ),
        "train.standing_stats_batches": (generator_norm == "batch", "model.generator.norm=batch"),
        "train.sync_bn_group_size": (has_batch_norm, "a network with batch normalization"),
        "train.sync_minibatch_discrimination": (
            model.discriminator.minibatch_kernels is not None,
            "model.discriminator.minibatch_kernels",
        ),
        "eval.reference_images": (bool(scores & {*NEEDS_REFERENCE}), f"one of {', '.join(NEEDS_REFERENCE)} in eval.recipe"),
        "eval.extractor_weights": (
            not config.eval.extractor.startswith("module:"),
            "an extractor that is not module:FILE, which holds its own weights",
        ),
        "monitor.rollback_r1_interval": (monitor.rollback_r1 is not None, "monitor.rollback_r1"),
        "classify.every": (config.classify.test_data is not None, "classify.test_data"),
        "model.generator.reference_batch_size": (generator_norm == "virtual", "model.generator.norm=virtual"),
        "model.discriminator.minibatch_kernel_dim": (
            model.discriminator.minibatch_kernels is not None,
            "model.discriminator.minibatch_kernels",
        ),
        "model.embedding_dim": (getattr(model, "class_embedding", None) != "per-class", "a shared class embedding"),
        "model.norm_epsilon": (
            generator_norm != "none" or discriminator_norm != "none",
            "a network with batch normalization",
        ),
    }
    for name in ("recipe", "extractor", "extractor_weights", "reference_images", "max_time_fraction"):
        if config.eval.every is None:
            needs[f"eval.{name}"] = (False, "eval.every")
    for name in ("singular_values", "max_time_fraction", "held_out"):
        needs[f"monitor.{name}"] = (monitor.every is not None, "monitor.every")
    for name in ("max_rollbacks", "rollback_lr_factor", "rollback_r1", "rollback_r1_interval"):
        if monitor.on_alarm != "roll-back":
            needs[f"monitor.{name}"] = (False, "monitor.on_alarm=roll-back")
    for network in ("generator", "discriminator"):
        part, path = getattr(config.regularization, network), f"regularization.{network}"
        needs[f"{path}.orthogonal_form"] = (part.orthogonal is not None, f"{path}.orthogonal")
        bounded = part.sigma_penalty is not None or part.sigma_clamp
        needs[f"{path}.sigma_layers"] = (bounded, f"{path}.sigma_penalty or sigma_clamp")
    part, path = config.regularization.discriminator, "regularization.discriminator"
    needs[f"{path}.r1_interval"] = (part.r1 is not None or part.r2 is not None, f"{path}.r1 or r2")
    needs[f"{path}.lecam_decay"] = (part.lecam is not None, f"{path}.lecam")
    known = flatten(config)
    return {name: what for name, (used, what) in needs.items() if not used and name in known}


def useless_settings(config: RunConfig, base: RunConfig) -> list[str]:
    """A line for each field that was set to another value than in `base` and has no effect."""
    before, after = flatten(base), flatten(config)
    missing = object()
    return [
        f"{name}={after[name]} has no effect: it needs {what}"
        for name, what in unused_fields(config).items()
        if before.get(name, missing) != after[name]
    ]
