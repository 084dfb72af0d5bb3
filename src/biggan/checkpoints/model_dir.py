"""TODO: split from checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

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
    """Generator steps; None: not known."""
    trained_on: str
    statistics_at: tuple[float, ...] = ()
    """The truncations that statistics.safetensors is for, ascending; the last goes for none as well."""


def save_model_dir(target: Path, card: ModelCard, parts: dict[str, Tensors]) -> None:
    """Write, or renew file by file, a model folder: PART.safetensors for each part, "generator" among them. Raises
    CheckpointError when the disk does not take it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, tensors in parts.items():
            write_file(target / f"{name}.safetensors", serialize_tensors(tensors))
        if not card.statistics_at:  # those of an earlier model
            (target / "statistics.safetensors").unlink(missing_ok=True)
        write_file(target / "config.json", to_json(card).encode())
    except OSError as error:
        raise CheckpointError(write_error_message("the model", target, error)) from error


class ModelDir:
    """What `save_model_dir` wrote: `path` is the model folder, the run folder around it, or one exported safetensors file
    that carries its config.

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

    def load(self, part: str) -> Tensors | None:
        """The tensors of one part, None where it is absent. Raises CheckpointError where it cannot be read."""
        alone = self.path.is_file()
        file = self.path if alone and part == "generator" else self.path / f"{part}.safetensors"
        if not file.exists():
            return None
        try:
            return migrate_tensors(safetensors.torch.load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"model {self.path} cannot be read ({error}): copy it again or train on") from error
