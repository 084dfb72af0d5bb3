"""Two-parameter minimax games, and solvers that circle, diverge or converge.

Source: Salimans et al. 2016, section 3.3 (historical averaging; the game (f(x) - 1)(y - 1), f(x) = x below 0 and x^2
above; xy, on which gradient descent circles); Korpelevich 1976 (extragradient); Daskalakis et al. 2018 (optimistic). x
minimizes the value, y maximizes it: the paper does not say who does which. The equilibrium of the first game is (1, 1), of
the second (0, 0).

All arithmetic is in closed form on two floats; nothing here knows networks. The regularizer for networks is
objectives/weight_regularizers.HistoricalAverage, which adds the same term.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from biggan.runtime.errors import ConfigError

FAR = 1e6  # where a path ends, because the players have run away


class Point(NamedTuple):
    """Where both players are."""

    x: float
    y: float


class Game(NamedTuple):
    """A value, its derivatives by x and by y, and where neither player gains by moving."""

    title: str
    value: Callable[[Point], float]
    slope: Callable[[Point], Point]
    equilibrium: Point
    start: Point


def bend(x: float) -> float:
    """f(x) = x below 0, x^2 above."""
    return x if x < 0 else x * x


def bend_slope(x: float) -> float:
    """Its derivative (0 at 0, from the right)."""
    return 1.0 if x < 0 else 2 * x


GAMES: dict[str, Game] = {
    "xy": Game("xy", lambda p: p.x * p.y, lambda p: Point(p.y, p.x), Point(0.0, 0.0), Point(1.0, 0.5)),
    "bent": Game(
        "(f(x) - 1)(y - 1), f(x) = x for x < 0, else x^2",
        lambda p: (bend(p.x) - 1) * (p.y - 1),
        lambda p: Point(bend_slope(p.x) * (p.y - 1), bend(p.x) - 1),
        Point(1.0, 1.0),
        Point(1.5, 1.5),
    ),
}


@dataclass(frozen=True)
class GradientDescent:
    """Both players step at once: x against its slope, y along."""

    rate: float

    def path(self, game: Game, steps: int) -> list[Point]:
        """Every point from the start on, steps + 1 of them, or fewer where the players run away."""
        points = [game.start]
        while len(points) <= steps and not is_far(points[-1]):
            points.append(moved(points[-1], game.slope(points[-1]), self.rate))
        return points


@dataclass(frozen=True)
class HistoricalAveraging:
    """Gradient descent on costs with strength * (parameter - mean of all it has been)^2 added: section 3.3. The mean is held
    fixed while a step is made."""

    rate: float
    strength: float

    def path(self, game: Game, steps: int) -> list[Point]:
        """As GradientDescent."""
        points, mean = [game.start], game.start
        while len(points) <= steps and not is_far(points[-1]):
            here, slope, count = points[-1], game.slope(points[-1]), len(points)
            pull = Point(2 * self.strength * (here.x - mean.x), 2 * self.strength * (here.y - mean.y))
            points.append(moved(here, Point(slope.x + pull.x, slope.y - pull.y), self.rate))
            mean = Point(*(m + (p - m) / (count + 1) for m, p in zip(mean, points[-1], strict=True)))
        return points


@dataclass(frozen=True)
class Extragradient:
    """Each step uses the slope where a plain step would lead."""

    rate: float

    def path(self, game: Game, steps: int) -> list[Point]:
        """As GradientDescent."""
        points = [game.start]
        while len(points) <= steps and not is_far(points[-1]):
            ahead = moved(points[-1], game.slope(points[-1]), self.rate)
            points.append(moved(points[-1], game.slope(ahead), self.rate))
        return points


@dataclass(frozen=True)
class Optimistic:
    """Each step uses twice the slope less the slope before."""

    rate: float

    def path(self, game: Game, steps: int) -> list[Point]:
        """As GradientDescent."""
        points, before = [game.start], game.slope(game.start)
        while len(points) <= steps and not is_far(points[-1]):
            slope = game.slope(points[-1])
            points.append(moved(points[-1], Point(*(2 * s - b for s, b in zip(slope, before, strict=True))), self.rate))
            before = slope
        return points


Solver = GradientDescent | HistoricalAveraging | Extragradient | Optimistic


def solvers(rate: float, strength: float) -> dict[str, Solver]:
    """By the names that plots give them."""
    return {
        "gradient descent": GradientDescent(rate),
        "historical averaging": HistoricalAveraging(rate, strength),
        "extragradient": Extragradient(rate),
        "optimistic": Optimistic(rate),
    }


def moved(here: Point, slope: Point, rate: float) -> Point:
    """x goes against its slope, y along."""
    return Point(here.x - rate * slope.x, here.y + rate * slope.y)


def is_far(here: Point) -> bool:
    """Whether the players have run away."""
    return not (abs(here.x) < FAR and abs(here.y) < FAR)


def distances(path: list[Point], game: Game) -> list[float]:
    """From the equilibrium, along a path."""
    end = game.equilibrium
    return [((p.x - end.x) ** 2 + (p.y - end.y) ** 2) ** 0.5 for p in path]


def turns(path: list[Point], game: Game) -> float:
    """How often a path goes around the equilibrium: its angle there, added up step by step."""
    angles = [math.atan2(p.y - game.equilibrium.y, p.x - game.equilibrium.x) for p in path]
    steps = (math.remainder(after - before, math.tau) for before, after in pairwise(angles))
    return abs(sum(steps)) / math.tau


def check(rate: float, strength: float, steps: int) -> None:
    """Raises ConfigError on numbers that make no sense."""
    if not rate > 0 or not strength > 0:
        raise ConfigError(f"--rate {rate} and --strength {strength} must be above 0")
    if steps < 1:
        raise ConfigError(f"--steps {steps} must be at least 1")
