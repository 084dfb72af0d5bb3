"""Rules that detect training collapse in the logged numbers of a run, while it trains or afterwards from its logs.

Source: BigGAN section 4, appendices F and G. Signs of collapse: the first singular value of some layers of G, typically of
its first linear layer, grows and explodes; D's loss goes towards 0, then jumps; D classifies real images as generated;
samples become alike; the scores get worse within a few hundred steps. No fixed singular value marks collapse (section 4.1),
so every rule compares a run with its own past. The thresholds are ours, chosen on the runs of records/2026-11-21_collapse.

A rule takes one log line after the other and returns an alarm or None. What is done about an alarm is decided in
training/monitor.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from biggan.configs.monitor import MonitorConfig
from biggan.metrics.evaluate import SCORE_NAMES, higher_is_better

Line = dict[str, Any]  # of a log: "step", and values by their log keys

PAST_FRACTION = 0.75  # a quantity is compared with its value at this fraction of the steps

MEDIAN_WINDOW = 5  # number of logged values whose median is compared

NOT_FINITE = "not finite"  # the rule named in the alarm that ends a diverged run

WARMUP_STEPS = 200  # no alarm before this step, because every quantity changes quickly


class Alarm(NamedTuple):
    """An alarm raised by a rule at `step`; the run was healthy until step `healthy`. `evidence`: the numbers, as text."""

    rule: str
    step: int
    evidence: str
    healthy: int


class Rule(Protocol):
    """Observes log lines in the order of their steps."""

    name: str

    def observe(self, line: Line) -> Alarm | None:
        """The alarm that this line raises, or None."""
        ...


@dataclass
class History:
    """The logged values of one quantity, with moving medians."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Append a value; steps must ascend."""
        self.steps.append(step)
        self.values.append(value)

    def recent_median(self) -> float:
        """The median of the last `MEDIAN_WINDOW` values."""
        return statistics.median(self.values[-MEDIAN_WINDOW:])

    def past_median(self) -> tuple[int, float] | None:
        """The last logged step within the first `PAST_FRACTION` of the run, and the median of the last `MEDIAN_WINDOW`
        values up to it. None before `WARMUP_STEPS` or with too few values."""
        step = self.steps[-1] * PAST_FRACTION
        count = next((i for i in range(len(self.steps), 0, -1) if self.steps[i - 1] <= step), 0)
        if count < MEDIAN_WINDOW or self.steps[-1] < WARMUP_STEPS:
            return None
        return self.steps[count - 1], statistics.median(self.values[max(0, count - MEDIAN_WINDOW) : count])


class SingularValueExplosion:
    """Alarm: a first singular value of the generator grows faster than the steps to the power `exponent`. Compared with its
    value at the fraction f = `PAST_FRACTION` of the run, it has grown by more than a factor (1 / f) ** exponent. Singular
    values of the discriminator are not used: they are noisy in healthy runs too."""

    name = "sigma0 explodes"

    def __init__(self, exponent: float = 2.5) -> None:
        self.factor = PAST_FRACTION**-exponent
        self.histories: dict[str, History] = {}

    def observe(self, line: Line) -> Alarm | None:
        """Compare the first singular values of the line with past ones; the alarm is for the one that grew most."""
        largest: tuple[float, Alarm] | None = None
        for key, value in line.items():
            if not key.startswith("sigma0/generator/"):
                continue
            history = self.histories.setdefault(key, History())
            history.add(line["step"], value)
            past = history.past_median()
            if past and history.values[-1] > self.factor * past[1] > 0:
                growth = history.values[-1] / past[1]
                if largest is None or growth > largest[0]:
                    text = f"{key.removeprefix('sigma0/')}: {past[1]:.3g} at step {past[0]}, {history.values[-1]:.3g} now"
                    largest = growth, Alarm(self.name, line["step"], text, past[0])
        return largest and largest[1]


class LossJump:
    """Alarm: D's loss, which was below `near_zero_fraction` times its first value, has risen by `min_rise` times its
    first value (D had memorized its training set); or it is more than `explosion_factor` times its first and its past
    value."""

    name = "D's loss jumps from near zero"

    def __init__(self, near_zero_fraction: float = 0.1, min_rise: float = 0.4, explosion_factor: float = 5.0) -> None:
        self.near_zero_fraction, self.min_rise, self.explosion_factor = near_zero_fraction, min_rise, explosion_factor
        self.history = History()
        self.first: float | None = None

    def observe(self, line: Line) -> Alarm | None:
        """Compare D's loss, the sum of its terms for real and generated images, with its past."""
        terms = [line[name] for name in ("D/loss_real", "D/loss_fake", "D/loss_pair") if name in line]
        if not terms:
            return None
        self.history.add(line["step"], sum(terms))
        if self.first is None and len(self.history.values) >= MEDIAN_WINDOW:
            self.first = abs(self.history.recent_median())
        past = self.history.past_median()
        if min(self.history.values) < 0:
            return None  # a loss without lower bound, such as Wasserstein's: near zero is nothing special
        if past and self.history.recent_median() > self.explosion_factor * max(self.first, past[1]):
            text = f"{past[1]:.3g} at step {past[0]}, {self.history.recent_median():.3g} now"
            return Alarm("D's loss explodes", line["step"], text, past[0])
        if (
            past
            and past[1] < self.near_zero_fraction * self.first
            and self.history.recent_median() > past[1] + self.min_rise * self.first
        ):
            text = f"{past[1]:.3g} at step {past[0]}, {self.history.recent_median():.3g} now"
            return Alarm(self.name, line["step"], text, past[0])
        return None


class RealAccuracyDrop:
    """Alarm: D classified more than a fraction `min_past_accuracy` of the real images as real, and now less than
    `min_accuracy`."""

    name = "D turns against real images"

    def __init__(self, min_accuracy: float = 0.35, min_past_accuracy: float = 0.6) -> None:
        self.min_accuracy, self.min_past_accuracy = min_accuracy, min_past_accuracy
        self.history = History()

    def observe(self, line: Line) -> Alarm | None:
        """Compare D's accuracy on real images with its past."""
        if "D/acc_real" not in line:
            return None
        self.history.add(line["step"], line["D/acc_real"])
        past = self.history.past_median()
        if past and past[1] > self.min_past_accuracy and self.history.recent_median() < self.min_accuracy:
            text = f"classified as real: {past[1]:.0%} at step {past[0]}, {self.history.recent_median():.0%} now"
            return Alarm(self.name, line["step"], text, past[0])
        return None


class DropFromBest:
    """Alarm: a quantity, such as the diversity of samples, falls below a fraction `min_fraction_of_best` of its maximum
    so far."""

    def __init__(self, key: str, min_fraction_of_best: float, name: str) -> None:
        self.key, self.min_fraction_of_best, self.name = key, min_fraction_of_best, name
        self.history = History()
        self.best: tuple[int, float] | None = None

    def observe(self, line: Line) -> Alarm | None:
        """Compare the median of the last three values with its maximum."""
        if self.key not in line or line["step"] < WARMUP_STEPS:
            return None
        self.history.add(line["step"], line[self.key])
        now = statistics.median(self.history.values[-3:])
        if len(self.history.values) >= 3 and (self.best is None or now >= self.best[1]):
            self.best = line["step"], now
        if self.best is not None and now < self.min_fraction_of_best * self.best[1]:
            healthy = last_above(self.history, (1 + self.min_fraction_of_best) / 2 * self.best[1])
            return Alarm(self.name, line["step"], f"{self.best[1]:.3g} at step {self.best[0]}, {now:.3g} now", healthy)
        return None


class ScoreDegradation:
    """Alarm: a distance to the real images is more than `factor` times its best value, or a score less than 1 / `factor` of
    its best."""

    name = "the samples get worse"
    keys = tuple(name for name in SCORE_NAMES if name != "accuracy")

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.best: dict[str, tuple[int, float]] = {}

    def observe(self, line: Line) -> Alarm | None:
        """Compare the scores of the line with the best so far."""
        for key in self.keys:
            if key not in line or line["step"] < WARMUP_STEPS:
                continue
            value, upwards = line[key], higher_is_better(key)
            step, best = self.best.get(key, (line["step"], value))
            if (value >= best) if upwards else (value <= best):
                self.best[key] = line["step"], value
            elif (best > self.factor * value) if upwards else (value > self.factor * best):
                return Alarm(self.name, line["step"], f"{key} {best:.4g} at step {step}, {value:.4g} now", step)
        return None


class NonFiniteValue:
    """Alarm: a logged number is not finite. The losses and gradients of a step are checked in training/guard, which ends the
    run at once."""

    name = "a number is not finite"

    def observe(self, line: Line) -> Alarm | None:
        """Check all numbers of the line."""
        bad = [key for key, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
        return Alarm(self.name, line["step"], bad[0], max(0, line["step"] - 1)) if bad else None


def last_above(history: History, level: float) -> int:
    """The last step at which a quantity was above a level; 0 if it never was."""
    return next((s for s, v in zip(reversed(history.steps), reversed(history.values), strict=True) if v > level), 0)


class CollapseDetector:
    """All rules over one run. After an alarm, a rule raises no other until the step of that alarm lies within the first
    `PAST_FRACTION` of the run."""

    def __init__(self, config: MonitorConfig) -> None:
        self.rules: list[Rule] = [
            SingularValueExplosion(),
            LossJump(),
            RealAccuracyDrop(),
            DropFromBest("diversity_within_class", 0.5, "samples of a class become alike"),
            DropFromBest("diversity", 0.5, "samples become alike"),
            DropFromBest("accuracy", 0.6, "classes are lost"),
            DropFromBest("conditional_accuracy", 0.5, "fixed samples are no longer recognized"),
            ScoreDegradation(config.metric_factor),
            NonFiniteValue(),
        ]
        self.last_alarm_steps: dict[str, int] = {}

    def observe(self, line: Line) -> list[Alarm]:
        """The alarms that the next line raises; lines come in the order of their steps."""
        alarms = []
        for rule in self.rules:
            alarm = rule.observe(line)
            if alarm is not None and line["step"] * PAST_FRACTION >= self.last_alarm_steps.get(rule.name, -1):
                alarms.append(alarm)
                self.last_alarm_steps[rule.name] = line["step"]
        return alarms


def find_alarms(lines: Iterable[Line], config: MonitorConfig) -> list[Alarm]:
    """All alarms of a log, whose lines may come in any order."""
    detector = CollapseDetector(config)
    return [alarm for line in sorted(lines, key=lambda line: line["step"]) for alarm in detector.observe(line)]
