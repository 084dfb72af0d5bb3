"""What the verbs share: from words to a command as a frozen value, one-line errors, writing results where the user said."""

import contextlib
import dataclasses
import errno
import io
import re
import sys
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
from biggan.runtime.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

RENAMED_OPTIONS = {"--way": "--interpolation", "--latents": "--scaled-latents"}
"""Old and new names of options of verbs that are no fields of a config."""
NO_OPTIONS = ("preset", "dataset")
"""Fields of RunConfig that no option sets."""


def preset_argument(command: str, arguments: list[str]) -> RunConfig:
    """The preset that the first argument names; prints the list of presets and exits for --help. Raises ConfigError where it
    is missing or unknown."""
    if arguments and arguments[0] not in ("-h", "--help") and not arguments[0].startswith("-"):
        return preset(arguments[0])
    if arguments and arguments[0] in ("-h", "--help"):
        width = max(map(len, PRESETS))
        rows = [f"  {name:{width}} {make.__doc__.splitlines()[0]}\n" for name, make in PRESETS.items()]
        say(f"usage: biggan {command} PRESET [options]\n\npresets:\n{''.join(rows)}")
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
        known = {f"--{name.replace('_', '-')}" for name in option_names(command)}
        name = unknown[0].split("=")[0]
        renamed = renamed_option(name, known)
        too_many = f"`{prog} --help` shows all {len(known)} options"
        hint = suggestion(name, known, too_many) if renamed is None else f"it is now {renamed}"
        raise ConfigError(f"{prog}: unknown option {name}; {hint}")
    return command


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


def option_names(command: Any) -> Iterable[str]:
    """Dotted names of every option of a command, or of a config in one."""
    for item in dataclasses.fields(command):
        value = getattr(command, item.name)
        if isinstance(value, RunConfig):
            yield from option_names(value)
        elif dataclasses.is_dataclass(value):
            yield from flatten(value, f"{item.name}.")
        elif item.name not in NO_OPTIONS:
            yield item.name


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
        remedy = "free some space" if error.errno == errno.ENOSPC else "give another --out"
        raise ConfigError(f"{subject} ({error}): {remedy}") from error


def save_image(image: "Image.Image", out: Path) -> None:
    """Write an image file in the format of its suffix. Raises ConfigError where it cannot be written."""
    with writing_to(out, "the image"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            image.save(out)
        except ValueError as error:
            raise ConfigError(f"--out {out}: {error}: use .png") from error


def save_image_grid(images: "Tensor", columns: int, out: Path) -> None:
    """Write uint8 images (N, 3, R, R) side by side. Raises ConfigError where the file cannot be written."""
    from biggan.sampling.image_io import make_grid

    save_image(make_grid(images, columns=columns), out)


def check_at_least(**numbers: tuple[float | None, int]) -> None:
    """`batch=(command.batch, 1)`: raises ConfigError where an option is given and below its smallest value."""
    for name, (value, least) in numbers.items():
        if value is not None and not value >= least:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least {least}")


def split_names(classes: str | None) -> list[str] | None:
    """The names in "cat, dog"."""
    return None if classes is None else [name.strip() for name in classes.split(",")]
