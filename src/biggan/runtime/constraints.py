"""Bounds of single fields of a config, declared in the field's type and checked by pydantic.

    steps: PositiveInt = 150_000
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.9999
    r1: Annotated[float, Gt(0), Remedy("use None for off")] | None = None

`check_fields` raises ConfigError in one line: "train.ema_decay=1.5 must be at least 0 and below 1". Not a number is out of
every bound.
"""

import dataclasses
import functools
import math
import typing
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from biggan.runtime.errors import ConfigError

BOUNDS = {Gt: ("gt", "above"), Ge: ("ge", "at least"), Lt: ("lt", "below"), Le: ("le", "at most")}

BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""What pydantic calls a value that is out of a bound."""


class Remedy(NamedTuple):
    """What to do about a value out of bounds; the end of the message."""

    text: str


PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
Epsilon = Annotated[float, Ge(1e-12), Le(1)]
"""What is added to, or stands for, a divisor that may be zero."""
Variance = Annotated[float, Ge(1e-6), Le(1e6)]
NonNegativeInt = Annotated[int, Ge(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
LayerSize = Annotated[int, Ge(1), Le(1 << 20)]
"""Channels, features, classes, pixels: a config from elsewhere cannot ask for sizes that no program could even describe."""
BlockCount = Annotated[int, Ge(0), Le(256)]
"""Repetitions of a part of a network."""
Dilation = Annotated[int, Ge(1), Le(64)]
"""Distance between the pixels that a kernel looks at."""
Repeats = Annotated[int, Ge(1), Le(1000)]
"""Optimizer steps, or batches, for each one of something else."""
StatisticsBatches = Annotated[int, Ge(1), Le(10_000)]
"""Batches that standing statistics are collected over."""
BatchSize = Annotated[int, Ge(1), Le(1 << 24)]
"""Images that go through a network together, or accumulated."""
Fraction = Annotated[float, Ge(0), Lt(1)]
"""A share, 1 excluded."""


def check_fields(config: Any, prefix: str) -> None:
    """Raises ConfigError on the first field of a dataclass whose value is not of its type or out of its bounds, naming it
    "prefix.field"."""
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    try:
        type_adapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        bounds, remedy = describe_bounds(typing.get_type_hints(type(config), include_extras=True)[name])
        wrong = f"must be {bounds}{remedy}" if first["type"] in BOUND_ERRORS else f"is of another type: {first['msg']}"
        raise ConfigError(f"{prefix}.{name}={str(values[name])[:100]} {wrong}") from None
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and math.isinf(number):
                raise ConfigError(f"{prefix}.{name}={values[name]} must be finite")
            if isinstance(number, int) and abs(number) >= 1 << 63:
                raise ConfigError(f"{prefix}.{name} is a number of {number.bit_length()} bits: it must have less than 64")


@functools.lru_cache
def type_adapter(kind: type) -> TypeAdapter[Any]:
    """pydantic's validator of a dataclass, built once."""
    return TypeAdapter(kind)


def describe_bounds(hint: Any) -> tuple[str, str]:
    """ "at least 0 and below 1" of a type, and ": " with its remedy; empty where it has none."""
    metadata = metadata_of(hint)
    bounds = [f"{BOUNDS[type(item)][1]} {getattr(item, BOUNDS[type(item)][0])}" for item in metadata if type(item) in BOUNDS]
    remedies = [f": {item.text}" for item in metadata if isinstance(item, Remedy)]
    return " and ".join(dict.fromkeys(bounds)), "".join(dict.fromkeys(remedies))


def metadata_of(hint: Any) -> list[Any]:
    """What is annotated to a type, and to the types within it: members of a union, elements of a tuple."""
    metadata = list(getattr(hint, "__metadata__", ()))
    for inner in typing.get_args(hint):
        metadata += metadata_of(inner)
    return metadata
