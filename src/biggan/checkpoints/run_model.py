"""The model of a run or a model folder; of a run that stopped before it wrote one, that of its newest checkpoint."""

import logging
from pathlib import Path

from biggan.checkpoints.model_dir import ModelCard, ModelDir
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import Checkpoint, Tensors, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import check_weights

logger = logging.getLogger(__name__)

PARTS = {"generator": "ema", "classifier": "classifier"}
"""Networks of a model folder, and what they are called in a checkpoint."""


class CheckpointModel(ModelDir):
    """The averaged networks of a run's checkpoint, in place of a model folder. Their batch norms have no statistics for
    sampling yet. Raises CheckpointError where the config does not describe a model."""

    has_statistics = False

    def __init__(self, run_dir: RunDir, config: RunConfig, checkpoint: Checkpoint) -> None:
        if config.dataset is None:
            raise CheckpointError(f"{run_dir.config_file} says nothing of the data: name another run folder")
        self.path, self.parts = run_dir.path, split_by_prefix(checkpoint.tensors)
        self.standing_stats_batches = config.train.standing_stats_batches
        self.card = ModelCard(
            model=config.model,
            latent=config.latent,
            class_names=config.dataset.class_names,
            step=checkpoint.step,
            trained_on=config.dataset.name,
        )
        self.check_card()
        if PARTS["generator"] not in self.parts:
            raise CheckpointError(f"checkpoint {checkpoint.path} holds no averaged generator: use another one, or train on")

    def load(self, name: str) -> Tensors | None:
        """The tensors of an averaged network, None where the run has none of that name. Raises CheckpointError where they
        hold numbers that are not finite."""
        tensors = self.parts.get(PARTS.get(name, ""))
        if tensors is not None:
            check_weights(tensors, self.path)
        return tensors


def open_model(path: Path) -> ModelDir:
    """The model at a path, as `ModelDir` takes it. Of a run folder without a model folder it is that of the newest
    checkpoint, which is logged. Raises CheckpointError where there is neither."""
    run_dir = RunDir(path)
    has_model = any((folder / "generator.safetensors").exists() for folder in (path, path / "model"))
    if has_model or not path.is_dir() or not run_dir.config_file.exists():
        return ModelDir(path)
    checkpoint = run_dir.load_newest(set_aside=False)
    if checkpoint is None:
        raise CheckpointError(f"run {path} has neither a model nor a checkpoint yet: train on")
    logger.info("%s has no model folder yet: its model is that of the checkpoint of step %d", path, checkpoint.step)
    return CheckpointModel(run_dir, run_dir.read_config(), checkpoint)
