"""The run directory. Config, checkpoints and model are written whole or not at all; a log loses at most its last line.

    RUN/config.json                    everything that decides the run
    RUN/stats.jsonl                    metrics, one line per logging interval
    RUN/monitor.jsonl                  singular values, norms, accuracies and diversity, one line per measurement
    RUN/evaluations.jsonl              scores
    RUN/classifier_test.jsonl          test errors of the averaged discriminator
    RUN/alarms.jsonl                   alarms of the collapse rules; never cut
    RUN/rollbacks.json                 how often the run rolled back, by cause
    RUN/rollback-1/                    the logs as they were before the first rollback
    RUN/samples/step-00001000.png      sample sheets
    RUN/profile/step-00000015.json.gz  a recording of some steps (train.profile), and a table of it (.txt)
    RUN/checkpoints/step-00001000/     tensors.safetensors, manifest.json (step, checksum, counters)
    RUN/best/                          the best model, with best.json (step, score, value)
    RUN/model/                         the newest model (checkpoints/model_dir)

Folders are written under another name, synced, then renamed. Only rank 0 writes.
"""

import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.checkpoints.run_lock import LOCK_NAME
from biggan.checkpoints.tensors import Checkpoint, CorruptCheckpoint, Tensors, checkpoint_files, read_checkpoint
from biggan.configs.json_io import from_json, to_json
from biggan.configs.migrations import RUN_FILES, migrate_log_line
from biggan.configs.run import RunConfig, differences
from biggan.runtime.atomic_io import SCRATCH, append_text, write_error_message, write_file, write_folder
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.errors import CheckpointError, reason_for, remedy_for
from biggan.runtime.json_text import read_json
from biggan.runtime.metric_logger import LOG_LIMIT, is_number, is_step, read_alarms, read_log

LOGS = ("stats.jsonl", "monitor.jsonl", "evaluations.jsonl", "classifier_test.jsonl")

CAUSES = ("diverged", "collapsed")
"""Of a rollback."""

MAX_ROLLBACKS = 100
"""More than any run has."""

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
        self.check_owned: Callable[[], None] = lambda: None
        """Raises CheckpointError where the folder has been removed or replaced since the run began (`run_lock`)."""

    def claim(self, config: RunConfig) -> None:
        """Take the folder for this run: write its config, or make sure that it already holds the same.

        A run that has no checkpoint yet may be given another config. Files of earlier versions are renamed. Raises
        CheckpointError where the folder holds another run (naming the fields that differ) or other files.
        """
        if self.config_file.exists() and self.list_checkpoints():
            different = differences(self.read_config(), config)
            if different:
                raise CheckpointError(
                    f"run folder {self.path} holds another run ({'; '.join(different)}): "
                    "give the same options to resume that one, or another --run for this one"
                )
        self.check_free()
        refuse_links(self.path, "samples", "checkpoints", "model", "best")
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for old, new in RUN_FILES.items():  # of earlier versions
                if (self.path / old).exists() and not (self.path / new).exists():
                    (self.path / old).rename(self.path / new)
            write_file(self.config_file, to_json(config).encode())
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)

    def check_free(self) -> None:
        """Raises CheckpointError where the path holds anything but a run, or a folder in which one was about to begin."""
        ours = {"config.json", LOCK_NAME, "samples", "checkpoints"}
        try:
            if not self.path.exists() or self.config_file.exists():
                return
            names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {"a file"}
            is_free = all(name in ours or name.endswith(".writing") or name.startswith(SCRATCH) for name in names)
        except OSError as error:
            raise CheckpointError(
                f"run folder {self.path} cannot be read ({reason_for(error)}): {remedy_for(error)}"
            ) from error
        if not is_free:
            raise CheckpointError(f"run folder {self.path} exists and holds no run: give another --run")

    def read_config(self) -> RunConfig:
        """The config that the run was started with. Raises CheckpointError where there is none, ConfigError on one that
        cannot be understood."""
        try:
            text = read_file(self.config_file, SMALL_FILE)
        except OSError as error:
            raise CheckpointError(f"{self.path} holds no run ({reason_for(error)}): name a run folder") from error
        return from_json(text, RunConfig, self.config_file)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around small writes below the folder: an OSError becomes a CheckpointError that says what to do."""
        self.check_owned()
        try:
            yield
        except OSError as error:
            raise CheckpointError(write_error_message("the run", self.path, error)) from error

    def list_checkpoints(self) -> list[Path]:
        """Complete checkpoint folders, oldest first; not verified."""
        named = [path for path in self.checkpoints.glob("step-*") if re.fullmatch("step-[0-9]{1,15}", path.name)]
        return sorted((path for path in named if (path / "manifest.json").exists()), key=checkpoint_step)

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any], *, keep: int, keep_history: bool = False) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best; `keep_history`: and a few that reach back
        to half of the steps. Raises CheckpointError when the disk does not take it; the checkpoints already there stay."""
        target = self.checkpoints / f"step-{step:08d}"
        self.check_owned()
        try:
            write_folder(target, checkpoint_files(step, tensors, counters))
        except OSError as error:
            message = write_error_message(f"the checkpoint of step {step}", target, error)
            raise CheckpointError(f"{message}: {self.resume_hint()}") from error
        best, checkpoints = self.best(), self.list_checkpoints()
        steps = [checkpoint_step(path) for path in checkpoints]
        needed = set(steps[-keep:]) | ({best["step"]} if best else set())
        needed |= rollback_candidates(steps) if keep_history else set()
        for checkpoint, number in zip(checkpoints, steps, strict=True):
            if number not in needed:
                try:
                    remove_folder(checkpoint)
                except OSError as error:  # the new one is safe: the run goes on
                    logger.warning("%s could not be removed (%s)", checkpoint, reason_for(error))
        return target

    def resume_hint(self) -> str:
        """What the same command does when it is given again, as the folder is now."""
        checkpoints = self.list_checkpoints()
        if not checkpoints:
            return "no checkpoint is there, so it starts anew"
        return f"it resumes from step {checkpoint_step(checkpoints[-1])}"

    def save_rollbacks(self, rollbacks: dict[str, int]) -> None:
        """Write how often the run has rolled back, by cause, before it does: a kill in between is then counted too."""
        with self.writing():
            write_file(self.path / "rollbacks.json", json.dumps(rollbacks).encode())

    def load_rollbacks(self) -> dict[str, int]:
        """How often the run has rolled back, by cause. Raises CheckpointError where the file cannot be read."""
        file = self.path / "rollbacks.json"
        try:
            rollbacks = read_json(file) if file.exists() else {}
            if not all(name in CAUSES and is_step(count) and count <= MAX_ROLLBACKS for name, count in rollbacks.items()):
                raise ValueError("it must hold the numbers of rollbacks: diverged, collapsed")
            return rollbacks
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({reason_for(error)}): remove it to forget the rollbacks"
            ) from error

    def roll_back_to(self, checkpoint: Path, rollbacks: dict[str, int]) -> None:
        """Make this checkpoint the newest: later ones are removed. The logs as they were are copied to the folder
        rollback-N."""
        self.save_rollbacks(rollbacks)
        with self.writing():
            kept = self.path / f"rollback-{sum(rollbacks.values())}"
            refuse_links(self.path, kept.name)
            kept.mkdir(exist_ok=True)
            for file in self.path.glob("*.jsonl"):
                if not file.is_symlink():
                    write_file(kept / file.name, read_file(file, LOG_LIMIT))
            for later in self.list_checkpoints():
                if checkpoint_step(later) > checkpoint_step(checkpoint):
                    remove_folder(later)
            best = self.best()
            if best is not None:  # a model trained from here replaces it only where it scores better
                write_file(self.best_file, json.dumps(best | {"before_rollback": True}).encode())

    def append_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Add lines to alarms.jsonl, which is never cut."""
        with self.writing():
            append_text(self.path / "alarms.jsonl", "".join(json.dumps(alarm) + "\n" for alarm in alarms))

    def last_alarm_step(self) -> int | None:
        """The step of the last alarm, None where there was none."""
        alarms = read_alarms(self.path / "alarms.jsonl")
        return alarms[-1]["step"] if alarms else None

    def best_model_hint(self) -> str:
        """A sentence that says where the best model of the run is."""
        best = self.best()
        return (
            f"the last model is {self.model}" if best is None else f"the best is {self.best_model}, of step {best['step']}"
        )

    def load_newest(self, *, set_aside: bool = True) -> Checkpoint | None:
        """The newest checkpoint whose checksum is right, or None if none was ever written.

        Corrupt ones are logged and, unless told otherwise, set aside under another name. Raises CheckpointError if there
        are only corrupt ones, or when the system refuses to read one.
        """
        checkpoints = self.list_checkpoints()
        for path in reversed(checkpoints):
            try:
                return read_checkpoint(path)
            except CorruptCheckpoint as error:
                logger.warning("%s; the one before it is used", error)
                if set_aside and path != checkpoints[0]:
                    with self.writing():
                        aside = path.with_name(f"damaged-{path.name}")
                        shutil.rmtree(aside, ignore_errors=True)
                        path.rename(aside)
        if checkpoints:
            raise CheckpointError(f"every checkpoint in {self.checkpoints} is damaged: give another --run to start anew")
        return None

    def best(self) -> dict[str, Any] | None:
        """The step, score and value of the best model, None where there is none."""
        try:
            best = migrate_log_line(read_json(self.best_file))
        except (OSError, ValueError):
            return None
        is_sound = is_step(best.get("step")) and isinstance(best.get("score"), str) and is_number(best.get("value"))
        return best if is_sound else None

    def save_best(self, best: dict[str, Any], card: ModelCard, tensors: Tensors) -> None:
        """Keep this model as the best: a model folder, and best.json with its step, score and value."""
        save_model_dir(self.best_model, card, {"generator": tensors})
        with self.writing():
            write_file(self.best_file, json.dumps(best).encode())

    def save_model(self, card: ModelCard, networks: dict[str, Tensors]) -> None:
        """Write, or replace, RUN/model; `networks` as `save_model_dir` takes them."""
        self.check_owned()
        save_model_dir(self.model, card, networks)


def refuse_links(folder: Path, *names: str) -> None:
    """Raises CheckpointError where one of these folders in a run's folder is a link: nothing is written through links, which
    in a run of somebody else may lead anywhere."""
    for name in names:
        if (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name} is a link, through which nothing is written: put a folder in its place")


def remove_folder(path: Path) -> None:
    """Remove a folder, or a link to one, which stays. Raises OSError."""
    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def rollback_candidates(steps: list[int]) -> set[int]:
    """Of ascending checkpoint steps those that a run may have to roll back to: from the last down to half of it, each about
    1.2 times the one before."""
    candidates = [steps[-1]]
    for older, step in reversed(list(itertools.pairwise([0, *steps[:-1]]))):
        if candidates[-1] > steps[-1] / 2 and older < candidates[-1] / 1.2:
            candidates.append(step)
    return set(candidates)


def read_run_logs(folder: Path) -> list[dict[str, Any]]:
    """The lines of every log of a run in today's names: its metrics, what the monitor measured, scores, errors of its
    classifier; in order of their steps. Logs of earlier versions count too."""
    names = [*LOGS, *(old for old in RUN_FILES if old.endswith(".jsonl"))]
    lines = [migrate_log_line(line) for name in names for line in read_log(folder / name)]
    return sorted(lines, key=lambda line: line["step"])


def checkpoint_step(checkpoint: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(checkpoint.name.rpartition("-")[2])
