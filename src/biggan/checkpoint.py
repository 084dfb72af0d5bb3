"""The run folder. Config, checkpoints and model are written whole or not at all; the log loses at most its last line.

    RUN/config.json                          what decides the run
    RUN/stats.jsonl                          one line per logging interval (see stats)
    RUN/samples/step-00001000.png            sheets
    RUN/checkpoints/step-00001000/           tensors.safetensors, manifest.json (step, checksum, counters)
    RUN/watch.jsonl, evaluations.jsonl       likewise: weights and samples; scores
    RUN/tests.jsonl                          likewise: errors of a classifier
    RUN/alarms.jsonl, returns.json           what the rules saw, and how often the run went back; never cut
    RUN/return-1/                            the logs as they were before it did
    RUN/best/                                the best model, with best.json
    RUN/model/                               generator.safetensors (averaged weights, standing statistics), config.json

A model folder stands alone too. It may hold more: classifier.safetensors (the averaged discriminator),
discriminator.safetensors, training_generator.safetensors (the weights that the average followed), statistics.safetensors
(standing statistics for several truncations, rows as in config.json). Tensors and JSON only; nothing is ever unpickled.
Folders are written under another name, synced, then renamed.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any], *, keep: int, far: bool = False) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best; `far`: and a few that reach back to half
        of the steps. Raises CheckpointError when the disk does not take it; the checkpoints already there stay."""
        target = self.checkpoints / f"step-{step:08d}"
        data = packed(tensors)
        manifest = {"step": step, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "counters": counters}
        files = {"tensors.safetensors": data, "manifest.json": json.dumps(manifest, indent=2).encode()}
        write_folder(target, files, f"checkpoint of step {step}")
        best, found = self.best(), self.list_checkpoints()
        steps = [int(path.name.rpartition("-")[2]) for path in found]
        wanted = set(steps[-keep:]) | (far_back(steps) if far else set()) | ({best["step"]} if best else set())
        for old, number in zip(found, steps, strict=True):
            if number not in wanted:
                shutil.rmtree(old)
        return target

    def note_returns(self, returns: dict[str, int]) -> None:
        """Write down how often the run has gone back, which no kill shall make it forget."""
        with self.writing():
            write_file(self.path / "returns.json", json.dumps(returns).encode())

    def returns(self) -> dict[str, int]:
        """What was written down. Raises CheckpointError where it cannot be read."""
        file = self.path / "returns.json"
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): remove it to forget the returns") from error

    def return_to(self, checkpoint: Path, returns: dict[str, int]) -> None:
        """Make this checkpoint the newest: later ones are removed. The logs go on from there; as they were they are kept in
        the folder return-N."""
        self.note_returns(returns)
        with self.writing():
            kept = self.path / f"return-{sum(returns.values())}"
            kept.mkdir(exist_ok=True)
            for file in self.path.glob("*.jsonl"):
                shutil.copy(file, kept / file.name)
            for later in self.list_checkpoints():
                if later.name > checkpoint.name:
                    shutil.rmtree(later)
            best = self.best()
            if best is not None:  # it is to be beaten, also by what is trained anew from here
                write_file(self.best_file, json.dumps(best | {"before_a_return": True}).encode())

    def note_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Add lines to alarms.jsonl, which is never cut."""
        with self.writing(), open(self.path / "alarms.jsonl", "a") as file:
            file.writelines(json.dumps(alarm) + "\n" for alarm in alarms)

    def alarmed_at(self) -> int | None:
        """The step of the last alarm."""
        try:
            return json.loads((self.path / "alarms.jsonl").read_text().splitlines()[-1])["step"]
        except (OSError, ValueError, KeyError, IndexError):
            return None

    def advice(self) -> str:
        """Where the best model of the run is."""
        best = self.best()
        return (
            f"the last model is {self.model}" if best is None else f"the best is {self.best_model}, of step {best['step']}"
        )

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

    def save_model(self, card: ModelCard, parts: dict[str, Tensors]) -> None:
        """Write, or replace, the model folder; `parts` as `save_model_folder` takes them."""
        save_model_folder(self.model, card, parts)


def far_back(steps: list[int]) -> set[int]:
    """Of ascending steps those that a run may have to return to: down to half of the last, no two neighbours further apart
    than a fifth needs."""
    wanted = [steps[-1]]
    for older, step in reversed(list(itertools.pairwise([0, *steps[:-1]]))):
        if wanted[-1] > steps[-1] / 2 and older < wanted[-1] / 1.2:
            wanted.append(step)
    return set(wanted)


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
