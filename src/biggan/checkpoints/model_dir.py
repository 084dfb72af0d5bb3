"""The model directory: all that sampling needs, and stands alone.

    generator.safetensors            averaged weights with standing statistics
    config.json                      the ModelCard
    classifier.safetensors           the averaged discriminator of a semi-supervised run, if there is one
    discriminator.safetensors        of an imported model, if there is one
    training_generator.safetensors   the weights that the average followed, of an imported model
    statistics.safetensors           standing statistics for several truncation thresholds, in the order of the card

Tensors and JSON only: nothing in it is code.
"""

from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from biggan.checkpoints.tensors import Tensors, read_metadata, serialize_tensors
from biggan.configs.json_io import from_json, to_json
from biggan.configs.migrations import migrate_tensors
from biggan.models.registry import ModelConfig
from biggan.runtime.atomic_io import write_error_message, write_file
from biggan.runtime.errors import CheckpointError
from biggan.sampling.latents import LatentConfig


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """config.json of a model folder: what is needed to sample from it."""

    model: ModelConfig
    latent: LatentConfig = field(default_factory=LatentConfig)
    class_names: tuple[str, ...]
    step: int | None
    """Generator steps of training; None: not known."""
    trained_on: str
    """Name of the data source."""
    statistics_at: tuple[float, ...] = ()
    """Truncation thresholds of statistics.safetensors, ascending; the last set is that of untruncated sampling too."""


def save_model_dir(target: Path, card: ModelCard, networks: dict[str, Tensors]) -> None:
    """Write, or renew file by file, a model directory: NAME.safetensors for each of `networks` (name -> tensors). Raises
    CheckpointError when the disk does not take it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, tensors in networks.items():
            write_file(target / f"{name}.safetensors", serialize_tensors(tensors))
        if not card.statistics_at:  # those of an earlier model
            (target / "statistics.safetensors").unlink(missing_ok=True)
        write_file(target / "config.json", to_json(card).encode())
    except OSError as error:
        raise CheckpointError(write_error_message("the model", target, error)) from error


class ModelDir:
    """A model on disk: `path` is a model directory, the run directory around it, or an exported safetensors file that
    carries its config.

    Raises CheckpointError if there is no model or its config cannot be read.
    """

    def __init__(self, path: Path) -> None:
        alone = path.is_file() and path.suffix == ".safetensors"
        self.path = path if alone or (path / "generator.safetensors").exists() else path / "model"
        if not alone and not (self.path / "generator.safetensors").exists():
            foreign = "; another implementation's weights come in by biggan import" if path.is_file() else ""
            raise CheckpointError(
                f"{path} holds no model: name a run folder, or a folder with generator.safetensors{foreign}"
            )
        where = path if alone else self.path / "config.json"
        try:
            text = read_metadata(path).get("config", "null") if alone else where.read_text()
        except (OSError, UnicodeDecodeError, SafetensorError) as error:
            raise CheckpointError(f"model {self.path} cannot be read ({error}): copy it again or train on") from error
        if text == "null":
            raise CheckpointError(f"{path} carries no config: it was not exported by biggan; try biggan import {path}")
        self.card: ModelCard = from_json(text, ModelCard, where)
        self.card.model.check()
        self.card.latent.check()
        if self.card.model.num_classes != len(self.card.class_names):
            raise CheckpointError(
                f"{self.path}: config.json names {len(self.card.class_names)} classes, "
                f"model.num_classes is {self.card.model.num_classes}"
            )

    def load(self, name: str) -> Tensors | None:
        """The tensors of NAME.safetensors, None where it is absent. Raises CheckpointError where it cannot be read."""
        alone = self.path.is_file()
        file = self.path if alone and name == "generator" else self.path / f"{name}.safetensors"
        if not file.exists():
            return None
        try:
            return migrate_tensors(safetensors.torch.load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"model {self.path} cannot be read ({error}): copy it again or train on") from error

    def load_into(self, network: nn.Module, name: str) -> bool:
        """Load NAME.safetensors into a network; whether there is such a file. Mutates the network. Raises CheckpointError
        where it cannot be read, or does not fit config.json, from which the network was built."""
        tensors = self.load(name)
        if tensors is None:
            return False
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise CheckpointError(f"the {name} in {self.path} does not fit its config.json: {reason[:200]}") from error
        return True
