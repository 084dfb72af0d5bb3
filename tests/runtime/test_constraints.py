"""Bounds declared in the types of fields: what is refused, and in which words."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Lt

from biggan.configs.run import RunConfig
from biggan.runtime.constraints import (
    BOUNDS,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Remedy,
    check_fields,
    metadata_of,
)
from biggan.runtime.errors import ConfigError

NAN, INFINITE = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class Base:
    count: PositiveInt = 1
    steps_back: NonNegativeInt = 0
    length: PositiveFloat = 1.0
    weight: NonNegativeFloat = 0.0
    decay: Fraction = 0.5
    free: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Whole(Base):
    length: Annotated[float, Gt(1)] = 2.0  # another bound than the parent's
    every: PositiveInt | None = None
    strength: Annotated[float, Gt(0), Remedy("use None for off")] | None = None
    momentum: Annotated[float, Ge(0), Lt(1), Remedy("0.9 is usual")] = 0.9
    variances: tuple[PositiveFloat, PositiveFloat] | None = None
    sizes: tuple[PositiveInt, ...] = ()
    base: Base = dataclasses.field(default_factory=Base)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 0, "must be at least 1"),
        ("steps_back", -1, "must be at least 0"),
        ("length", 1.0, "must be above 1"),
        ("weight", -0.1, "must be at least 0"),
        ("decay", 1.0, "must be at least 0 and below 1"),
        ("decay", -0.1, "must be at least 0 and below 1"),
        ("every", 0, "must be at least 1"),
        ("strength", 0.0, "must be above 0: use None for off"),
        ("momentum", 1.0, "must be at least 0 and below 1: 0.9 is usual"),
        ("variances", (1.0, 0.0), "must be above 0"),
        ("sizes", (2, 1, 0), "must be at least 1"),
        ("length", NAN, "must be above 1"),
        ("weight", NAN, "must be at least 0"),
        ("decay", NAN, "must be at least 0 and below 1"),
        ("strength", NAN, "must be above 0: use None for off"),
        ("variances", (NAN, 1.0), "must be above 0"),
        ("length", INFINITE, "must be finite"),
        ("weight", INFINITE, "must be finite"),
        ("variances", (1.0, INFINITE), "must be finite"),
        ("count", 1.5, "is of another type: Input should be a valid integer, got a number with a fractional part"),
        ("decay", "half", "is of another type: Input should be a valid number, unable to parse string as a number"),
    ],
)
def test_out_of_bounds(field, value, message):
    wrong = Whole(**{field: value})
    with pytest.raises(ConfigError) as caught:
        check_fields(wrong, "part")
    assert str(caught.value) == f"part.{field}={value} {message}"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": 1, "steps_back": 0, "length": 1.0001, "weight": 0.0, "decay": 0.0, "momentum": 0.0},
        {"free": NAN},
        {"every": 1, "strength": 1e-30, "variances": (1e-9, 2.0), "sizes": (1, 2)},
        {"strength": 1},  # an int where a float is asked for
    ],
)
def test_within_bounds(fields):
    assert check_fields(Whole(**fields), "part") is None  # and nothing raised


def test_the_first_wrong_field_is_named():
    with pytest.raises(ConfigError, match=r"^part\.count=-1 must be at least 1$"):
        check_fields(Whole(decay=2.0, count=-1, every=0), "part")


def test_each_class_has_its_own_bounds():
    check_fields(Base(length=0.5), "part")
    with pytest.raises(ConfigError, match=r"length=0\.5 must be above 1"):
        check_fields(Whole(length=0.5), "part")


def fields_of(kind: type, prefix: str = "") -> dict[str, Any]:
    """Types of all fields of a dataclass and of those within it, by dotted names."""
    found = {}
    for item in dataclasses.fields(kind):
        hint, name = typing.get_type_hints(kind, include_extras=True)[item.name], prefix + item.name
        found |= fields_of(hint, f"{name}.") if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def leaf_types(hint: Any) -> set[Any]:
    """int, float, None, ... of a union, a tuple or an annotated type."""
    inner = [part for part in typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal]
    return set().union(*map(leaf_types, inner)) if inner else {hint}


NOT_CHECKED_HERE = ("model.", "dataset")  # by their families; found in the data, not set
UNBOUNDED = {"data.label_seed", "train.seed", "train.lr_decay_start"}  # the last: bounded by train.steps
NUMBERS = {
    name: hint
    for name, hint in fields_of(RunConfig).items()
    if leaf_types(hint) & {int, float} and not name.startswith(NOT_CHECKED_HERE)
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_a_run_has_a_bound(name):
    bounded = any(type(item) in BOUNDS for item in metadata_of(NUMBERS[name]))
    assert bounded != (name in UNBOUNDED), f"{name}: {NUMBERS[name]}"


def test_the_numbers_of_a_run_are_found():
    known = {"train.steps", "latent.sigma", "regularization.discriminator.r1", "regularization.generator.orthogonal"}
    assert known | UNBOUNDED <= set(NUMBERS)
    assert not {"train.device", "objective.loss", "data.flip"} & set(NUMBERS)
