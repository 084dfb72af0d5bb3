"""biggan leakage, memorization: what a model has learned."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from biggan.cli.common import check_between, check_out_folder, parse, save_image_grid, writing_to
from biggan.cli.inputs import ExtractorOptions, RealDataOptions, load_sampler, open_real, open_scoring_extractor
from biggan.cli.output import say
from biggan.runtime.atomic_io import write_file
from biggan.runtime.environment import SINGLE_PROCESS
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.progress import image_progress_bar


@dataclass(frozen=True, kw_only=True)
class LeakageCommand(ExtractorOptions):
    """Which classes are taken for which: an external classifier on images generated of every class."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    per_class: int = 100
    """Generated images of each class."""
    worst: int = 6
    """How many of the most confused pairs of classes are printed, and shown on the sheet."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; None: no truncation."""
    out: Path = Path("leakage")
    """Folder for confusion.json and worst.png."""


@dataclass(frozen=True, kw_only=True)
class MemorizationCommand(RealDataOptions):
    """The fraction of images that the discriminator of a run classifies as real: of its training set, of images held out,
    and of generated ones."""

    model: tyro.conf.Positional[Path]
    """A run folder, with its last checkpoint."""
    held_out: str
    """Real images that it was not trained on; --data: those that it was."""
    n: int = 10_000
    """At most so many of each."""


def leakage(arguments: list[str]) -> int:
    """biggan leakage RUN --extractor module:FILE [options]"""
    command = parse(LeakageCommand, arguments, "biggan leakage")
    check_between(per_class=(command.per_class, 1, 1_000_000), worst=(command.worst, 1, 1000))
    check_out_folder(command.out)
    from biggan.analysis.diagnostics import compute_confusion_matrix, most_confused_pairs

    sampler = load_sampler(command.model, command.device, SINGLE_PROCESS, command.cache)
    sampler.check_conditional("leakage compares the classes of a generator")
    sampler.prior.check_truncation(command.truncation)
    extractor = open_scoring_extractor(command)
    names = sampler.class_names
    total = command.per_class * len(names)
    labels = sampler.cycle_labels(total, None)
    batches = sampler.batches(range(total), labels, truncation=command.truncation, seed=command.seed, batch=100)
    image_batches = zip(batches, labels.split(100), strict=True)
    bar = image_progress_bar(image_batches, total, "generating")
    counts, examples = compute_confusion_matrix(bar, extractor, len(names))
    pairs = most_confused_pairs(counts, command.worst)
    right = counts.diagonal().sum().item() / total
    say(f"named as asked {right:.1%} of {total} images")
    for asked, named, share in pairs:
        say(f"  {share:6.1%} of {names[asked]} are named {names[named]}")
    record = {"classes": names, "asked_by_named": counts.tolist(), "extractor": extractor.name, "sha256": extractor.sha256}
    record |= {"truncation": command.truncation, "seed": command.seed, "per_class": command.per_class}
    with writing_to(command.out):
        command.out.mkdir(parents=True, exist_ok=True)
        write_file(command.out / "confusion.json", (json.dumps(record) + "\n").encode())
    if pairs:
        blank = torch.zeros_like(next(iter(examples.values()))[0])
        rows = [(examples[asked, named] + [blank] * 10)[:10] for asked, named, _ in pairs]
        save_image_grid(torch.stack([image for row in rows for image in row]), 10, command.out / "worst.png")
    say(f"counts and a row for each pair: {command.out}")
    return 0


def memorization(arguments: list[str]) -> int:
    """biggan memorization RUN --data TRAIN --held-out TEST [options]"""
    command = parse(MemorizationCommand, arguments, "biggan memorization")
    check_between(n=(command.n, 1, 10_000_000))
    if command.data is None:
        raise ConfigError("memorization compares two real sets: add --data SOURCE, the images that it was trained on")
    from biggan.analysis.diagnostics import fraction_classified_as_real
    from biggan.checkpoints.init_from import load_initial_weights, parse_init_from, read_run_config
    from biggan.checkpoints.run_dir import RunDir
    from biggan.checkpoints.tensors import loading_checkpoint
    from biggan.models.registry import FAMILIES
    from biggan.objectives.objective_config import ObjectiveConfig
    from biggan.sampling import image_sets

    weights = load_initial_weights(parse_init_from(str(command.model)))
    if "discriminator" not in weights:
        raise CheckpointError(f"{command.model} holds no discriminator: name a run folder with its checkpoints")
    # An imported model folder has no run config: BigGAN-PyTorch, from which it comes, trains with the hinge loss.
    is_run = RunDir(command.model).checkpoints.is_dir()
    objective = (read_run_config(command.model).objective if is_run else ObjectiveConfig()).build()
    objective.check_decision_boundary()
    sampler = load_sampler(command.model, command.device, SINGLE_PROCESS, command.cache)
    config: Any = sampler.generator.config
    device = sampler.precision.device
    discriminator = FAMILIES[config.family].discriminator(config)
    with loading_checkpoint(command.model):
        sampler.generator.load_state_dict(weights["ema"])  # of the same step as the discriminator
        discriminator.load_state_dict(weights["discriminator"])
    sampler.forget_statistics()
    discriminator = sampler.precision.place(discriminator).eval().requires_grad_(False)
    train = open_real(command, command.data, config.resolution, SINGLE_PROCESS, labels=command.labels)
    held_out = open_real(command, command.held_out, config.resolution, SINGLE_PROCESS, labels=command.labels)
    for images in (train, held_out):
        if sampler.is_conditional and images.class_names != sampler.class_names:
            raise ConfigError(f"{images.description['data']} has other classes than the model")
    generated = image_sets.generated_images(sampler, str(command.model), seed=command.seed)
    for name, images in (("trained on", train), ("held out", held_out), ("generated", generated)):
        count = min(command.n, images.count or command.n)
        with sampler.precision.autocast():
            bar = image_progress_bar(images.batches(count), count, name)
            fraction = fraction_classified_as_real(discriminator, bar, device, objective)
        say(f"{name:12} {fraction:6.1%} of {count} images are classified as real")
    return 0
