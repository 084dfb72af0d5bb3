"""The fields of a nest of frozen dataclasses by dotted names: read, replaced, and as options of a command."""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any

from pydantic import TypeAdapter, ValidationError

from biggan.configs.migrations import renamed_field
from biggan.runtime.errors import ConfigError, suggestion


def flatten(config: object, prefix: str = "") -> dict[str, object]:
    """{"train.batch": 2048, ...} for every leaf field."""
    leaves: dict[str, object] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = prefix + item.name
        leaves |= flatten(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return leaves


def replace_fields(config: Any, settings: dict[str, object]) -> Any:
    """The config with other values in fields named as `flatten` names them. Raises KeyError on a field that it has not."""
    for name, value in settings.items():
        part, dot, rest = name.partition(".")
        if part not in (item.name for item in dataclasses.fields(config)):
            raise KeyError(name)
        inner = replace_fields(getattr(config, part), {rest: value}) if dot else value
        config = dataclasses.replace(config, **{part: inner})
    return config


def apply_overrides(config: Any, settings: Sequence[str]) -> Any:
    """The config with "part.field=value" settings. Raises ConfigError on an unknown field or a bad value."""
    known = flatten(config)
    for setting in settings:
        name, _, text = setting.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if name not in known:
            renamed = renamed_field(name, known)
            hint = suggestion(name, known) if renamed is None else f"it is now {renamed}"
            raise ConfigError(f"{setting}: no field {name!r}; {hint}")
        *parts, leaf = name.split(".")
        owner = functools.reduce(getattr, parts, config)
        kind = typing.get_type_hints(type(owner))[leaf]
        try:
            value = TypeAdapter(kind).validate_strings(text)
        except ValidationError as error:
            raise ConfigError(f"{setting}: {error.errors()[0]['msg']}") from error
        config = replace_fields(config, {name: value})
    config.check()
    return config


def to_command_line(config: object, base: object) -> list[str]:
    """What has to be added to the command of `base` to get `config`; the found facts and the preset's name aside."""
    before, words = flatten(base), []
    for name, value in flatten(config).items():
        if value == before.get(name, MISSING) or name == "preset" or name.startswith("dataset"):
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            part, _, leaf = option.rpartition(".")
            words.append(f"--{part}.{leaf}" if value else f"--{part}.no-{leaf}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option}", *map(str, values)]
    return words
