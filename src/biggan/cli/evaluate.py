"""biggan evaluate: scores of a generator, or of a set of images, against real images."""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from biggan.cli.common import check_between, check_out_file, parse, writing_to
from biggan.cli.inputs import ScoringOptions, is_model, load_sampler, open_real, open_scoring_extractor
from biggan.cli.output import say, say_text
from biggan.runtime.atomic_io import metrics_cache
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import choose_device
from biggan.runtime.text import shorten

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from biggan.metrics.evaluate import Evaluation, MetricRequest
    from biggan.metrics.statistics import ImageSet
    from biggan.runtime.environment import World


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(ScoringOptions):
    """Score a generator, or a set of images, against real images: Inception Score, FID, KID, precision, recall, density,
    coverage, FID within classes, accuracy of the extractor on the classes asked for."""

    samples: tyro.conf.Positional[str]
    """A run or model folder, or a data set."""
    recipe: str = "fid50k,is50k,kid50k,prdc10k"
    """Scores and how many images each: is, fid, kid, prdc, intra, accuracy."""
    truncation: float | None = None
    """Resample every latent coordinate of a generator until it is at most this far from 0; None: no truncation."""
    resolution: int | None = None
    """Size at which data sets are compared; None: the generator's, which is needed where there is none."""
    out: Path | None = None
    """JSON with the scores and their recipe; None: metrics/ in the folder of the model, or evaluation.json."""


def evaluate(arguments: list[str]) -> int:
    """biggan evaluate RUN_OR_DATA --data SOURCE --recipe fid50k,..."""
    command = parse(EvaluateCommand, arguments, "biggan evaluate")
    from biggan.metrics.cautions import log_cautions
    from biggan.metrics.evaluate import check_images, evaluate, format_table, parse_recipe
    from biggan.runtime.distributed import process_group

    wanted = parse_recipe(command.recipe)
    check_between(resolution=(command.resolution, 1, 4096))
    check_out_file(command.out)
    device = choose_device(command.device)
    with process_group(device) as world:
        samples, reference = open_sets(command, wanted, world)
        check_images(samples, reference, wanted)  # before an extractor is downloaded
        evaluation = evaluate(
            samples,
            reference,
            open_scoring_extractor(command),
            wanted,
            cache=metrics_cache(command.cache),
            world=world,
        )
    if not world.is_rank_zero:
        return 0
    log_cautions(evaluation.cautions, set())
    say_text(format_table(evaluation))
    out = command.out or default_out(command, evaluation)
    with writing_to(out, "the scores"):
        evaluation.save(out)
    say(f"scores {out}")
    return 0


def open_sets(
    command: EvaluateCommand, wanted: tuple["MetricRequest", ...], world: "World"
) -> tuple["ImageSet", "ImageSet | None"]:
    """What is measured, and what it is compared with. Raises UserError where one cannot be opened."""
    from biggan.metrics.evaluate import NEEDS_REFERENCE
    from biggan.sampling import image_sets

    for spec in (command.samples, command.data):
        if spec is not None and ":" not in spec and not os.path.exists(spec):
            raise ConfigError(f"{shorten(spec)}: no such run, model or data set")
    samplers = [
        load_sampler(Path(spec), command.device, world, command.cache) if spec is not None and is_model(spec) else None
        for spec in (command.samples, command.data)
    ]
    sampler, other = samplers
    sizes: set[Any] = {found.generator.config.resolution for found in samplers if found is not None}
    sizes |= set() if command.resolution is None else {command.resolution}
    if not sizes:
        raise ConfigError("two data sets are compared at one size: add --resolution 32, for example")
    if len(sizes) > 1 or min(sizes) < 1:
        raise ConfigError(f"images of different sizes cannot be compared: {' and '.join(map(str, sorted(sizes)))} pixels")
    (size,) = sizes
    if command.truncation is not None and sampler is None:
        raise ConfigError("--truncation is for generators, not for data sets")
    if command.seed != EvaluateCommand.seed and sampler is None and other is None:
        raise ConfigError(f"--seed {command.seed} is for generators, not for data sets")
    if command.data is not None and not any(request.score in NEEDS_REFERENCE for request in wanted):
        logger.info("--data %s is not compared with: no score of this recipe needs real images", command.data)
    if sampler is None:
        samples = open_real(command, command.samples, size, world, labels=command.labels)
    else:
        sampler.prior.check_truncation(command.truncation)
        samples = image_sets.generated_images(sampler, command.samples, truncation=command.truncation, seed=command.seed)
    if other is not None:
        generated = image_sets.generated_images(other, command.data, seed=command.seed + 1)
        return samples, image_sets.limit_images(generated, max(request.images for request in wanted))
    return samples, None if command.data is None else open_real(command, command.data, size, world, labels=command.labels)


def default_out(command: EvaluateCommand, evaluation: "Evaluation") -> Path:
    """Beside the model, named by all that decides the scores."""
    from biggan.checkpoints.run_dir import refuse_links

    if not is_model(command.samples) or Path(command.samples).is_file():
        return Path("evaluation.json")
    refuse_links(Path(command.samples), "metrics")
    words = [command.recipe, evaluation.recipe]
    return Path(command.samples) / "metrics" / f"{hashlib.sha256(repr(words).encode()).hexdigest()[:12]}.json"
