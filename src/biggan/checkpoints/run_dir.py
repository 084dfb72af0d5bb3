"""The run folder. Config, checkpoints and model are written whole or not at all; the log loses at most its last line.

    RUN/config.json                          what decides the run
    RUN/stats.jsonl                          one line per logging interval (see stats)
    RUN/samples/step-00001000.png            sheets
    RUN/checkpoints/step-00001000/           tensors.safetensors, manifest.json (step, checksum, counters)
    RUN/monitor.jsonl, evaluations.jsonl     likewise: weights and samples; scores
    RUN/classifier_test.jsonl                 likewise: errors of a classifier
    RUN/alarms.jsonl, rollbacks.json         what the rules saw, and how often the run rolled back; never cut
    RUN/rollback-1/                          the logs as they were before it did
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
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.checkpoints.tensors import (
    Checkpoint,
    CorruptCheckpoint,
    Tensors,
    read_checkpoint,
    serialize_tensors,
)
from biggan.configs.json_io import from_json, to_json
from biggan.configs.migrations import RUN_FILES, migrate_log_line
from biggan.configs.run import RunConfig, differences
from biggan.runtime.atomic_io import write_error_message, write_file, write_folder
from biggan.runtime.errors import CheckpointError
from biggan.runtime.metric_logger import read_log

LOGS = ("stats.jsonl", "monitor.jsonl", "evaluations.jsonl", "classifier_test.jsonl")

logger = logging.getLogger(__name__)


class RunDir:
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
            for old, new in RUN_FILES.items():  # of earlier versions
                if (self.path / old).exists() and not (self.path / new).exists():
                    (self.path / old).rename(self.path / new)
            write_file(self.config_file, to_json(config).encode())
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around small writes below the folder: what the system refuses becomes a CheckpointError."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(write_error_message("the run", self.path, error)) from error

    def list_checkpoints(self) -> list[Path]:
        """Complete checkpoint folders, oldest first; not verified."""
        return sorted(path for path in self.checkpoints.glob("step-*") if (path / "manifest.json").exists())

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any], *, keep: int, keep_history: bool = False) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best; `keep_history`: and a few that reach back
        to half of the steps. Raises CheckpointError when the disk does not take it; the checkpoints already there stay."""
        target = self.checkpoints / f"step-{step:08d}"
        data = serialize_tensors(tensors)
        manifest = {"step": step, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "counters": counters}
        files = {"tensors.safetensors": data, "manifest.json": json.dumps(manifest, indent=2).encode()}
        write_folder(target, files, f"checkpoint of step {step}")
        best, found = self.best(), self.list_checkpoints()
        steps = [int(path.name.rpartition("-")[2]) for path in found]
        wanted = (
            set(steps[-keep:])
            | (rollback_candidates(steps) if keep_history else set())
            | ({best["step"]} if best else set())
        )
        for old, number in zip(found, steps, strict=True):
            if number not in wanted:
                shutil.rmtree(old)
        return target

    def save_rollbacks(self, rollbacks: dict[str, int]) -> None:
        """Write down how often the run has rolled back, by cause, which no kill shall make it forget."""
        with self.writing():
            write_file(self.path / "rollbacks.json", json.dumps(rollbacks).encode())

    def load_rollbacks(self) -> dict[str, int]:
        """What was written down. Raises CheckpointError where it cannot be read."""
        file = self.path / "rollbacks.json"
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): remove it to forget the rollbacks") from error

    def roll_back_to(self, checkpoint: Path, rollbacks: dict[str, int]) -> None:
        """Make this checkpoint the newest: later ones are removed. The logs go on from there; as they were they are kept in
        the folder rollback-N."""
        self.save_rollbacks(rollbacks)
        with self.writing():
            kept = self.path / f"rollback-{sum(rollbacks.values())}"
            kept.mkdir(exist_ok=True)
            for file in self.path.glob("*.jsonl"):
                shutil.copy(file, kept / file.name)
            for later in self.list_checkpoints():
                if later.name > checkpoint.name:
                    shutil.rmtree(later)
            best = self.best()
            if best is not None:  # it is to be beaten, also by what is trained anew from here
                write_file(self.best_file, json.dumps(best | {"before_rollback": True}).encode())

    def append_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Add lines to alarms.jsonl, which is never cut."""
        with self.writing(), open(self.path / "alarms.jsonl", "a") as file:
            file.writelines(json.dumps(alarm) + "\n" for alarm in alarms)

    def last_alarm_step(self) -> int | None:
        """The step of the last alarm."""
        try:
            return json.loads((self.path / "alarms.jsonl").read_text().splitlines()[-1])["step"]
        except (OSError, ValueError, KeyError, IndexError):
            return None

    def best_model_hint(self) -> str:
        """Where the best model of the run is."""
        best = self.best()
        return (
            f"the last model is {self.model}" if best is None else f"the best is {self.best_model}, of step {best['step']}"
        )

    def load_newest(self, *, set_aside: bool = True) -> Checkpoint | None:
        """The newest checkpoint whose checksum is right, or None if none was ever written.

        Corrupt ones are logged and, unless told otherwise, set aside under another name. Raises CheckpointError if there
        are only damaged ones, or when the system refuses to read one.
        """
        found = self.list_checkpoints()
        for path in reversed(found):
            try:
                return read_checkpoint(path)
            except CorruptCheckpoint as error:
                logger.warning("%s; the one before it is used", error)
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
            found = migrate_log_line(json.loads(self.best_file.read_text()))
            return found if {"step", "score", "value"} <= set(found) else None
        except (OSError, ValueError, TypeError):
            return None

    def save_best(self, best: dict[str, Any], card: ModelCard, tensors: Tensors) -> None:
        """Keep this model as the best: a model folder, and best.json with its step, score and value."""
        save_model_dir(self.best_model, card, {"generator": tensors})
        with self.writing():
            write_file(self.best_file, json.dumps(best).encode())

    def save_model(self, card: ModelCard, parts: dict[str, Tensors]) -> None:
        """Write, or replace, the model folder; `parts` as `save_model_dir` takes them."""
        save_model_dir(self.model, card, parts)


def rollback_candidates(steps: list[int]) -> set[int]:
    """Of ascending steps those that a run may have to return to: down to half of the last, no two neighbours further apart
    than a fifth needs."""
    wanted = [steps[-1]]
    for older, step in reversed(list(itertools.pairwise([0, *steps[:-1]]))):
        if wanted[-1] > steps[-1] / 2 and older < wanted[-1] / 1.2:
            wanted.append(step)
    return set(wanted)


def read_run_logs(folder: Path) -> list[dict[str, Any]]:
    """The lines of every log of a run in today's names: its metrics, what the monitor measured, scores, errors of its
    classifier; in order of their steps. Logs of earlier versions count too."""
    names = [*LOGS, *(old for old in RUN_FILES if old.endswith(".jsonl"))]
    lines = [migrate_log_line(line) for name in names for line in read_log(folder / name)]
    return sorted(lines, key=lambda line: line["step"])


def checkpoint_step(checkpoint: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(checkpoint.name.rpartition("-")[2])
