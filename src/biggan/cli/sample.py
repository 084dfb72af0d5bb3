"""biggan sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from biggan.cli.common import parse, split_names, writing_to
from biggan.cli.output import say
from biggan.runtime.progress import progress_bar

if TYPE_CHECKING:
    from biggan.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """Draw images from a trained generator: one PNG each, and grid.png with all."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    n: int = 64
    """How many images."""
    classes: str | None = None
    """Names or numbers, comma-separated, assigned to the images in rotation; None: all classes."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; smaller: more typical, less varied."""
    seed: int = 0
    """Seed of the latents; image number i of a seed is the same for any number of images."""
    compile: bool = False
    """Compile the generator first (torch.compile, some ten seconds): worth it for thousands of images."""
    out: Path = Path("samples")
    """Folder to write to."""


def sample(arguments: list[str]) -> int:
    """biggan sample RUN [options]"""
    command = parse(SampleCommand, arguments, "biggan sample")
    from biggan.pretrained import from_pretrained
    from biggan.runtime.distributed import process_group

    sampler = from_pretrained(command.model, compiled=command.compile)
    with process_group(sampler.precision.device) as sampler.world:
        grid = draw(sampler, command)
    if sampler.world.is_rank_zero:
        say(f"images {command.n} in {command.out}\ngrid   {grid}")
    return 0


def draw(sampler: "Sampler", command: SampleCommand) -> Path:
    """Draw and write the images, as one of the ranks; the grid's path."""
    from biggan.sampling.image_io import write_images

    labels = sampler.cycle_labels(command.n, split_names(command.classes))
    batches = sampler.batches(range(command.n), labels, truncation=command.truncation, seed=command.seed, batch=64)
    if not sampler.world.is_rank_zero:
        for _ in batches:  # helping; the first rank writes
            pass
        return command.out
    shown = progress_bar(batches, -(-command.n // 64), "drawing")
    with writing_to(command.out, "the images"):
        return write_images(shown, labels, sampler.class_names, command.out)
