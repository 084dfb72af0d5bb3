"""biggan train."""

import contextlib
import dataclasses
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from biggan.cli.common import check_outside, count_classes, first_names, option_value, parse, preset_argument
from biggan.cli.output import say, say_text
from biggan.configs.json_io import to_json
from biggan.configs.run import RunConfig, resolve, with_own_places
from biggan.configs.unused import useless_settings
from biggan.runtime.errors import ConfigError, UserError
from biggan.sampling.latents import LatentConfig

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from biggan.checkpoints.run_dir import RunDir
    from biggan.runtime.environment import World


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a generator on your images. The same command, given again, resumes the run."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder for everything that the run writes; None: runs/PRESET-DATA, named after the preset and the data source."""
    dry_run: bool = False
    """Print the run, its arithmetic, parameter counts and an estimate of memory and time, and start nothing."""
    trust_extractor: bool = False
    """Run the code in the FILE of --eval.extractor module:FILE. It is remembered by the file's sha256, so that this is
    needed once for a file."""


def train(arguments: list[str]) -> int:
    """biggan train PRESET [options]"""
    plain = preset_argument("train", arguments)
    base = start_or_resume(plain, arguments[1:])
    command = parse(TrainCommand, arguments[1:], f"biggan train {arguments[0]}", TrainCommand(config=base))
    from biggan.checkpoints.run_dir import RunDir
    from biggan.profiling.benchmark import describe
    from biggan.runtime.distributed import process_group
    from biggan.runtime.memory import keep_freed_memory
    from biggan.runtime.precision import choose_device

    config = command.config
    config.check()
    for line in useless_settings(config, base):
        logger.warning("%s", line)
    if command.dry_run:
        config = assume_classes(config)
        say_text(to_json(config) + describe(config))
        return 0
    if not config.data.source:
        raise ConfigError(f"preset {config.preset} needs images: add --data folder:DIR or --data zip:FILE")
    if command.trust_extractor and not config.eval.extractor.startswith("module:"):
        raise ConfigError("--trust-extractor is for --eval.extractor module:FILE: leave it out")
    folder = RunDir(command.run or default_run_folder(plain, config.data.source))
    check_outside(folder.path, config.data.source, "--run")
    keep_freed_memory()
    device = choose_device(config.train.device)
    try:
        with process_group(device) as world, owned(folder, world):
            step = train_in(world, config, folder, trust_extractor=command.trust_extractor)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f": the same command starts it again; {folder.resume_hint()}") from error
    if world.is_rank_zero:
        sheets = sorted(folder.samples.glob("*.png"))
        model = folder.model if folder.model.exists() else "none yet"
        sheet = sheets[-1] if sheets else "none"
        say(f"step   {step}", f"model  {model}", f"sheet  {sheet}", f"log    {folder.stats_file}")
        run = shlex.quote(str(folder.path))
        if folder.model.exists():
            say(f"next   biggan sample {run} --n 64 --out {shlex.quote(str(folder.path / 'drawn'))}")
        if (folder.model / "classifier.safetensors").exists():
            say(f"       biggan classify {run} IMAGES")
    return 0


@contextmanager
def owned(folder: "RunDir", world: "World") -> Iterator[None]:
    """Own the run folder, as one of the ranks; rank 0 has the lock. Raises CheckpointError on all ranks where the folder
    belongs to another process, or holds something else."""
    from biggan.checkpoints.run_lock import run_lock
    from biggan.runtime.distributed import on_rank_zero

    with ExitStack() as stack:

        def own() -> None:
            """What rank 0 does."""
            folder.check_free()
            folder.check_owned = stack.enter_context(run_lock(folder.path))

        on_rank_zero(own)
        yield


def train_in(world: "World", config: RunConfig, folder: "RunDir", *, trust_extractor: bool) -> int:
    """Open the data, claim the folder and train, as one of the ranks; returns the step reached."""
    from biggan.data.dataset import dataset_info, open_data
    from biggan.profiling.benchmark import describe
    from biggan.runtime.distributed import local_rank_zero_first, on_rank_zero
    from biggan.training.trainer import fit

    source = None

    def open_here() -> None:
        """Keeps the source here: it is too large to be handed from rank to rank."""
        nonlocal source
        source = open_data(config.data, config.model.resolution)

    local_rank_zero_first(open_here, world)  # the others find it decoded
    config = resolve(config, dataset_info(source))
    (small_w, small_h), (large_w, large_h) = source.sizes
    classes = f"{count_classes(source.num_classes)} ({first_names(source.class_names)})"
    sizes = f"{small_w}x{small_h} to {large_w}x{large_h} pixels, used at {source.resolution}"
    logger.info("data: %d images of %s, %s", source.count, classes, sizes)
    for line in describe(config, measure=False, world=world).splitlines():
        logger.info("%s", line)
    on_rank_zero(lambda: folder.claim(config))
    return fit(config, source, folder, world, trust_extractor=trust_extractor)


def start_or_resume(plain: RunConfig, words: Sequence[str]) -> RunConfig:
    """The config that the options of the command are laid over: the preset, changed as --init-from says. Where that folder
    cannot be opened any more, but the run has a checkpoint and so does not need it, as the run has it."""
    path = option_value("--init-from", words)
    try:
        return start_from(plain, path)
    except UserError:
        from biggan.checkpoints.init_from import parse_init_from
        from biggan.checkpoints.run_dir import RunDir

        source = option_value("--data", words) or option_value("--data.source", words) or plain.data.source
        run = option_value("--run", words)
        folder = RunDir(Path(run) if run else default_run_folder(plain, source))
        if path is None or not folder.config_file.exists() or not folder.list_checkpoints():
            raise
        own = with_own_places(folder.read_config(), plain)
        logger.info("%s cannot be opened, and is not needed: the run goes on from its own checkpoint", path)
        model = dataclasses.replace(own.model, num_classes=None)
        whole = parse_init_from(path).step is not None
        return dataclasses.replace(own if whole else plain, model=model, latent=own.latent, dataset=None)


def default_run_folder(plain: RunConfig, source: str | None) -> Path:
    """runs/PRESET-DATA, or runs/PRESET for the data of the preset itself; `plain` is the preset. A run in runs/PRESET, as
    earlier versions called it, that has the same source goes on there."""
    from biggan.checkpoints.run_dir import RunDir

    folder = Path("runs") / plain.preset
    if source is None or source == plain.data.source:
        return folder
    with contextlib.suppress(UserError):  # there is none, or it is of no use
        if RunDir(folder).read_config().data.source == source:
            return folder
    return Path("runs") / f"{plain.preset}-{data_name(source)}"


def data_name(source: str) -> str:
    """A short name for the folder of runs on a data source: the last part of its path, in characters that every system
    allows; nothing that may be secret, as in `public_name`."""
    from biggan.data.sources import public_name

    place = source.partition(":")[2] or source
    if os.path.exists(place):
        source = os.path.abspath(place)  # "." and ".." have names too
    public = public_name(source)
    last = (public.partition(":")[2] or public).rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    last = last.removesuffix(".zip").removesuffix(".tar")
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in last)
    return name.strip("-_.")[:60] or "data"


def start_from(base: RunConfig, path: str | None) -> RunConfig:
    """The preset with the model and latent configs of the folder that the run starts from. With RUN@STEP, the whole
    config of that run, except fields that name files, programs or folders."""
    if path is None:
        return base
    from biggan.checkpoints.init_from import parse_init_from, read_model_config, read_run_config

    start = parse_init_from(path)
    if start.step is not None:
        base = dataclasses.replace(read_run_config(start.path, base), dataset=None)
    model, latent = read_model_config(start.path)
    # The released generators were trained on plain normal latents; only their demos scale and cut them.
    latent = LatentConfig() if latent.distribution == "scaled-truncated-normal" else latent
    return dataclasses.replace(base, model=dataclasses.replace(model, num_classes=None), latent=latent)


def assume_classes(config: RunConfig) -> RunConfig:
    """For a dry run: the number of classes from the names in the source, or, without one, ImageNet's. Decodes nothing."""
    from biggan.data.dataset import count_images_and_classes

    if config.data.source is not None:
        images, names = count_images_and_classes(config.data)
        classes = len(names)
        if config.model.num_classes not in (None, classes):
            raise ConfigError(f"model.num_classes={config.model.num_classes}: the data has {classes} classes: leave it out")
        logger.info("data: %d images of %s (%s)", images, count_classes(classes), first_names(names))
    else:
        classes = config.model.num_classes or 1000
        logger.info("data: none given, %d classes assumed; add --data folder:DIR or --data zip:FILE", classes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))
