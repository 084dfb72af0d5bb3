"""Rules that detect collapse in the logged numbers of a run; the same for a live run and an old log.

Source: BigGAN section 4, appendices F and G: the first singular value of some layers of G, typically its first linear one,
grows and explodes; D's loss goes towards 0, then jumps; D turns against real images; samples become alike; the scores
worsen within a few hundred steps. The thresholds are ours, chosen on the runs of records/2026-11-21_collapse: no fixed
value of a singular value marks collapse (section 4.1), so every rule compares a run with its own past.

A rule observes one log line after the other and returns an alarm or None. What follows an alarm is decided in
training/monitor.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from biggan.configs.monitor import MonitorConfig

Line = dict[str, Any]  # "step", and numbers by name

LOOK_BACK = 0.75  # a quantity is compared with what it was at this share of the steps

SMOOTHED = 5  # values of which the median is taken

NOT_FINITE = "not finite"  # the rule by which a run ends that diverged

YOUNG = 200  # steps before which no rule speaks: everything changes


class Alarm(NamedTuple):
    """Raised by a rule at `step`, about something that began after step `healthy`."""

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
    """A quantity over steps, smoothed, with what it was before."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """The next value; steps grow."""
        self.steps.append(step)
        self.values.append(value)

    def now(self) -> float:
        """The median of the last few."""
        return statistics.median(self.values[-SMOOTHED:])

    def before(self) -> tuple[int, float] | None:
        """The last step of the first three quarters of the run, and the median of the last few values up to it; None for a
        run too young to have a past."""
        step = self.steps[-1] * LOOK_BACK
        count = next((i for i in range(len(self.steps), 0, -1) if self.steps[i - 1] <= step), 0)
        if count < SMOOTHED or self.steps[-1] < YOUNG:
            return None
        return self.steps[count - 1], statistics.median(self.values[max(0, count - SMOOTHED) : count])


class SingularValueExplosion:
    """A first singular value of the generator grows faster than any power of the steps below `exponent`: by more than
    (steps now / steps then) ** exponent since three quarters of the run. The discriminator's are noisy in healthy runs
    too."""

    name = "sigma0 explodes"

    def __init__(self, exponent: float = 2.5) -> None:
        self.factor = LOOK_BACK**-exponent
        self.series: dict[str, History] = {}

    def observe(self, line: Line) -> Alarm | None:
        """The line's first singular values, against those of three quarters of the run."""
        found = None
        for key, value in line.items():
            if not key.startswith("sigma0/generator/"):
                continue
            series = self.series.setdefault(key, History())
            series.add(line["step"], value)
            before = series.before()
            if before and series.values[-1] > self.factor * before[1] > 0:
                growth = series.values[-1] / before[1]
                if found is None or growth > found[0]:
                    text = f"{key.removeprefix('sigma0/')}: {before[1]:.3g} at step {before[0]}, {series.values[-1]:.3g} now"
                    found = growth, Alarm(self.name, line["step"], text, before[0])
        return found and found[1]


class LossJump:
    """D's loss was near zero and is not any more: it had memorized its training set, and lost it. Or it is so
    many times what it was."""

    name = "D's loss jumps from near zero"

    def __init__(self, near: float = 0.1, jump: float = 0.4, exploded: float = 5.0) -> None:
        self.near, self.jump, self.exploded = near, jump, exploded
        self.series, self.first = History(), None

    def observe(self, line: Line) -> Alarm | None:
        """The line's loss, against what it was."""
        terms = [line[name] for name in ("D/loss_real", "D/loss_fake", "D/loss_pair") if name in line]
        if not terms:
            return None
        self.series.add(line["step"], sum(terms))
        if self.first is None and len(self.series.values) >= SMOOTHED:
            self.first = abs(self.series.now())
        before = self.series.before()
        if min(self.series.values) < 0:
            return None  # a loss without a floor, such as Wasserstein's: near zero means nothing
        if before and self.series.now() > self.exploded * max(self.first, before[1]):
            text = f"{before[1]:.3g} at step {before[0]}, {self.series.now():.3g} now"
            return Alarm("D's loss explodes", line["step"], text, before[0])
        if before and before[1] < self.near * self.first and self.series.now() > before[1] + self.jump * self.first:
            text = f"{before[1]:.3g} at step {before[0]}, {self.series.now():.3g} now"
            return Alarm(self.name, line["step"], text, before[0])
        return None


class RealAccuracyDrop:
    """D, which classified most real images right, classifies fewer than a given share of them as real."""

    name = "D turns against real images"

    def __init__(self, share: float = 0.35, known: float = 0.6) -> None:
        self.share, self.known = share, known
        self.series = History()

    def observe(self, line: Line) -> Alarm | None:
        """The line's share, against what it was."""
        if "D/acc_real" not in line:
            return None
        self.series.add(line["step"], line["D/acc_real"])
        before = self.series.before()
        if before and before[1] > self.known and self.series.now() < self.share:
            text = f"classified as real: {before[1]:.0%} at step {before[0]}, {self.series.now():.0%} now"
            return Alarm(self.name, line["step"], text, before[0])
        return None


class DropFromBest:
    """A quantity falls below a share of the most that it has been: the diversity of a fixed batch of samples, or the share
    of samples recognized as their class."""

    def __init__(self, key: str, share: float, name: str) -> None:
        self.key, self.share, self.name = key, share, name
        self.series = History()
        self.best: tuple[int, float] | None = None

    def observe(self, line: Line) -> Alarm | None:
        """The line's value, against the most that it has been."""
        if self.key not in line or line["step"] < YOUNG:
            return None
        self.series.add(line["step"], line[self.key])
        now = statistics.median(self.series.values[-3:])
        if len(self.series.values) >= 3 and (self.best is None or now >= self.best[1]):
            self.best = line["step"], now
        if self.best is not None and now < self.share * self.best[1]:
            healthy = last_above(self.series, (1 + self.share) / 2 * self.best[1])
            return Alarm(self.name, line["step"], f"{self.best[1]:.3g} at step {self.best[0]}, {now:.3g} now", healthy)
        return None


class ScoreDegradation:
    """A distance to the real images is so many times its best, or a score such a part of it."""

    name = "the samples get worse"
    DISTANCES = ("fid", "frechet_distance", "kid", "kernel_distance")
    SCORES = ("inception_score", "exp_kl_score")

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.best: dict[str, tuple[int, float]] = {}

    def observe(self, line: Line) -> Alarm | None:
        """The line's scores, against the best."""
        for key in (*self.DISTANCES, *self.SCORES):
            if key not in line or line["step"] < YOUNG:
                continue
            value, upwards = line[key], key in self.SCORES
            step, best = self.best.get(key, (line["step"], value))
            if (value >= best) if upwards else (value <= best):
                self.best[key] = line["step"], value
            elif (best > self.factor * value) if upwards else (value > self.factor * best):
                return Alarm(self.name, line["step"], f"{key} {best:.4g} at step {step}, {value:.4g} now", step)
        return None


class NonFiniteValue:
    """A logged number is not one. A loss or a gradient that is not ends the run at once, by another way."""

    name = "a number is not finite"

    def observe(self, line: Line) -> Alarm | None:
        """All numbers of the line."""
        bad = [key for key, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
        return Alarm(self.name, line["step"], bad[0], max(0, line["step"] - 1)) if bad else None


def last_above(series: History, level: float) -> int:
    """The last step at which a quantity was above a level; 0 where it never was."""
    return next((s for s, v in zip(reversed(series.steps), reversed(series.values), strict=True) if v > level), 0)


class CollapseDetector:
    """All rules over one run. A rule that raised an alarm raises no other until that step lies in the first three
    quarters of the run."""

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
        self.last_alarms: dict[str, int] = {}

    def observe(self, line: Line) -> list[Alarm]:
        """The alarms that the next line raises; lines come in the order of their steps."""
        found = []
        for rule in self.rules:
            alarm = rule.observe(line)
            if alarm is not None and line["step"] * LOOK_BACK >= self.last_alarms.get(rule.name, -1):
                found.append(alarm)
                self.last_alarms[rule.name] = line["step"]
        return found


def find_alarms(lines: Iterable[Line], config: MonitorConfig) -> list[Alarm]:
    """All alarms of a log, from its beginning."""
    detectors = CollapseDetector(config)
    return [alarm for line in sorted(lines, key=lambda line: line["step"]) for alarm in detectors.observe(line)]
