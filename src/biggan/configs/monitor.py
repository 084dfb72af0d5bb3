"""How a run is monitored for collapse. The rules are in analysis/collapse_rules, the measurements in training/monitor."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from biggan.runtime.constraints import NonNegativeInt, PositiveFloat, PositiveInt, check_fields


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Singular values, D's accuracy on real images, diversity of a fixed batch of samples, alarms, and what follows them."""

    singular_values: PositiveInt = 3
    """How many of the largest singular values of each weight are logged."""
    every: PositiveInt | None = 250
    """Steps between measurements of weights and samples; None: none, and the rules see the other logs alone."""
    max_time_fraction: PositiveFloat = 0.03
    """Largest share of the training time that measurements may take; one that falls due earlier is put off."""
    on_alarm: Literal["warn", "stop", "roll-back"] = "warn"
    """warn: log it and go on. stop: end the run; the best model is in RUN/best, or, without scores, RUN/model is that of the
    last healthy checkpoint. roll-back: go on from the last healthy checkpoint with lower learning rates and R1."""
    max_rollbacks: NonNegativeInt = 3
    """How often a run rolls back before alarms only warn."""
    rollback_lr_factor: PositiveFloat = 0.5
    """Both learning rates are multiplied by this at each rollback; 1: they stay."""
    rollback_r1: PositiveFloat | None = 1.0
    """gamma of an R1 penalty that is added at the first rollback, and doubled at each further one; None: none."""
    rollback_r1_interval: PositiveInt = 4
    """Steps between evaluations of that penalty, which is weighted by as much (lazy regularization)."""
    metric_factor: Annotated[float, Gt(1)] = 1.4
    """A score this many times worse than the best so far raises an alarm."""
    held_out: str | None = None
    """A data source that the run is not trained on: D's accuracy on it is logged beside that on training images."""

    def check(self) -> None:
        """Raises ConfigError on numbers out of range."""
        check_fields(self, "monitor")
