"""From words on the command line to a command as a frozen value, and the one-line errors on the way; notes and progress bars
for the person at the terminal. What the commands do is in make, measure and move."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import tyro

from biggan.configs.overrides import flatten
from biggan.configs.presets import PRESETS, preset
from biggan.configs.run import RunConfig
from biggan.runtime.errors import ConfigError, suggestion


def preset_argument(command: str, arguments: list[str]) -> RunConfig:
    """The recipe that the first argument names; help where there is none."""
    if arguments and arguments[0] not in ("-h", "--help") and not arguments[0].startswith("-"):
        return preset(arguments[0])
    if arguments and arguments[0] in ("-h", "--help"):
        width = max(map(len, PRESETS))
        rows = [f"  {name:{width}} {make.__doc__.splitlines()[0]}\n" for name, make in PRESETS.items()]
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


def counted(classes: int) -> str:
    """1 class, 2 classes, ..."""
    return f"{classes} class" if classes == 1 else f"{classes} classes"


def names_of(names: Sequence[str]) -> str:
    """The first ten of them."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """What follows an option, as the next word or after "="; the last if it is given twice, None where it is not. As for
    tyro, "_" is as good as "-"."""
    found = None
    for word, following in zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else following
    return found
