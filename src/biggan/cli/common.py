"""What the verbs share: from words to a command as a frozen value, one-line errors, writing results where the user said."""

import contextlib
import dataclasses
import io
import os
import re
import sys
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from biggan.cli.output import say
from biggan.configs.migrations import renamed_field
from biggan.configs.overrides import flatten
from biggan.configs.presets import PRESETS, preset
from biggan.configs.run import RunConfig
from biggan.runtime.errors import ConfigError, reason_for, remedy_for, suggestion
from biggan.runtime.text import shorten

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

RENAMED_OPTIONS = {"--way": "--interpolation", "--latents": "--scaled-latents"}
"""Old and new names of options of verbs that are no fields of a config."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Of one part of a path and of a whole one, on common file systems."""
NO_OPTIONS = ("preset", "dataset")
"""Fields of RunConfig that no option sets."""


def preset_argument(command: str, arguments: list[str]) -> RunConfig:
    """The preset that the first argument names; prints the list of presets and exits for --help. Raises ConfigError where it
    is missing or unknown."""
    if arguments and arguments[0] not in ("-h", "--help") and not arguments[0].startswith("-"):
        return preset(arguments[0])
    if arguments and arguments[0] in ("-h", "--help"):
        width = max(map(len, PRESETS))
        rows = [f"  {name:{width}} {make.__doc__.splitlines()[0]}" for name, make in PRESETS.items()]
        say(f"usage: biggan {command} PRESET [options]", "", "presets:", *rows, "")
        say(f"biggan {command} PRESET --help shows the options.")
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
        hints = typing.get_type_hints(kind, include_extras=True)
        positional = {name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())}
        known = {f"--{name.replace('_', '-')}" for name, _ in options_of(command) if name not in positional}
        name = unknown[0].split("=")[0]
        renamed = renamed_option(name, known)
        too_many = f"`{prog} --help` shows all {len(known)} options"
        hint = suggestion(name, known, too_many) if renamed is None else f"it is now {renamed}"
        raise ConfigError(f"{prog}: unknown option {shorten(name)}; {hint}")
    for name, value in options_of(command):
        if isinstance(value, Path):
            check_length(name, value)
    return command


def check_length(name: str, path: Path) -> None:
    """Raises ConfigError on a path that is longer than file systems allow; `name`: of the option."""
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MAX_NAME_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(f"{name.replace('_', '-')} {shorten(str(path))} is too long for a path: give a shorter one")


def renamed_option(name: str, known: Collection[str]) -> str | None:
    """Today's name, one of `known`, of an option of earlier versions; None: there is none. A switch that is turned off,
    --train.no-recompute, stays one."""
    if name in RENAMED_OPTIONS:
        return RENAMED_OPTIONS[name] if RENAMED_OPTIONS[name] in known else None
    fields = {option.removeprefix("--").replace("-", "_"): option for option in known}
    switch = name.replace(".no-", ".", 1)
    field = renamed_field(switch.removeprefix("--").replace("-", "_"), fields)
    if field is None or switch == name:
        return fields.get(field)
    path, _, leaf = fields[field].rpartition(".")
    return f"{path}.no-{leaf}"


def options_of(command: Any) -> Iterable[tuple[str, Any]]:
    """Dotted name and value of every option of a command, or of a config in one."""
    for item in dataclasses.fields(command):
        value = getattr(command, item.name)
        if isinstance(value, RunConfig):
            yield from options_of(value)
        elif dataclasses.is_dataclass(value):
            yield from flatten(value, f"{item.name}.").items()
        elif item.name not in NO_OPTIONS:
            yield item.name, value


def count_classes(classes: int) -> str:
    """ "1 class", "2 classes", ..."""
    return f"{classes} class" if classes == 1 else f"{classes} classes"


def first_names(names: Sequence[str]) -> str:
    """The first ten names, for a message."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def option_value(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option, as the next word or after "="; the last if it is given twice, None where it is not given.
    As for tyro, "_" is as good as "-"."""
    found = None
    for word, following in zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else following
    return found


@contextlib.contextmanager
def writing_to(out: Path, what: str = "") -> Iterator[None]:
    """Around writes below `out`: what the system refuses becomes a ConfigError that names `what`, and the remedy."""
    try:
        yield
    except OSError as error:
        subject = f"{what} cannot be written to {out}" if what else f"{out} cannot be written"
        raise ConfigError(f"{subject} ({reason_for(error)}): {remedy_for(error, 'another --out')}") from error


def save_image(image: "Image.Image", out: Path) -> None:
    """Write an image file in the format of its suffix. Raises ConfigError where it cannot be written."""
    from biggan.sampling import image_io

    with writing_to(out, "the image"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            image_io.save_image(image, out)
        except ValueError as error:
            raise ConfigError(f"--out {out}: {error}: use .png") from error


def save_image_grid(images: "Tensor", columns: int, out: Path) -> None:
    """Write uint8 images (N, 3, R, R) side by side. Raises ConfigError where the file cannot be written."""
    from biggan.sampling.image_io import make_grid

    save_image(make_grid(images, columns=columns), out)


def check_out_file(out: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Before any work: raises ConfigError where `out` (None: not given) cannot become a file, because it is a folder, lies
    below a file, or cannot be written there; and where it has none of the suffixes, if there are any."""
    if out is None:
        return
    if str(out) == "-":
        raise ConfigError("--out -: results are files and cannot go to standard output: give a file")
    if os.path.isdir(out):
        raise ConfigError(f"--out {out} is a folder: give a file, such as {out / 'NAME'}{suffixes[0] if suffixes else ''}")
    if suffixes and out.suffix.lower() not in suffixes:
        others = f"{', '.join(suffixes[:-1])} or " if suffixes[1:] else ""
        raise ConfigError(f"--out {shorten(str(out))}: use {others}{suffixes[-1]}")
    check_parent(out)
    if os.path.exists(out) and not os.access(out, os.W_OK):
        raise ConfigError(f"--out {out} may not be written: give another --out")


def check_out_folder(out: Path | None) -> None:
    """Before any work: raises ConfigError where `out` (None: not given) cannot become a folder, or not be written to."""
    if out is None:
        return
    if str(out) == "-":
        raise ConfigError("--out -: results are a folder and cannot go to standard output: give a folder")
    if os.path.lexists(out) and not os.path.isdir(out):
        raise ConfigError(f"--out {out} is a file: give a folder")
    if os.path.isdir(out) and not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out} may not be written: give another --out")
    check_parent(out)


def check_parent(out: Path) -> None:
    """Raises ConfigError where the nearest folder above `out` that exists is no folder, or may not be written."""
    above = next((parent for parent in out.parents if os.path.lexists(parent)), None)
    if above is not None and not os.path.isdir(above):
        raise ConfigError(f"--out {out}: {above} is a file, not a folder: give another --out")
    if above is not None and not os.path.lexists(out) and not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: {above} may not be written: give another --out")


def check_between(**numbers: tuple[float | None, float, float]) -> None:
    """`batch=(command.batch, 1, 10_000)`: raises ConfigError where an option is given and outside its smallest and largest
    value, not a number included."""
    for name, (value, least, most) in numbers.items():
        if value is not None and not least <= value <= most:
            option, bounds = f"--{name.replace('_', '-')}", f"at least {least:,} and at most {most:,}"
            raise ConfigError(f"{option} {shorten(str(value))} must be {bounds}")


def is_inside(file: Path, source: str | None) -> bool:
    """Whether a file or folder lies, or would lie, in the folder of a data source, where it would become a part of it."""
    folder = os.path.realpath(os.path.expanduser((source or "").removeprefix("folder:")))
    return bool(source) and os.path.isdir(folder) and Path(folder) in Path(os.path.realpath(file)).parents


def check_outside(file: Path, source: str | None, option: str) -> None:
    """Raises ConfigError where a result would be written into the data that it is made from; `option` says where else."""
    if is_inside(file, source):
        raise ConfigError(
            f"{file} lies in the data {shorten(str(source))} and would become a part of it: give {option} elsewhere"
        )
