"""The command line. Grouped as a person thinks:

    make      train, sample
    measure   bench

The only file that parses arguments, prints results and exits. A user's error is one line and exit code 2.
"""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from tqdm import tqdm

from biggan.config import RunConfig, flatten, resolve, to_json
from biggan.errors import ConfigError, TrainingDiverged, UserError, suggestion
from biggan.presets import PRESETS, preset

USAGE = """usage: biggan COMMAND ...

make      train PRESET --data SOURCE     train a generator, or carry on with a run
          sample RUN --n 64 --out DIR    draw images from a trained generator
measure   bench train PRESET             images per second, FLOP per second, memory, phases

biggan COMMAND --help tells the rest.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 training diverged, 2 a user's error, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(run(arguments))
    except UserError as error:
        print(f"biggan: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingDiverged as error:
        print(f"biggan: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        again = "; the same command carries on from the last checkpoint" if arguments[:1] == ["train"] else ""
        print(f"biggan: interrupted{again}", file=sys.stderr)
        sys.exit(130)


def run(arguments: list[str]) -> int:
    """Dispatch to a command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        raise ConfigError(f"no command {command!r}; {suggestion(command, COMMANDS)}")
    return COMMANDS[command](rest)


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a generator on your images. Giving the same command again carries on where the run stopped."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder for everything that the run writes; None: runs/PRESET."""
    dry_run: bool = False
    """Print the run, its arithmetic, parameter counts and an estimate of memory and time, and start nothing."""


def train(arguments: list[str]) -> int:
    """biggan train PRESET [options]"""
    base = preset_argument("train", arguments)
    command = parse(TrainCommand, arguments[1:], f"biggan train {arguments[0]}", TrainCommand(config=base))
    from biggan.bench import describe
    from biggan.checkpoint import RunFolder
    from biggan.data import facts_of, open_source
    from biggan.precision import keep_freed_memory
    from biggan.training.loop import fit

    config = command.config
    config.check()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("WORLD_SIZE is above 1, but training runs in one process so far: start it without torchrun")
    if command.dry_run:
        config = assume_classes(config)
        print(to_json(config) + describe(config), end="")
        return 0
    if config.data.source is None:
        raise ConfigError(f"preset {config.preset} needs images: add --data folder:DIR or --data zip:FILE")
    folder = RunFolder(command.run or Path("runs") / config.preset)
    source = open_source(
        config.data.source,
        config.model.resolution,
        flip=config.data.flip,
        skip_broken=config.data.skip_broken,
        cache=config.data.cache,
        progress=progress_bar,
        report=say,
    )
    config = resolve(config, facts_of(source))
    (small_w, small_h), (large_w, large_h) = source.sizes
    say(
        f"data: {len(source.labels)} images of {source.num_classes} classes ({names_of(source.class_names)}), "
        f"{small_w}x{small_h} to {large_w}x{large_h} pixels, used at {source.resolution}"
    )
    for line in describe(config, measure=False).splitlines():
        say(line)
    folder.claim(config)
    keep_freed_memory()
    step = fit(config, source, folder, say)
    sheets = sorted(folder.samples.glob("*.png"))
    print(f"step   {step}\nmodel  {folder.model}\nsheet  {sheets[-1] if sheets else 'none'}\nlog    {folder.stats_file}")
    print(f"next   biggan sample {folder.path} --n 64 --out {folder.path / 'drawn'}")
    return 0


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
    out: Path = Path("samples")
    """Folder to write to."""


def sample(arguments: list[str]) -> int:
    """biggan sample RUN [options]"""
    command = parse(SampleCommand, arguments, "biggan sample")
    from biggan.pretrained import from_pretrained
    from biggan.sampling import write_pictures

    sampler = from_pretrained(command.model)
    classes = None if command.classes is None else [name.strip() for name in command.classes.split(",")]
    labels = sampler.labels_in_turn(command.n, classes)
    batches = sampler.batches(range(command.n), labels, truncation=command.truncation, seed=command.seed, batch=64)
    try:
        grid = write_pictures(
            progress_bar(batches, -(-command.n // 64), "drawing"), labels, sampler.class_names, command.out
        )
    except OSError as error:
        raise ConfigError(f"the images cannot be written to {command.out} ({error}): give another --out") from error
    print(f"images {command.n} in {command.out}\ngrid   {grid}")
    return 0


@dataclass(frozen=True, kw_only=True)
class BenchCommand:
    """Measure the speed of a preset's training on this machine, on random images."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    compare: tuple[str, ...] = ()
    """A second setting, run alternately with the first: train.precision=fp32 train.memory_format=contiguous ..."""
    rounds: int = 5
    """How often each setting is timed; the medians are reported."""
    seconds: float = 5.0
    """Length of each timing."""


def bench(arguments: list[str]) -> int:
    """biggan bench train PRESET [options]"""
    if not arguments or arguments[0] not in ("train", "-h", "--help"):
        raise ConfigError(f"bench {arguments[0] if arguments else ''}: name what to measure; known: train")
    base = preset_argument("bench train", arguments[1:])
    prog = f"biggan bench train {' '.join(arguments[1:2])}"
    command = parse(BenchCommand, arguments[2:], prog, BenchCommand(config=base))
    from biggan.bench import bench_train, with_settings
    from biggan.precision import keep_freed_memory

    keep_freed_memory()
    command.config.check()
    settings = {"this setting": command.config}
    if command.compare:
        settings[" ".join(command.compare)] = with_settings(command.config, command.compare)
    print(bench_train(settings, rounds=command.rounds, seconds=command.seconds), end="")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"train": train, "sample": sample, "bench": bench}


def preset_argument(command: str, arguments: list[str]) -> RunConfig:
    """The recipe that the first argument names; help where there is none."""
    if arguments and arguments[0] not in ("-h", "--help") and not arguments[0].startswith("-"):
        return preset(arguments[0])
    if arguments and arguments[0] in ("-h", "--help"):
        rows = [f"  {name:12} {make.__doc__.splitlines()[0]}\n" for name, make in PRESETS.items()]
        print(f"usage: biggan {command} PRESET [options]\n\npresets:\n{''.join(rows)}")
        print(f"biggan {command} PRESET --help tells the options.")
        sys.exit(0)
    raise ConfigError(f"biggan {command} needs a preset before its options; known: {', '.join(PRESETS)}")


def parse(kind: type, arguments: list[str], prog: str, default: Any = None) -> Any:
    """The command as a value of the dataclass `kind`. Raises ConfigError in one line on anything wrong."""
    caught = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(caught):
            command, unknown = tyro.cli(
                kind, prog=prog, args=arguments, return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,), **options
            )
    except SystemExit as exit_:
        if exit_.code:
            text = re.sub(r"[│╭╮╰╯─]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", caught.getvalue()))
            raise ConfigError(f"{prog}: {' '.join(text.split())}") from None
        raise
    if unknown:
        known = {f"--{name.replace('_', '-')}" for name in option_names(command)}
        name = unknown[0].split("=")[0]
        raise ConfigError(f"{prog}: unknown option {name}; {suggestion(name, known)}")
    return command


def option_names(command: Any) -> Iterable[str]:
    """Dotted names of every option of a command."""
    for item in dataclasses.fields(command):
        value = getattr(command, item.name)
        yield from flatten(value) if dataclasses.is_dataclass(value) else [item.name]


def progress_bar(items: Iterable, total: int, what: str) -> Iterable:
    """A bar while `items` are consumed, on a terminal."""
    return tqdm(items, total=total, desc=what, leave=False, disable=not sys.stderr.isatty())


def say(line: str) -> None:
    """A note for the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def names_of(names: Sequence[str]) -> str:
    """The first ten of them."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def assume_classes(config: RunConfig) -> RunConfig:
    """For a dry run: the number of classes from the names in the source, or, without one, ImageNet's. Decodes nothing."""
    from biggan.data.sources import list_source

    if config.data.source is not None:
        listing = list_source(config.data.source)
        classes = len(listing.class_names)
        say(f"data: {len(listing.images)} images of {classes} classes ({names_of(listing.class_names)})")
    else:
        classes = config.model.num_classes or 1000
        say(f"data: none given, {classes} classes assumed; add --data folder:DIR or --data zip:FILE")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))
