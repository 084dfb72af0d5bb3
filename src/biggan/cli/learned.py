"""biggan truncation, leakage, memorisation: what a model has learned."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import tyro

from biggan.cli.arguments import parse, say, say_nothing
from biggan.cli.evaluate import (
    Measuring,
    as_it_is,
    cache_of,
    images_bar,
    open_extractor_for,
    open_real,
    resolution_of,
    sampler_of,
)
from biggan.cli.look import save_picture, write_sheet
from biggan.distributed import ALONE
from biggan.errors import CheckpointError, ConfigError
from biggan.latents import LatentConfig
from biggan.precision import choose_precision

if TYPE_CHECKING:
    from biggan.analysis.truncation import Point
    from biggan.distributed import World

RESAMPLED = "drawn again"
UNTRUNCATED = 6.0  # no latent coordinate is beyond it, so that this truncation is none


@dataclass(frozen=True, kw_only=True)
class TruncationCommand(Measuring):
    """Scores at many truncations: JSON, plots and a sheet at each threshold."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    thresholds: str = "0.1:2:7"
    """LOW:HIGH:COUNT at equal ratios, or a list; sampling without truncation comes first in any case."""
    recipe: str = "fid10k,is10k,prdc10k"
    """Scores and how many images each."""
    latents: bool = False
    """Beside truncation by drawing again, the scaled form of the released demos: t times a normal cut at 2."""
    store: bool = False
    """Keep the statistics of every threshold with the model: sampling at these and between them then needs no collecting."""
    out: Path | None = None
    """Folder; None: truncation/ in the folder of the model."""


@dataclass(frozen=True, kw_only=True)
class LeakageCommand(Measuring):
    """Which classes are taken for which: an external classifier on images generated of every class."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    per_class: int = 100
    """Images of each class."""
    worst: int = 6
    """Pairs that are named, and shown on the sheet."""
    truncation: float | None = None
    out: Path = Path("leakage")
    """Folder for confusion.json and worst.png."""


@dataclass(frozen=True, kw_only=True)
class MemorisationCommand(Measuring):
    """How many images the discriminator of a run calls real: of its training set, of images held out, of generated ones."""

    model: tyro.conf.Positional[Path]
    """A run folder, with its last checkpoint."""
    held_out: str
    """Real images that it was not trained on; --data: those that it was."""
    n: int = 10_000
    """At most so many of each."""


def truncation(arguments: list[str]) -> int:
    """biggan truncation RUN --data SOURCE [options]"""
    command = parse(TruncationCommand, arguments, "biggan truncation")
    if command.data is None:
        raise ConfigError("a truncation curve compares with real images: add --data SOURCE")
    from biggan.analysis.plots import plot_curves
    from biggan.analysis.truncation import columns
    from biggan.distributed import together

    folder = command.out or command.model / "truncation"
    device = choose_precision(command.device, "auto", "channels-last").device
    with together(device) as world:
        measured = measure_curves(command, folder, world)
    if not world.is_first:
        return 0
    best = columns(measured.curves[RESAMPLED], measured.real_entropy)
    for what, point in best.items():
        print(f"{what}: threshold {point.name}")
    record = {
        "score_of_real_images": measured.real_entropy,
        "best": {what: point.threshold for what, point in best.items()},
        "curves": {label: [point.record() for point in points] for label, points in measured.curves.items()},
        "recipe": measured.curves[RESAMPLED][0].evaluation.recipe,
    }
    try:
        (folder / "curve.json").write_text(json.dumps(record, indent=2) + "\n")
        plots = plot_curves(measured.curves, folder)
    except OSError as error:
        raise ConfigError(f"the curve cannot be written to {folder} ({error}): give another --out") from error
    if command.store:
        store_statistics(command.model, measured.statistics)
    print("\n".join(f"plot {plot}" for plot in plots))
    return 0


class Measured(NamedTuple):
    """What a truncation curve is drawn from."""

    curves: dict[str, list["Point"]]
    statistics: dict[float | None, dict[str, torch.Tensor]]
    """Of batch normalisation, at each threshold."""
    real_entropy: float | None
    """The Inception Score of the real images, if it was asked for."""


def measure_curves(command: TruncationCommand, folder: Path, world: "World") -> Measured:
    """Every point, printed as it comes, with its sheet; as one of the ranks."""
    from biggan.analysis.truncation import curve, thresholds_of
    from biggan.metrics.evaluate import evaluate, parse_recipe

    wanted, thresholds = parse_recipe(command.recipe), [None, *thresholds_of(command.thresholds)]
    if command.store and thresholds[1] >= UNTRUNCATED:
        raise ConfigError(
            f"--store keeps thresholds below {UNTRUNCATED:g}, where they stop to matter: leave out larger ones"
        )
    samplers = {RESAMPLED: sampler_of(command.model, command.device, world)}
    if command.latents:
        samplers["scaled"] = scaled = sampler_of(command.model, command.device, world)
        scaled.prior = LatentConfig(distribution="scaled-truncated-normal").prior()
    for sampler in samplers.values():  # the curve is of statistics collected anew at each threshold
        sampler.statistics_at, sampler.statistics_table = "nowhere", None
    reference = open_real(command, command.data, resolution_of(samplers[RESAMPLED]), world)
    extractor = open_extractor_for(command, world)
    report, progress = (say, images_bar) if world.is_first else (say_nothing, as_it_is)
    shared = {"cache": cache_of(command), "world": world, "progress": progress, "report": report}
    entropy = [want._replace(images=min(want.images, reference.count)) for want in wanted if want.score == "is"]
    real = evaluate(reference, None, extractor, tuple(entropy), **shared).scores if entropy else {}

    measured = Measured({}, {}, next((score["mean"] for score in real.values()), None))
    for label, sampler in samplers.items():
        asked = thresholds if label == RESAMPLED else [t for t in thresholds if t is not None and t <= 1]
        points = curve(sampler, str(command.model), asked, reference, extractor, wanted, seed=command.seed, **shared)
        for point in points:
            measured.curves.setdefault(label, []).append(point)
            sheet = sampler.class_sheet(truncation=point.threshold, seed=command.seed)
            if label == RESAMPLED:
                buffers = sampler.generator.named_buffers()
                measured.statistics[point.threshold] = {n: value.clone() for n, value in buffers if ".standing" in n}
            if world.is_first:
                save_picture(sheet, folder / f"sheet-{label.replace(' ', '-')}-{point.name}.png")
                scores = "  ".join(f"{score} {point.value(score):.4g}" for score in point.evaluation.scores)
                print(f"{label:12} {point.name:>6}  {scores}", flush=True)
    return measured


def store_statistics(model: Path, table: dict[float | None, dict[str, torch.Tensor]]) -> None:
    """Write what was collected at each threshold into the model folder. Raises CheckpointError where that cannot be done."""
    from biggan.checkpoint import ModelFolder, save_model_folder

    folder = ModelFolder(model)
    if folder.path.is_file():
        raise CheckpointError(f"{model} is one file: statistics go with a model folder")
    ascending = sorted(threshold for threshold in table if threshold is not None)
    sets = [table[threshold] for threshold in ascending] + [table[None]]
    card = dataclasses.replace(folder.card, statistics_at=(*ascending, UNTRUNCATED))
    statistics = {name: torch.stack([values[name] for values in sets]).cpu() for name in sets[0]}
    save_model_folder(folder.path, card, {"statistics": statistics})
    say(f"statistics of {len(sets)} truncations are kept in {folder.path}")


def leakage(arguments: list[str]) -> int:
    """biggan leakage RUN --extractor module:FILE [options]"""
    command = parse(LeakageCommand, arguments, "biggan leakage")
    if command.per_class < 1 or command.worst < 1:
        raise ConfigError("--per-class and --worst must be at least 1")
    from biggan.analysis.explore import confusion, worst_pairs

    sampler, extractor = sampler_of(command.model, command.device, ALONE), open_extractor_for(command, ALONE)
    names = sampler.class_names
    total = command.per_class * len(names)
    labels = sampler.labels_in_turn(total, None)
    batches = sampler.batches(range(total), labels, truncation=command.truncation, seed=command.seed, batch=100)
    pictures = zip(batches, labels.split(100), strict=True)
    counts, examples = confusion(images_bar(pictures, total, "drawing"), extractor, len(names))
    pairs = worst_pairs(counts, command.worst)
    right = counts.diagonal().sum().item() / total
    print(f"named as asked {right:.1%} of {total} images")
    for asked, named, share in pairs:
        print(f"  {share:6.1%} of {names[asked]} are named {names[named]}")
    record = {"classes": names, "asked_by_named": counts.tolist(), "extractor": extractor.name, "sha256": extractor.sha256}
    record |= {"truncation": command.truncation, "seed": command.seed, "per_class": command.per_class}
    try:
        command.out.mkdir(parents=True, exist_ok=True)
        (command.out / "confusion.json").write_text(json.dumps(record) + "\n")
    except OSError as error:
        raise ConfigError(f"{command.out} cannot be written ({error}): give another --out") from error
    if pairs:
        blank = torch.zeros_like(next(iter(examples.values()))[0])
        rows = [(examples[asked, named] + [blank] * 10)[:10] for asked, named, _ in pairs]
        write_sheet(torch.stack([image for row in rows for image in row]), 10, command.out / "worst.png")
    print(f"counts and a row for each pair: {command.out}")
    return 0


def memorisation(arguments: list[str]) -> int:
    """biggan memorisation RUN --data TRAIN --held-out TEST [options]"""
    command = parse(MemorisationCommand, arguments, "biggan memorisation")
    if command.data is None or command.n < 1:
        raise ConfigError("memorisation compares two real sets: add --data SOURCE (trained on), and --n at least 1")
    from biggan import sets
    from biggan.analysis.explore import called_real
    from biggan.models import FAMILIES
    from biggan.starting import initial_weights, parse_start

    weights = initial_weights(parse_start(str(command.model)), say)
    if "discriminator" not in weights:
        raise CheckpointError(f"{command.model} holds no discriminator: name a run folder with its checkpoints")
    sampler = sampler_of(command.model, command.device, ALONE)
    config, device = sampler.generator.config, sampler.precision.device
    sampler.generator.load_state_dict(weights["ema"])  # of the same step as the discriminator
    sampler.statistics_at, sampler.statistics_table = "nowhere", None
    discriminator = FAMILIES[config.family].discriminator(config)
    discriminator.load_state_dict(weights["discriminator"])
    discriminator = sampler.precision.place(discriminator).eval().requires_grad_(False)
    train = open_real(command, command.data, config.resolution, ALONE)
    held_out = open_real(command, command.held_out, config.resolution, ALONE)
    for images in (train, held_out):
        if images.class_names != sampler.class_names:
            raise ConfigError(f"{images.description['data']} has other classes than the model")
    drawn = sets.drawn(sampler, str(command.model), seed=command.seed)
    for name, images in (("trained on", train), ("held out", held_out), ("generated", drawn)):
        count = min(command.n, images.count or command.n)
        with sampler.precision.autocast():
            share = called_real(discriminator, images_bar(images.batches(count), count, name), device)
        print(f"{name:12} {share:6.1%} of {count} images are called real")
    return 0
