"""The run folder. Config, checkpoints and model are written whole or not at all; the log loses at most its last line.

    RUN/config.json                          what decides the run
    RUN/stats.jsonl                          one line per logging interval (see stats)
    RUN/samples/step-00001000.png            sheets
    RUN/checkpoints/step-00001000/           tensors.safetensors, manifest.json (step, checksum, counters)
    RUN/model/                               generator.safetensors (averaged weights, standing statistics), config.json

A model folder stands alone too. It may hold more: discriminator.safetensors, training_generator.safetensors (the weights
that the average followed), statistics.safetensors (standing statistics for several truncations, rows as in config.json).
Tensors and JSON only; nothing is ever unpickled. Folders are written under another name, synced, then renamed.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biggan.config import RunConfig, differences, from_json, to_json
from biggan.errors import CheckpointError
from biggan.files import refusal, write_file, write_folder
from biggan.latents import LatentConfig
from biggan.models import ModelConfig

Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """The tensors and counters of a training state after `step` generator steps."""

    step: int
    tensors: Tensors
    counters: dict[str, Any]
    path: Path


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


class DamagedCheckpoint(CheckpointError):
    """What is on disk is not what was written."""


class RunFolder:
    """One run on disk. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.stats_file = path / "stats.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.best_model = path / "best"
        self.best_file = self.best_model / "best.json"

    def claim(self, config: RunConfig) -> None:
        """Make the folder this run's: write its config, or make sure that it already holds the same.

        A run that has no checkpoint yet may be given another config. Raises CheckpointError where the folder holds
        another run (naming the fields that differ) or other files.
        """
        ours = {"config.json", ".config.json.writing", "samples", "checkpoints"}
        if self.config_file.exists() and self.list_checkpoints():
            stored = from_json(self.config_file.read_text(), RunConfig, self.config_file)
            different = differences(stored, config)
            if different:
                raise CheckpointError(
                    f"run folder {self.path} holds a run with another config ({'; '.join(different)}): "
                    "give the same options to resume it, or another --run"
                )
        elif (
            self.path.exists()
            and not self.config_file.exists()
            and not (self.path.is_dir() and {path.name for path in self.path.iterdir()} <= ours)
        ):
            raise CheckpointError(f"run folder {self.path} exists and holds no run: give another --run")
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            write_file(self.config_file, to_json(config).encode())
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around small writes below the folder: what the system refuses becomes a CheckpointError."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(refusal("the run", self.path, error)) from error

    def list_checkpoints(self) -> list[Path]:
        """Complete checkpoint folders, oldest first; not verified."""
        return sorted(path for path in self.checkpoints.glob("step-*") if (path / "manifest.json").exists())

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any], *, keep: int) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best. Raises CheckpointError when the
        disk does not take it; the checkpoints already there stay."""
        target = self.checkpoints / f"step-{step:08d}"
        data = packed(tensors)
        manifest = {"step": step, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "counters": counters}
        files = {"tensors.safetensors": data, "manifest.json": json.dumps(manifest, indent=2).encode()}
        write_folder(target, files, f"checkpoint of step {step}")
        best = self.best()
        for old in self.list_checkpoints()[:-keep]:
            if best is None or old.name != f"step-{best['step']:08d}":
                shutil.rmtree(old)
        return target

    def load_newest(self, report: Callable[[str], None], *, set_aside: bool = True) -> Checkpoint | None:
        """The newest checkpoint whose checksum is right, or None if none was ever written.

        Damaged ones are reported and, unless told otherwise, set aside under another name. Raises CheckpointError if there
        are only damaged ones, or when the system refuses to read one.
        """
        found = self.list_checkpoints()
        for path in reversed(found):
            try:
                return read_checkpoint(path)
            except DamagedCheckpoint as error:
                report(f"{error}; the one before it is used")
                if set_aside and path != found[0]:
                    with self.writing():
                        aside = path.with_name(f"damaged-{path.name}")
                        shutil.rmtree(aside, ignore_errors=True)
                        path.rename(aside)
        if found:
            raise CheckpointError(f"every checkpoint in {self.checkpoints} is damaged: give another --run to start anew")
        return None

    def best(self) -> dict[str, Any] | None:
        """The step, score and value of the best model, None where there is none."""
        try:
            found = json.loads(self.best_file.read_text())
            return found if {"step", "score", "value"} <= set(found) else None
        except (OSError, ValueError, TypeError):
            return None

    def save_best(self, best: dict[str, Any], card: ModelCard, tensors: Tensors) -> None:
        """Keep this model as the best: a model folder, and best.json with its step, score and value."""
        save_model_folder(self.best_model, card, {"generator": tensors})
        with self.writing():
            write_file(self.best_file, json.dumps(best).encode())

    def save_model(self, card: ModelCard, tensors: Tensors) -> None:
        """Write, or replace, the model folder."""
        save_model_folder(self.model, card, {"generator": tensors})


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread: training waits only for the copy of the tensors, or for the checkpoint
    before, if that is still being written."""

    def __init__(self, folder: RunFolder, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.thread: Thread | None = None
        self.error: Exception | None = None

    def write(self, step: int, tensors: Tensors, counters: dict[str, Any]) -> None:
        """Copy the tensors and begin to write. Raises CheckpointError when the disk did not take the one before."""
        self.finish()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self.thread = Thread(target=self.save, args=(step, copies, counters), name="checkpoint")
        self.thread.start()

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any]) -> None:
        """What the thread does."""
        try:
            self.folder.save(step, tensors, counters, keep=self.keep)
        except Exception as error:  # whatever it is, it is raised where the checkpoint was wanted
            self.error = error

    def finish(self) -> None:
        """Wait for what is being written. Raises what went wrong, CheckpointError when the disk did not take it."""
        if self.thread is not None:
            self.thread.join()
        error, self.thread, self.error = self.error, None, None
        if error is not None:
            raise error


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint folder, verified. Raises DamagedCheckpoint, or CheckpointError when the system refuses to read it."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        data = (path / "tensors.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise DamagedCheckpoint(f"checkpoint {path} is damaged: its checksum is wrong")
        return Checkpoint(manifest["step"], safetensors.torch.load(data), manifest["counters"], path)
    except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged ({error})") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}): try again, or look at the disk") from error


def save_model_folder(target: Path, card: ModelCard, parts: dict[str, Tensors]) -> None:
    """Write, or renew file by file, a model folder: PART.safetensors for each part, "generator" among them. Raises
    CheckpointError when the disk does not take it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, tensors in parts.items():
            write_file(target / f"{name}.safetensors", packed(tensors))
        if not card.statistics_at:  # those of an earlier model
            (target / "statistics.safetensors").unlink(missing_ok=True)
        write_file(target / "config.json", to_json(card).encode())
    except OSError as error:
        raise CheckpointError(refusal("the model", target, error)) from error


class ModelFolder:
    """What `save_model_folder` wrote: `path` is the model folder, the run folder around it, or one exported safetensors file
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
            text = metadata_of(path).get("config", "null") if alone else where.read_text()
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
            return safetensors.torch.load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"model {self.path} cannot be read ({error}): copy it again or train on") from error


def metadata_of(file: Path) -> dict[str, str]:
    """The free text in the head of a safetensors file."""
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def initial_weights(path: Path, report: Callable[[str], None]) -> dict[str, Tensors]:
    """The networks that another run may start from: "generator", "ema", and "discriminator" where there is one.

    From the newest checkpoint of a run folder, else from a model folder. Raises CheckpointError where there is neither.
    """
    run = RunFolder(path)
    checkpoint = run.load_newest(report, set_aside=False) if run.config_file.exists() else None
    if checkpoint is not None:
        parts = split_by_prefix(checkpoint.tensors)
        return {name: parts[name] for name in ("generator", "ema", "discriminator")}
    folder = ModelFolder(path)
    average, raw, discriminator = (folder.load(name) for name in ("generator", "training_generator", "discriminator"))
    weights = {"generator": raw or average, "ema": average}
    return weights if discriminator is None else weights | {"discriminator": discriminator}


def split_by_prefix(tensors: Tensors) -> dict[str, Tensors]:
    """{"part/name": tensor} as {"part": {"name": tensor}}."""
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = tensor
    return parts


def packed(tensors: Tensors) -> bytes:
    """Tensors, from any device and in any layout, as the bytes of a safetensors file; two names may share one tensor."""
    seen: set[int] = set()
    copies = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        copies[name] = copy.clone() if copy.data_ptr() in seen else copy
        seen.add(copy.data_ptr())
    return safetensors.torch.save(copies)
