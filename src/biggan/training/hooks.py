"""Everything periodic in training: what a hook is, and the hooks that write checkpoints and sample sheets.

The trainer runs its hooks in order after each step: profile, monitor, evaluator, classifier test, alarm policy, checkpoints,
sheets (training/trainer). A hook never changes what the steps compute.
"""

import logging
from functools import partial
from typing import Literal, NamedTuple, Protocol

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import CheckpointError
from biggan.sampling.image_io import save_image
from biggan.training.async_checkpoint import AsyncCheckpointWriter
from biggan.training.guard import raise_if_non_finite, tensor_sums
from biggan.training.outputs import build_sampler, save_model
from biggan.training.train_state import TrainState

logger = logging.getLogger(__name__)

RunEnd = Literal["completed", "signal", "alarm"]
"""Why a run ends: its last step or time limit, a signal from outside, or an alarm with the policy to stop."""


class HookResult(NamedTuple):
    """What a hook hands back to the trainer."""

    metrics: dict[str, float] | None = None
    """Numbers of this step, for the collapse rules."""
    save_checkpoint: bool = False
    """Whether the state is worth a checkpoint now."""
    stop: bool = False
    """Whether the run shall end with this step."""


class Hook(Protocol):
    """Something that happens every so often in training. All ranks call its methods together."""

    at_end: frozenset[RunEnd]
    """Ends of a run at which the hook runs whether or not it is due."""

    def due(self, step: int, seconds: float) -> bool:
        """Whether to run after generator step `step` (from 1), `seconds` of training into the run; the same on all ranks."""
        ...

    def run(self, step: int) -> HookResult:
        """Do it."""
        ...


class CheckpointHook:
    """Saves the whole state every `train.checkpoint_every` steps, after `train.checkpoint_minutes`, on request, and at every
    end. Tensors are copied, then written in a thread while training goes on. Nothing non-finite is ever saved."""

    at_end: frozenset[RunEnd] = frozenset({"completed", "signal", "alarm"})

    def __init__(self, config: RunConfig, state: TrainState, writer: AsyncCheckpointWriter, seconds: float) -> None:
        self.every = config.train.checkpoint_every
        self.seconds_between = minutes_to_seconds(config.train.checkpoint_minutes)
        self.state, self.writer = state, writer
        self.requested = False
        self.seconds = self.last_saved = seconds

    def due(self, step: int, seconds: float) -> bool:
        self.seconds = seconds
        return self.requested or step % self.every == 0 or seconds - self.last_saved >= self.seconds_between

    def run(self, step: int) -> HookResult:
        """Raises TrainingDiverged where the state is not finite, CheckpointError when the disk did not take the one
        before."""
        tensors = self.state.tensors()
        raise_if_non_finite(self.state.guard, tensor_sums(tensors), step, self.writer)
        on_rank_zero(partial(self.writer.write, step, tensors, {"seconds": self.seconds}))
        self.requested, self.last_saved = False, self.seconds
        return HookResult()


class SampleSheetHook:
    """Every `train.sample_every` steps a sheet, one row per class with fixed latents, and the model directory renewed:
    averaged weights with their standing statistics, all that sampling needs."""

    at_end: frozenset[RunEnd] = frozenset({"completed"})

    def __init__(self, config: RunConfig, state: TrainState, run_dir: RunDir) -> None:
        self.config, self.state, self.run_dir = config, state, run_dir

    def due(self, step: int, seconds: float) -> bool:
        return step % self.config.train.sample_every == 0

    def run(self, step: int) -> HookResult:
        """Write the sheet and the model; a model whose images are not finite is reported and not written."""
        sampler = build_sampler(self.state, self.config)
        try:
            sheet = sampler.class_grid()
        except CheckpointError as error:  # a model whose images are no images replaces none that is better
            logger.warning("step %d: no sheet and no model is written: %s", step, error)
            return HookResult()
        if sampler.world.is_rank_zero:
            with self.run_dir.writing():
                save_image(sheet, self.run_dir.samples / f"step-{step:08d}.png")
        save_model(sampler, self.config, self.run_dir, step, self.state.discriminator_ema)
        return HookResult()


def minutes_to_seconds(minutes: float | None) -> float:
    """A limit in seconds; None: infinite."""
    return float("inf") if minutes is None else 60 * minutes
