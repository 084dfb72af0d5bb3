"""What a run may start from: another run, one checkpoint of it (RUN@STEP), or a model folder."""

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from biggan.checkpoints.model_dir import ModelDir
from biggan.checkpoints.run_dir import RunDir, checkpoint_step
from biggan.checkpoints.tensors import Checkpoint, Tensors, read_checkpoint, split_by_prefix
from biggan.configs.overrides import flatten
from biggan.configs.run import PLACES, RunConfig, with_own_places
from biggan.models.registry import ModelConfig
from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import check_weights
from biggan.sampling.latents import LatentConfig

logger = logging.getLogger(__name__)


class InitFrom(NamedTuple):
    """A folder, and the step of one of its checkpoints; None: the newest."""

    path: Path
    step: int | None = None


def parse_init_from(text: str) -> InitFrom:
    """ "RUN@STEP", or a run or model folder."""
    where, _, step = text.rpartition("@")
    if where and re.fullmatch("[0-9]{1,15}", step) and not os.path.exists(text):
        return InitFrom(Path(where), int(step))
    return InitFrom(Path(text))


def read_model_config(path: Path) -> tuple[ModelConfig, LatentConfig]:
    """The model of a run or a model folder, and its latents. Raises CheckpointError where there is neither."""
    run = RunDir(path)
    if run.checkpoints.is_dir() and run.config_file.exists():
        config = read_run_config(path)
        return config.model, config.latent
    card = ModelDir(path).card
    return card.model, card.latent


def read_run_config(path: Path, own: RunConfig | None = None) -> RunConfig:
    """The config of a run, which may be somebody else's: what names files, programs and places in it is not taken over, but
    as in `own`, which is then logged (None: as by default). Raises CheckpointError where there is none."""
    stored, file = RunDir(path).read_config(), RunDir(path).config_file
    config = with_own_places(stored, own or RunConfig())
    before, after = flatten(stored), flatten(config)
    left = sorted(name for name in PLACES - {"preset", "init_from"} if before[name] != after[name])
    if left and own is not None:
        text = "%s: not taken over, since they name files, programs or places: %s; give what is needed"
        logger.info(text, file, ", ".join(left))
    return config


def load_initial_weights(start: InitFrom) -> dict[str, Tensors]:
    """The networks that another run may start from: "generator", "ema", and "discriminator" and "classifier" where there are
    any; from a checkpoint "generator_optimizer" and "discriminator_optimizer" too.

    From the checkpoint named, else the newest of a run folder, else from a model folder. Raises CheckpointError where
    there is none of these, or its numbers are not finite.
    """
    run = RunDir(start.path)
    if start.step is not None:
        found = run.list_checkpoints()
        named = next((path for path in found if checkpoint_step(path) == start.step), None)
        if named is None:
            there = ", ".join(str(checkpoint_step(path)) for path in found) or "none"
            raise CheckpointError(
                f"{start.path} has no checkpoint of step {start.step} (there are: {there}): name one of these, "
                "or train with a larger --train.keep-checkpoints"
            )
        return checked_parts(read_checkpoint(named))
    checkpoint = run.load_newest(set_aside=False) if run.config_file.exists() else None
    if checkpoint is not None:
        return checked_parts(checkpoint)
    folder = ModelDir(start.path)
    average, raw = folder.load("generator"), folder.load("training_generator")
    others = {name: folder.load(name) for name in ("discriminator", "classifier")}
    return {"generator": raw or average, "ema": average} | {name: w for name, w in others.items() if w is not None}


def checked_parts(checkpoint: Checkpoint) -> dict[str, Tensors]:
    """The networks and optimizers in a checkpoint, which may be somebody else's. Raises CheckpointError where numbers are
    not finite."""
    check_weights(checkpoint.tensors, checkpoint.path)
    return split_by_prefix(checkpoint.tensors)
