"""biggan truncation: scores of a generator against the truncation threshold."""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import tyro

from biggan.cli.common import check_out_folder, parse, save_image, writing_to
from biggan.cli.inputs import ScoringOptions, load_sampler, open_real, open_scoring_extractor
from biggan.cli.output import say
from biggan.runtime.atomic_io import metrics_cache, write_file
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.precision import choose_device
from biggan.sampling.latents import LatentConfig

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from biggan.analysis.truncation import CurvePoint
    from biggan.runtime.environment import World

RESAMPLED = "resampled"

UNTRUNCATED = 6.0  # no latent coordinate is beyond it, so that this truncation is none


@dataclass(frozen=True, kw_only=True)
class TruncationCommand(ScoringOptions):
    """Scores at many truncations: JSON, plots and a sheet at each threshold."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    thresholds: str = "0.1:2:7"
    """LOW:HIGH:COUNT at equal ratios, or a list; sampling without truncation comes first in any case."""
    recipe: str = "fid10k,is10k,prdc10k"
    """Scores and how many images each."""
    scaled_latents: bool = False
    """Beside truncation by resampling, the scaled form of the released demos: t times a normal cut at 2."""
    store: bool = False
    """Keep the statistics of every threshold with the model: sampling at these and between them then needs no collecting."""
    out: Path | None = None
    """Folder; None: truncation/ in the folder of the model."""


def truncation(arguments: list[str]) -> int:
    """biggan truncation RUN --data SOURCE [options]"""
    command = parse(TruncationCommand, arguments, "biggan truncation")
    if command.data is None:
        raise ConfigError("a truncation curve compares with real images: add --data SOURCE")
    from biggan.analysis.truncation import table2_columns
    from biggan.analysis.truncation_plots import plot_curves
    from biggan.checkpoints.run_dir import refuse_links
    from biggan.runtime.distributed import process_group

    folder = command.out or command.model / "truncation"
    if command.out is None:
        refuse_links(command.model, "truncation")
    check_out_folder(folder)
    device = choose_device(command.device)
    with process_group(device) as world:
        measured = measure_curves(command, folder, world)
    if not world.is_rank_zero:
        return 0
    best = table2_columns(measured.curves[RESAMPLED], measured.real_entropy)
    for what, point in best.items():
        say(f"{what}: threshold {point.name}")
    record = {
        "score_of_real_images": measured.real_entropy,
        "best": {what: point.threshold for what, point in best.items()},
        "curves": {label: [point.record() for point in points] for label, points in measured.curves.items()},
        "recipe": measured.curves[RESAMPLED][0].evaluation.recipe,
        "cautions": measured.curves[RESAMPLED][0].evaluation.cautions,
    }
    with writing_to(folder, "the curve"):
        write_file(folder / "curve.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
        plots = plot_curves(measured.curves, folder)
    if command.store:
        store_statistics(command.model, measured.statistics)
    say(*(f"plot {plot}" for plot in plots))
    return 0


class Measured(NamedTuple):
    """What a truncation curve is drawn from."""

    curves: dict[str, list["CurvePoint"]]
    statistics: dict[float | None, dict[str, torch.Tensor]]
    """Of batch normalization, at each threshold."""
    real_entropy: float | None
    """The Inception Score of the real images, if it was asked for."""


def measure_curves(command: TruncationCommand, folder: Path, world: "World") -> Measured:
    """Every point, printed as it comes, with its sheet; as one of the ranks."""
    from biggan.analysis.truncation import parse_thresholds, truncation_curve
    from biggan.metrics.cautions import log_cautions
    from biggan.metrics.evaluate import evaluate, parse_recipe

    wanted, thresholds = parse_recipe(command.recipe), [None, *parse_thresholds(command.thresholds)]
    if command.store and thresholds[1] >= UNTRUNCATED:
        raise ConfigError(
            f"--store keeps thresholds below {UNTRUNCATED:g}, from which on truncation has no effect: leave out larger ones"
        )
    samplers = {RESAMPLED: load_sampler(command.model, command.device, world, command.cache)}
    if command.scaled_latents:
        samplers["scaled"] = scaled = load_sampler(command.model, command.device, world, command.cache)
        scaled.prior = LatentConfig(distribution="scaled-truncated-normal").build()
    for sampler in samplers.values():
        for threshold in thresholds:
            sampler.prior.check_truncation(threshold)
    for sampler in samplers.values():  # the curve is of statistics collected anew at each threshold
        sampler.forget_statistics()
    size = samplers[RESAMPLED].generator.config.resolution
    reference = open_real(command, command.data, size, world, labels=command.labels)
    extractor = open_scoring_extractor(command)
    shared = {"cache": metrics_cache(command.cache), "world": world}
    entropy = [want._replace(images=min(want.images, reference.count)) for want in wanted if want.score == "is"]
    real = evaluate(reference, None, extractor, tuple(entropy), **shared).scores if entropy else {}

    cautions: set[str] = set()
    measured = Measured({}, {}, next((score["mean"] for score in real.values()), None))
    for label, sampler in samplers.items():
        asked = thresholds if label == RESAMPLED else [t for t in thresholds if t is not None and t <= 1]
        options = {"seed": command.seed, **shared}
        points = truncation_curve(sampler, str(command.model), asked, reference, extractor, wanted, **options)
        for point in points:
            log_cautions(point.evaluation.cautions, cautions)
            measured.curves.setdefault(label, []).append(point)
            sheet = sampler.class_grid(truncation=point.threshold, seed=command.seed)
            if label == RESAMPLED:
                buffers = sampler.generator.named_buffers()
                measured.statistics[point.threshold] = {n: value.clone() for n, value in buffers if ".standing" in n}
            if world.is_rank_zero:
                save_image(sheet, folder / f"sheet-{label}-{point.name}.png")
                scores = "  ".join(f"{score} {point.value(score):.4g}" for score in point.evaluation.scores)
                say(f"{label:12} {point.name:>6}  {scores}")
    return measured


def store_statistics(model: Path, table: dict[float | None, dict[str, torch.Tensor]]) -> None:
    """Write what was collected at each threshold into the model folder. Raises CheckpointError where that cannot be done."""
    from biggan.checkpoints.model_dir import ModelDir, save_model_dir

    folder = ModelDir(model)
    if folder.path.is_file():
        raise CheckpointError(f"{model} is one file: statistics go with a model folder")
    ascending = sorted(threshold for threshold in table if threshold is not None)
    sets = [table[threshold] for threshold in ascending] + [table[None]]
    card = dataclasses.replace(folder.card, statistics_at=(*ascending, UNTRUNCATED))
    statistics = {name: torch.stack([values[name] for values in sets]).cpu() for name in sets[0]}
    save_model_dir(folder.path, card, {"statistics": statistics})
    logger.info("statistics of %d truncations are kept in %s", len(sets), folder.path)
