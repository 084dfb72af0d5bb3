"""Studies: a table of runs, one row for each setting, several seeds, ending in means and standard deviations, plots and
sheets.

Each run is one `biggan train` command of its own, so that the list of commands may be given to a cluster as it is. Whether a
run is done is read from its folder alone. Which settings there are, and what the paper found,
is in studies/definitions.
"""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from biggan.analysis.collapse_rules import NOT_FINITE
from biggan.analysis.truncation import measure_truncation_amenability
from biggan.checkpoints.init_from import read_run_config
from biggan.checkpoints.run_dir import RunDir, checkpoint_step
from biggan.configs.overrides import replace_fields, to_command_line
from biggan.configs.run import RunConfig
from biggan.metrics.evaluate import higher_is_better
from biggan.metrics.features import open_extractor
from biggan.models.registry import FAMILIES
from biggan.pretrained import from_pretrained
from biggan.runtime.atomic_io import metrics_cache, write_file
from biggan.runtime.errors import ConfigError
from biggan.runtime.json_text import read_json
from biggan.runtime.metric_logger import is_finite, is_number, is_step, read_alarms, read_log
from biggan.runtime.precision import Numerics, apply_numerics
from biggan.studies.definitions import Row, Study
from biggan.training.flops import count_parameters


class Run(NamedTuple):
    """One training of a study."""

    row: Row
    seed: int
    config: RunConfig
    folder: RunDir
    command: list[str]
    """Words of a `biggan` command."""


def list_runs(study: Study, base: RunConfig, preset: RunConfig, seeds: int, out: Path) -> list[Run]:
    """Every run of a study, seed by seed, so that a table of one seed is there first. `base` is the preset with the user's
    options. Raises ConfigError on settings that make no sense together, or where a start is missing."""
    if study.needs_start and base.init_from is None:
        raise ConfigError("this study starts from a checkpoint some time before collapse: add --init-from RUN@STEP")
    runs = []
    for seed in range(base.train.seed, base.train.seed + seeds):
        for row in study.rows(base):
            config = replace_fields(base, row.settings | {"train.seed": seed})
            config.check()
            name = "".join(c if c.isalnum() or c in ".-" else "_" for c in f"{row.name}-{seed}")
            folder = RunDir(out / "runs" / name)
            command = ["train", config.preset, "--run", str(folder.path), *to_command_line(config, preset)]
            runs.append(Run(row, seed, config, folder, command))
    return runs


def written(command: Iterable[str]) -> str:
    """A command as a line for a shell."""
    return shlex.join(["biggan", *command])


def is_done(run: Run) -> bool:
    """Whether a run has come to its end: its last step, its time limit, an alarm that stops it, or divergence."""
    log, checkpoints = read_log(run.folder.stats_file), run.folder.list_checkpoints()
    if run.folder.last_alarm_step() is not None and (run.config.monitor.on_alarm == "stop" or diverged(run.folder)):
        return True
    train = run.config.train
    if not log or not checkpoints:
        return False
    saved = checkpoint_step(checkpoints[-1])
    seconds = log[-1].get("seconds", 0.0)
    over = train.minutes is not None and seconds >= 60 * train.minutes and saved == log[-1]["step"]
    return saved >= train.steps or over


def diverged(folder: RunDir) -> bool:
    """Whether a run ended with values that were not finite."""
    alarms = read_alarms(folder.path / "alarms.jsonl")
    return bool(alarms) and alarms[-1]["rule"] == NOT_FINITE


def read_result(run: Run) -> dict[str, Any] | None:
    """What the table says of a run: steps to its first alarm or its end, scores at its best evaluation (of the first score
    of the recipe), as the paper scores the last checkpoint before collapse. None for a run that has no evaluation yet."""
    evaluations, log = read_log(run.folder.path / "evaluations.jsonl"), read_log(run.folder.stats_file)
    evaluations = [line for line in evaluations if all(map(is_finite, line.values()))]  # earlier versions wrote others too
    if not evaluations or not log:
        return None
    alarms, more = read_alarms(run.folder.path / "alarms.jsonl"), read_survival(run)
    scores = [name for name in evaluations[0] if name not in ("step", "evaluation_seconds")]
    evaluations = [line for line in evaluations if scores and set(scores) <= set(line)]
    if not evaluations:
        return None
    sign = 1 if higher_is_better(scores[0]) else -1
    best = max(evaluations, key=lambda line: sign * line[scores[0]])
    steps = alarms[0]["step"] if alarms else log[-1]["step"]
    return {
        "row": run.row.name,
        "seed": run.seed,
        "steps": steps,
        "collapsed": bool(alarms),
        "alarm": alarms[0]["rule"] if alarms else None,
        "best_step": best["step"],
        "scores": {name: best[name] for name in scores} | {name: more[name] for name in more if name != "step"},
        "last": {name: evaluations[-1][name] for name in scores},
        "minutes": log[-1].get("seconds", 0.0) / 60,
    }


def survival_file(run: Run) -> Path:
    """The file that says whether the run's model is amenable to truncation."""
    return run.folder.path / "survival.json"


def read_survival(run: Run) -> dict[str, Any]:
    """What that file says; nothing where it is missing or damaged, since it can be measured again."""
    try:
        found = read_json(survival_file(run))
    except (OSError, ValueError):
        return {}
    return found if is_step(found.get("step")) and all(map(is_number, found.values())) else {}


def measure_survival(run: Run, *, trust_extractor: bool = False) -> None:
    """Write survival.json for a run that is done, unless it is there. Raises UserError where the model or the extractor
    cannot be opened."""
    steps = read_log(run.folder.stats_file)[-1:]
    if not is_done(run) or not run.folder.model.exists():
        return
    if steps and read_survival(run).get("step") == steps[0]["step"]:
        return
    config = run.config
    apply_numerics(Numerics())
    sampler = from_pretrained(run.folder.path, device=config.train.device)
    extractor = open_extractor(
        config.eval.extractor,
        weights=config.eval.extractor_weights,
        cache=metrics_cache(config.data.cache),
        device=sampler.precision.device,
        bf16=sampler.precision.bf16,
        trusted=trust_extractor,
    )
    found = measure_truncation_amenability(sampler, str(run.folder.path), extractor) | {"step": steps[0]["step"]}
    write_file(survival_file(run), json.dumps(found).encode())


def millions_of_parameters(run: Run) -> float:
    """Parameters of both networks in millions, as the run was made."""
    model = read_run_config(run.folder.path).model
    family = FAMILIES[model.family]
    with torch.device("meta"):
        return sum(count_parameters(build(model)) for build in (family.generator, family.discriminator)) / 1e6
