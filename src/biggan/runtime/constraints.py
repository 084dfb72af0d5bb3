"""Bounds of single fields of a config, declared in the field's type and checked by pydantic.

    steps: PositiveInt = 150_000
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.9999
    r1: Annotated[float, Gt(0), Remedy("use None for off")] | None = None

`check_fields` raises ConfigError in one line: "train.ema_decay=1.5 must be at least 0 and below 1". Not a number is out
of every bound."""

import dataclasses
import typing
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from biggan.runtime.errors import ConfigError

BOUNDS = {Gt: ("gt", "above"), Ge: ("ge", "at least"), Lt: ("lt", "below"), Le: ("le", "at most")}


class Remedy(NamedTuple):
    """What to do about a value out of bounds; the end of the message."""

    text: str


PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
"""A share, 1 excluded."""


def check_fields(config: Any, prefix: str) -> None:
    """Raises ConfigError on the first field of a dataclass whose value is out of its bounds, naming it "prefix.field"."""
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    try:
        TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        bounds, remedy = describe_bounds(typing.get_type_hints(type(config), include_extras=True)[name])
        wrong = f"must be {bounds}" if bounds else error.errors()[0]["msg"]
        raise ConfigError(f"{prefix}.{name}={values[name]} {wrong}{remedy}") from error


def describe_bounds(hint: Any) -> tuple[str, str]:
    """ "at least 0 and below 1" of a type, and ": " with its remedy; empty where it has none."""
    metadata = list(getattr(hint, "__metadata__", ()))
    for inner in typing.get_args(hint):
        metadata += getattr(inner, "__metadata__", ())
    bounds = [f"{BOUNDS[type(item)][1]} {getattr(item, BOUNDS[type(item)][0])}" for item in metadata if type(item) in BOUNDS]
    remedies = [f": {item.text}" for item in metadata if isinstance(item, Remedy)]
    return " and ".join(bounds), "".join(remedies)
