"""TODO: split from analysis.collapse."""

from dataclasses import dataclass
from typing import Literal

from biggan.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Watching a run for collapse: singular values, D's calls, the diversity of a fixed batch, and alarms over all logs."""

    singular_values: int = 3
    """How many of each weight are logged."""
    every: int | None = 250
    """Steps between measurements of weights and samples; None: none, only the log is watched."""
    max_time_fraction: float = 0.03
    """Of the time that they may take, at most; a measurement that falls due earlier is put off."""
    on_alarm: Literal["warn", "stop", "roll-back"] = "warn"
    """stop: end the run; the best model is in RUN/best, without scores RUN/model is that of the last healthy checkpoint.
    roll-back: return to the last healthy checkpoint, with remedies."""
    max_rollbacks: int = 3
    """How often a run returns before it only warns."""
    rollback_lr_factor: float = 0.5
    """Learning rates after a return, times this, each time; 1: as they were."""
    rollback_r1: float | None = 1.0
    """gamma of an R1 penalty added after the first return, and doubled with each; None: none."""
    rollback_r1_interval: int = 4
    """Its interval."""
    metric_factor: float = 1.4
    """A score so many times worse than the best raises an alarm."""
    held_out: str | None = None
    """A data source that the run is not trained on: how much of it D calls real is logged, beside its training images."""

    def check(self) -> None:
        """Raises ConfigError on numbers that make no sense."""
        for name in ("every", "max_time_fraction", "rollback_lr_factor", "rollback_r1", "rollback_r1_interval"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"monitor.{name}={value} must be above 0")
        if self.singular_values < 1:
            raise ConfigError(f"monitor.singular_values={self.singular_values} must be at least 1")
        if self.max_rollbacks < 0:
            raise ConfigError(f"monitor.max_rollbacks={self.max_rollbacks} must be at least 0")
        if not self.metric_factor > 1:
            raise ConfigError(f"monitor.metric_factor={self.metric_factor} must be above 1")
