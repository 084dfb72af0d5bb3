"""biggan train, biggan sample."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from biggan.cli.arguments import counted, names_of, parse, preset_argument, progress_bar, say, say_as, say_nothing, value_of
from biggan.config import RunConfig, resolve, to_json
from biggan.errors import ConfigError
from biggan.latents import LatentConfig

if TYPE_CHECKING:
    from biggan.checkpoint import RunFolder
    from biggan.distributed import World
    from biggan.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a generator on your images. Giving the same command again carries on where the run stopped."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder for everything that the run writes; None: runs/PRESET."""
    dry_run: bool = False
    """Print the run, its arithmetic, parameter counts and an estimate of memory and time, and start nothing."""
    trust_extractor: bool = False
    """Run the code in the FILE of --eval.extractor module:FILE. It is remembered by the file's sha256, so that this is
    needed once for a file."""


def train(arguments: list[str]) -> int:
    """biggan train PRESET [options]"""
    base = start_from(preset_argument("train", arguments), value_of("--init-from", arguments))
    command = parse(TrainCommand, arguments[1:], f"biggan train {arguments[0]}", TrainCommand(config=base))
    from biggan.bench import describe
    from biggan.checkpoint import RunFolder
    from biggan.distributed import together
    from biggan.precision import choose_precision, keep_freed_memory

    config = command.config
    if config.init_from is not None:
        config = dataclasses.replace(config, init_from=config.init_from.rstrip("/"))
    config.check()
    if command.dry_run:
        config = assume_classes(config)
        print(to_json(config) + describe(config), end="")
        return 0
    if config.data.source is None:
        raise ConfigError(f"preset {config.preset} needs images: add --data folder:DIR or --data zip:FILE")
    folder = RunFolder(command.run or Path("runs") / config.preset)
    keep_freed_memory()
    device = choose_precision(config.train.device, config.train.precision, config.train.memory_format).device
    with together(device) as world:
        step = train_in(world, config, folder, trust_extractor=command.trust_extractor)
    if world.is_first:
        sheets = sorted(folder.samples.glob("*.png"))
        model = folder.model if folder.model.exists() else "none yet"
        print(f"step   {step}\nmodel  {model}\nsheet  {sheets[-1] if sheets else 'none'}\nlog    {folder.stats_file}")
        if folder.model.exists():
            print(f"next   biggan sample {folder.path} --n 64 --out {folder.path / 'drawn'}")
        if (folder.model / "classifier.safetensors").exists():
            print(f"       biggan classify {folder.path} IMAGES")
    return 0


def train_in(world: "World", config: RunConfig, folder: "RunFolder", *, trust_extractor: bool) -> int:
    """Open the data, claim the folder and train, as one of the ranks; returns the step reached."""
    from biggan.bench import describe
    from biggan.data import facts_of, no_progress, open_data, streamed
    from biggan.distributed import first_on_each_machine, on_first
    from biggan.training.loop import fit

    report = say if world.is_first else say_nothing
    source = None

    def open_here() -> None:
        """Keeps the source here: it is too large to be handed from rank to rank."""
        nonlocal source
        progress = progress_bar if world.is_first else no_progress
        # What one rank cannot read of a stream, the others do not know of.
        lost = report if world.is_first or not streamed(config.data) else partial(say_as, world.rank)
        source = open_data(config.data, config.model.resolution, progress=progress, report=lost)

    first_on_each_machine(open_here, world)  # the others find it decoded
    config = resolve(config, facts_of(source))
    (small_w, small_h), (large_w, large_h) = source.sizes
    report(
        f"data: {source.count} images of {counted(source.num_classes)} ({names_of(source.class_names)}), "
        f"{small_w}x{small_h} to {large_w}x{large_h} pixels, used at {source.resolution}"
    )
    for line in describe(config, measure=False, world=world).splitlines():
        report(line)
    on_first(lambda: folder.claim(config))
    return fit(config, source, folder, report, world, trust_extractor=trust_extractor)


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """Draw images from a trained generator: one PNG each, and grid.png with all."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    n: int = 64
    """How many images."""
    classes: str | None = None
    """Names or numbers, comma-separated, given out in turn; None: all classes."""
    truncation: float | None = None
    """Draw every latent coordinate again until it is at most this far from 0; smaller: more typical, less varied."""
    seed: int = 0
    compile: bool = False
    """Compile the generator first (torch.compile, some ten seconds): worth it for thousands of images."""
    out: Path = Path("samples")
    """Folder to write to."""


def sample(arguments: list[str]) -> int:
    """biggan sample RUN [options]"""
    command = parse(SampleCommand, arguments, "biggan sample")
    from biggan.distributed import together
    from biggan.pretrained import from_pretrained

    sampler = from_pretrained(command.model, compiled=command.compile)
    with together(sampler.precision.device) as sampler.world:
        grid = draw(sampler, command)
    if sampler.world.is_first:
        print(f"images {command.n} in {command.out}\ngrid   {grid}")
    return 0


def draw(sampler: "Sampler", command: SampleCommand) -> Path:
    """Draw and write the images, as one of the ranks; the grid's path."""
    from biggan.sampling import write_pictures

    classes = None if command.classes is None else [name.strip() for name in command.classes.split(",")]
    labels = sampler.labels_in_turn(command.n, classes)
    batches = sampler.batches(range(command.n), labels, truncation=command.truncation, seed=command.seed, batch=64)
    if not sampler.world.is_first:
        for _ in batches:  # helping; the first rank writes
            pass
        return command.out
    shown = progress_bar(batches, -(-command.n // 64), "drawing")
    try:
        return write_pictures(shown, labels, sampler.class_names, command.out)
    except OSError as error:
        raise ConfigError(f"the images cannot be written to {command.out} ({error}): give another --out") from error


def start_from(base: RunConfig, path: str | None) -> RunConfig:
    """The preset with the model and the latents of a folder that the run is to start from; for RUN@STEP all that the run was
    made with, because that is for changing one thing of it, but for what names files, programs and places."""
    if path is None:
        return base
    from biggan.distributed import world
    from biggan.starting import config_of, model_of, parse_start

    start = parse_start(path)
    if start.step is not None:
        report = say if world().is_first else say_nothing
        base = dataclasses.replace(config_of(start.path, base, report), found=None)
    model, latent = model_of(start.path)
    # The released generators were trained on plain normal latents; only their demos scale and cut them.
    latent = LatentConfig() if latent.distribution == "scaled-truncated-normal" else latent
    return dataclasses.replace(base, model=dataclasses.replace(model, num_classes=None), latent=latent)


def assume_classes(config: RunConfig) -> RunConfig:
    """For a dry run: the number of classes from the names in the source, or, without one, ImageNet's. Decodes nothing."""
    from biggan.data import summary

    if config.data.source is not None:
        images, names = summary(config.data)
        classes = len(names)
        say(f"data: {images} images of {counted(classes)} ({names_of(names)})")
    else:
        classes = config.model.num_classes or 1000
        say(f"data: none given, {classes} classes assumed; add --data folder:DIR or --data zip:FILE")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))
