"""Configs as JSON text and back: unknown keys are errors with a suggestion, files of earlier versions are migrated."""

import dataclasses
import json
import types
import typing
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from biggan.configs.migrations import migrate_config
from biggan.runtime.errors import ConfigError, reason_for, suggestion
from biggan.runtime.json_text import parse_json
from biggan.runtime.text import printable, shorten


def to_json(config: object) -> str:
    """Any config as JSON text."""
    return json.dumps(TypeAdapter(type(config)).dump_python(config, mode="json"), indent=2) + "\n"


def from_json(text: str | bytes, kind: type, where: Path) -> typing.Any:
    """The config of type `kind` in JSON text from the file `where`.

    Raises ConfigError, in one line, on unknown keys, with a suggestion, on values of a wrong type, and on text that is no
    JSON object.
    """
    try:
        data = migrate_config(parse_json(text))
    except ValueError as error:
        raise ConfigError(f"{where}: {reason_for(error)}: it is no config of biggan") from error
    refuse_unknown_keys(data, kind, str(where))
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = relevant_error(error)
        place = printable(".".join(map(str, first["loc"])))
        raise ConfigError(f"{where}: {place[:200]}={describe_value(first['input'])}: {first['msg'][:200]}") from error


def describe_value(value: object) -> str:
    """A value from a file as text for a message, cut where it is long. Of a nest only the kind is told."""
    if isinstance(value, (dict, list)):
        return f"({len(value)} values)"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 100 else "(a huge number)"
    return shorten(text, 60)


def relevant_error(error: ValidationError) -> typing.Any:
    """The first of pydantic's errors that is not about a member of a union that the data was not meant for."""
    errors = error.errors()
    others = {item["loc"][:-1] for item in errors if item["loc"][-1] == "family"}
    meant = [item for item in errors if not any(item["loc"][: len(other)] == other for other in others)]
    if meant:
        return meant[0]
    families = ", ".join(item["ctx"]["expected"] for item in errors if item["loc"][-1] == "family")
    return errors[0] | ({"msg": f"Input should be one of {families}"} if families else {})


def refuse_unknown_keys(data: object, kind: object, where: str) -> None:
    """Raises ConfigError on the first key, at any depth, that the dataclass `kind` does not have."""
    if isinstance(kind, types.UnionType):
        kind = member_of(kind, data)
    if not dataclasses.is_dataclass(kind) or not isinstance(data, dict):
        return
    hints = typing.get_type_hints(kind)
    for key, value in data.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {describe_value(key)}; {suggestion(key[:60], hints)}")
        refuse_unknown_keys(value, hints[key], f"{where}: {key}")


def member_of(union: types.UnionType, data: object) -> object:
    """The dataclass of a union that the data is for: told by its `family`, or the only one."""
    members = [option for option in union.__args__ if dataclasses.is_dataclass(option)]
    family = data.get("family") if isinstance(data, dict) else None
    return next((member for member in members if getattr(member, "family", family) == family), None)
