"""biggan sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from biggan.cli.common import check_between, check_out_folder, parse, writing_to
from biggan.cli.inputs import chosen_classes, load_sampler
from biggan.cli.output import say
from biggan.runtime.progress import progress_bar

if TYPE_CHECKING:
    from biggan.sampling.sampler import Sampler

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """Draw images from a trained generator: one PNG each and samples.json in a folder, and a grid of the first 400 beside
    it."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    n: int = 64
    """How many images."""
    classes: str | None = None
    """Names with commas between them, assigned to the images in rotation; None: all classes. "\\," is a comma in a name;
    index:3 is the class of index 3, and so is 3 where no class has a number as its name."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; smaller: more typical, less varied."""
    seed: int = 0
    """Seed of the latents; image number i of a seed is the same for any number of images."""
    compile: bool = False
    """Compile the generator first (torch.compile, some ten seconds): worth it for thousands of images."""
    out: Path = Path("samples")
    """Folder to write to; it must hold no images."""
    overwrite: bool = False
    """Replace earlier samples in the folder: the files that its samples.json lists, and no others."""
    grid: Path | None = None
    """Where the grid goes, a .png outside the folder; None: OUT-grid.png beside it."""


def sample(arguments: list[str]) -> int:
    """biggan sample RUN [options]"""
    command = parse(SampleCommand, arguments, "biggan sample")
    from biggan.runtime.distributed import process_group
    from biggan.runtime.precision import choose_device
    from biggan.sampling.sample_folder import GRID_IMAGES
    from biggan.sampling.sampler import MAX_IMAGES

    check_between(n=(command.n, 1, MAX_IMAGES))
    check_out_folder(command.out)
    with process_group(choose_device("auto")) as world:
        sampler = load_sampler(command.model, "auto", world, compiled=command.compile)
        grid = draw(sampler, command)
    if world.is_rank_zero:
        part = f" (the first {GRID_IMAGES} of {command.n:,} images)" if command.n > GRID_IMAGES else ""
        say(f"images {command.n} in {command.out}", f"grid   {grid}{part}")
    return 0


def draw(sampler: "Sampler", command: SampleCommand) -> Path:
    """Draw and write the images, as one of the ranks; the grid's path."""
    from biggan.runtime.distributed import on_rank_zero
    from biggan.sampling.sample_folder import check_folder, write_samples

    def check() -> None:
        """Before anything is drawn: whether the folder can take the samples."""
        with writing_to(command.out, "the images"):
            check_folder(command.out, overwrite=command.overwrite, grid=command.grid)

    classes = chosen_classes(sampler, command.classes)
    labels = sampler.cycle_labels(command.n, classes)
    batches = sampler.batches(range(command.n), labels, truncation=command.truncation, seed=command.seed, batch=BATCH)
    on_rank_zero(check)
    if not sampler.world.is_rank_zero:
        for _ in batches:  # helping; the first rank writes
            pass
        return command.out
    recipe = {"model": str(command.model), **sampler.recipe(classes, command.truncation, command.seed)}
    options = {"recipe": recipe, "overwrite": command.overwrite, "grid": command.grid}
    shown = progress_bar(batches, -(-command.n // BATCH), "drawing")
    with writing_to(command.out, "the images"):
        return write_samples(shown, labels, sampler.class_names, command.out, **options)
