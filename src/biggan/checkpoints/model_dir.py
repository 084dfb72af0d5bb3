"""The model directory: all that sampling needs, and stands alone.

    generator.safetensors            averaged weights with standing statistics
    config.json                      the ModelCard
    classifier.safetensors           the averaged discriminator of a semi-supervised run, if there is one
    discriminator.safetensors        of an imported model, if there is one
    training_generator.safetensors   the weights that the average followed, of an imported model
    statistics.safetensors           standing statistics for several truncation thresholds, in the order of the card

Tensors and JSON only: nothing in it is code. The checksums of the other files are in config.json, and are verified whenever
a file is read; models of earlier versions have none.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from biggan.checkpoints.tensors import Tensors, check_fits
from biggan.configs.json_io import from_json, to_json
from biggan.configs.migrations import migrate_tensors
from biggan.models.registry import ModelConfig, check_memory
from biggan.runtime.atomic_io import write_error_message, write_file, write_stream
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.errors import CheckpointError, reason_for
from biggan.runtime.json_text import read_json
from biggan.runtime.tensor_files import Safetensors, check_weights, other_precisions, read_safetensors, tensors_sha256
from biggan.runtime.tensor_stream import TensorStream, hashing, stream_tensors
from biggan.sampling.latents import LatentConfig

logger = logging.getLogger(__name__)


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
    sha256: dict[str, str] = field(default_factory=dict)
    """Checksums of the files beside it: {"generator": sha256 of generator.safetensors}; of a file that is not named here
    none is known."""


def save_model_dir(target: Path, card: ModelCard, networks: dict[str, Tensors]) -> None:
    """Write, or renew file by file, a model directory: NAME.safetensors for each of `networks` (name -> tensors). Raises
    CheckpointError when the disk does not take it."""
    checksums = dict(card.sha256)
    try:
        target.mkdir(parents=True, exist_ok=True)
        forget_checksums(target / "config.json", networks.keys())
        for name, tensors in networks.items():
            digest = hashlib.sha256()
            write_stream(target / f"{name}.safetensors", hashing(stream_tensors(tensors).blocks(), digest))
            checksums[name] = digest.hexdigest()
        if not card.statistics_at:  # those of an earlier model
            (target / "statistics.safetensors").unlink(missing_ok=True)
        write_file(target / "config.json", to_json(dataclasses.replace(card, sha256=checksums)).encode())
    except OSError as error:
        raise CheckpointError(write_error_message("the model", target, error)) from error


def forget_checksums(config_file: Path, names: Iterable[str]) -> None:
    """Remove the checksums of files that are about to be replaced from a config.json, so that whenever the writing is cut
    off, the folder is a model that can be read. Raises OSError."""
    try:
        card = read_json(config_file)
        kept = {name: digest for name, digest in card["sha256"].items() if name not in set(names)}
    except (OSError, ValueError, KeyError, AttributeError):  # no model yet, or one without checksums
        return
    if kept != card["sha256"]:
        write_file(config_file, json.dumps(card | {"sha256": kept}, indent=2).encode())


def export_model_file(card: ModelCard, generator: Tensors) -> TensorStream:
    """A safetensors file with a generator that carries its config.json and a checksum as metadata."""
    config = to_json(dataclasses.replace(card, sha256={}, statistics_at=()))
    checksum = file_checksum(generator, config)
    return stream_tensors(generator, {"format": "pt", "config": config, "sha256": checksum})


def file_checksum(tensors: Tensors, config: str) -> str:
    """The checksum in the metadata of an exported file, of its tensors, with their names, and its config."""
    return hashlib.sha256(f"{tensors_sha256(tensors)} {config}".encode()).hexdigest()


class ModelDir:
    """A model on disk: `path` is a model directory, the run directory around it, or an exported safetensors file that
    carries its config.

    `has_statistics`: whether its batch norms hold statistics for sampling without truncation. Raises CheckpointError if
    there is no model or its config cannot be read.
    """

    has_statistics = True
    standing_stats_batches = 32
    """Batches for such statistics where they are to be made."""

    def __init__(self, path: Path) -> None:
        alone = path.is_file() and path.suffix == ".safetensors"
        self.path = path if alone or (path / "generator.safetensors").exists() else path / "model"
        if not alone and not (self.path / "generator.safetensors").exists():
            if (path / "checkpoints").is_dir():
                raise CheckpointError(
                    f"{path} holds no model yet: train on; a run writes it with each sample sheet and at its end"
                )
            foreign = "; another implementation's weights come in by biggan import" if path.is_file() else ""
            raise CheckpointError(
                f"{path} holds no model: name a run folder, or a folder with generator.safetensors{foreign}"
            )
        where = path if alone else self.path / "config.json"
        try:
            self.exported = read_safetensors(path) if alone else None
            text = self.exported.metadata.get("config", "null") if self.exported else read_file(where, SMALL_FILE).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_for(error)
            raise CheckpointError(f"model {self.path} cannot be read ({reason}): copy it again or train on") from error
        if alone and text == "null":
            raise CheckpointError(f"{path} carries no config: it was not exported by biggan; try biggan import {path}")
        self.card: ModelCard = from_json(text, ModelCard, where)
        self.check_card()

    def check_card(self) -> None:
        """Raises UserError if the card contradicts itself, or describes networks that no memory holds."""
        self.card.model.check()
        self.card.latent.check()
        check_memory(self.card.model, f"the model in {self.path}")
        if self.card.model.num_classes != len(self.card.class_names):
            raise CheckpointError(
                f"{self.path}: config.json names {len(self.card.class_names)} classes, "
                f"model.num_classes is {self.card.model.num_classes}"
            )

    def load(self, name: str) -> Tensors | None:
        """The tensors of NAME.safetensors, None where it is absent. Raises CheckpointError where it cannot be read, is not
        what was written, or holds numbers that are not finite."""
        file = self.path / f"{name}.safetensors"
        if self.exported is not None:
            if name != "generator":
                return None
            file, found, intact = self.path, self.exported, self.is_intact_file(self.exported)
        elif not file.exists():
            return None
        else:
            found = read_safetensors(file)
            intact = self.is_intact(name, found)
        if not intact:
            raise CheckpointError(f"{file} is damaged: its checksum is wrong; copy it again or train on")
        check_weights(found.tensors, file)
        return migrate_tensors(found.tensors)

    def is_intact_file(self, found: Safetensors) -> bool:
        """Whether an exported file is what was written, as far as it says so."""
        checksum = file_checksum(found.tensors, found.metadata.get("config", ""))
        return found.metadata.get("sha256") in (None, checksum)

    def is_intact(self, name: str, found: Safetensors) -> bool:
        """Whether NAME.safetensors is what was written, as far as config.json says so. A training run may have renewed the
        model since config.json was read, so it is read again before a checksum counts as wrong."""
        if self.card.sha256.get(name) in (None, found.sha256):
            return True
        try:
            return read_json(self.path / "config.json").get("sha256", {}).get(name) in (None, found.sha256)
        except (OSError, ValueError, AttributeError):
            return False

    def load_into(self, network: nn.Module, name: str) -> bool:
        """Load NAME.safetensors into a network; whether there is such a file. Mutates the network. Raises CheckpointError
        where it cannot be read, or does not fit config.json, from which the network was built."""
        tensors = self.load(name)
        if tensors is None:
            return False
        check_fits(tensors, network.state_dict(), f"the {name} in {self.path} does not fit its config.json")
        if kinds := other_precisions(tensors):
            logger.info("the %s in %s: weights of %s are converted to float32", name, self.path, kinds)
        network.load_state_dict(tensors)
        return True
