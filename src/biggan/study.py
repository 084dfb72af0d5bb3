"""Studies: a table of runs, one row for each setting, several seeds, ending in means and standard deviations, plots and
sheets.

Each run is one `biggan train` command of its own, so that the list of commands may be given to a cluster as it is. Whether a
run is done is read from its folder alone. Which settings, and what the paper found, is in studies.
"""

import json
import math
import shlex
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from biggan.analysis.collapse import NOT_FINITE
from biggan.analysis.truncation import survival
from biggan.checkpoint import RunFolder
from biggan.config import RunConfig
from biggan.data import default_cache
from biggan.errors import ConfigError
from biggan.files import write_file
from biggan.footprint import footprint
from biggan.metrics.evaluate import higher_is_better
from biggan.metrics.features import open_extractor
from biggan.pretrained import from_pretrained
from biggan.settings import as_options, flatten, replaced
from biggan.starting import config_of
from biggan.stats import read_log
from biggan.studies import Finding, Row, Study


class Run(NamedTuple):
    """One training of a study."""

    row: Row
    seed: int
    config: RunConfig
    folder: RunFolder
    command: list[str]
    """Words of a `biggan` command."""


def runs_of(study: Study, base: RunConfig, preset: RunConfig, seeds: int, out: Path) -> list[Run]:
    """Every run of a study, seed by seed, so that a table of one seed is there first. `base` is the preset with the user's
    options. Raises ConfigError on settings that make no sense together, or where a start is missing."""
    if study.needs_start and base.init_from is None:
        raise ConfigError("this study starts from a checkpoint some time before collapse: add --init-from RUN@STEP")
    runs = []
    for seed in range(base.train.seed, base.train.seed + seeds):
        for row in study.rows(base):
            config = replaced(base, row.settings | {"train.seed": seed})
            config.check()
            name = "".join(c if c.isalnum() or c in ".-" else "_" for c in f"{row.name}-{seed}")
            folder = RunFolder(out / "runs" / name)
            command = ["train", config.preset, "--run", str(folder.path), *as_options(config, preset)]
            runs.append(Run(row, seed, config, folder, command))
    return runs


def written(command: Iterable[str]) -> str:
    """A command as a line for a shell."""
    return shlex.join(["biggan", *command])


def is_done(run: Run) -> bool:
    """Whether a run has come to its end: its last step, its time limit, an alarm that stops it, or divergence."""
    log, checkpoints = read_log(run.folder.stats_file), run.folder.list_checkpoints()
    if run.folder.alarmed_at() is not None and (run.config.watch.on_alarm == "stop" or diverged(run.folder)):
        return True
    train = run.config.train
    if not log or not checkpoints:
        return False
    saved = int(checkpoints[-1].name.rpartition("-")[2])
    over = train.minutes is not None and log[-1]["seconds"] >= 60 * train.minutes and saved == log[-1]["step"]
    return saved >= train.steps or over


def diverged(folder: RunFolder) -> bool:
    """Whether a run ended with values that were not finite."""
    alarms = alarms_of(folder)
    return bool(alarms) and alarms[-1]["rule"] == NOT_FINITE


def alarms_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The alarms of a run."""
    return read_log(folder.path / "alarms.jsonl")


def result_of(run: Run) -> dict[str, Any] | None:
    """What the table says of a run: steps to its first alarm or its end, scores at its best evaluation (of the first score
    of the recipe), as the paper scores the last checkpoint before collapse. None for a run that has no evaluation yet."""
    evaluations, log = read_log(run.folder.path / "evaluations.jsonl"), read_log(run.folder.stats_file)
    if not evaluations or not log:
        return None
    alarms = alarms_of(run.folder)
    survival = survival_file(run)
    more = json.loads(survival.read_text()) if survival.exists() else {}
    scores = [name for name in evaluations[0] if name not in ("step", "evaluation_seconds")]
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
        "minutes": log[-1]["seconds"] / 60,
    }


def survival_file(run: Run) -> Path:
    """Where it is kept whether the run's model is amenable to truncation."""
    return run.folder.path / "survival.json"


def measure_survival(run: Run, *, trust_extractor: bool = False) -> None:
    """Write that file for a run that is done, unless it is there. Raises UserError where the model or the extractor cannot
    be opened."""
    steps = read_log(run.folder.stats_file)[-1:]
    if not is_done(run) or not run.folder.model.exists():
        return
    if survival_file(run).exists() and json.loads(survival_file(run).read_text())["step"] == steps[0]["step"]:
        return
    config = run.config
    sampler = from_pretrained(run.folder.path, device=config.train.device)
    extractor = open_extractor(
        config.eval.extractor,
        weights=config.eval.extractor_weights,
        cache=(config.data.cache or default_cache()) / "metrics",
        device=sampler.precision.device,
        bf16=sampler.precision.bf16,
        trusted=trust_extractor,
    )
    found = survival(sampler, str(run.folder.path), extractor) | {"step": steps[0]["step"]}
    write_file(survival_file(run), json.dumps(found).encode())


def parameters_of(run: Run) -> float:
    """Millions of parameters of both networks, as the run was made."""
    need = footprint(config_of(run.folder.path))
    return (need.generator_parameters + need.discriminator_parameters) / 1e6


JUDGED = ("fid", "frechet_distance", "kid", "kernel_distance", "inception_score", "exp_kl_score", "accuracy", "survives")
WORDS = {1: "better", -1: "worse", 0: "no clear difference"}


class Cell(NamedTuple):
    """Mean and standard deviation (of a sample; NaN of one) over the seeds."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.4g}" if math.isnan(self.deviation) else f"{self.mean:.4g} ± {self.deviation:.2g}"


def cell(values: list[float]) -> Cell:
    """NaN where there is none."""
    if not values:
        return Cell(math.nan, math.nan)
    return Cell(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By row, in their order: seeds, collapsed, and a Cell for the steps and for every score."""
    rows: dict[str, dict[str, Any]] = {}
    scores = list(dict.fromkeys(score for result in results for score in result["scores"]))
    for name in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == name]
        values = {score: [result["scores"][score] for result in mine if score in result["scores"]] for score in scores}
        rows[name] = {
            "seeds": len(mine),
            "collapsed": sum(result["collapsed"] for result in mine),
            "steps": cell([result["steps"] for result in mine]),
            "scores": {score: cell(found) for score, found in values.items()},
        }
    return rows


def verdicts(study: Study, rows: dict[str, dict[str, Any]]) -> list[str]:
    """For each finding of the paper whether the sign of ours agrees, by each score, in words. A difference counts as one
    where it is larger than twice the standard error of the difference of means."""
    lines = []
    for finding in study.findings:
        if finding.before not in rows or finding.after not in rows:
            continue
        before, after = rows[finding.before], rows[finding.after]
        told = [told_by(score, finding, before, after) for score in before["scores"] if score in JUDGED]
        lines.append(f"{finding.change}: paper {WORDS[finding.better]}; here {'; '.join(told)}")
    return lines


def told_by(score: str, finding: Finding, before: dict[str, Any], after: dict[str, Any]) -> str:
    """What one score says of a finding, in words."""
    a, b = before["scores"][score], after["scores"][score]
    change = f"{score} {a.mean:.4g} to {b.mean:.4g}"
    if math.isnan(a.deviation + b.deviation):
        return f"{change}, one seed decides nothing"
    gain = (b.mean - a.mean) * (1 if higher_is_better(score) else -1)
    error = math.sqrt(sum(c.deviation**2 / row["seeds"] for c, row in ((a, before), (b, after))))
    ours = 0 if abs(gain) <= 2 * error else int(math.copysign(1, gain))
    verdict = "not decided" if ours == 0 else "agrees" if ours == finding.better else "does not agree"
    return f"{change} (standard error {error:.2g}), {WORDS[ours]}: {verdict}"


def columns(run: Run) -> dict[str, str]:
    """The settings of table 1, of a run; of another family than BigGAN's only those that it has."""
    known = flatten(run.config)
    ortho = known["regularization.generator.orthogonal"]
    found = {"batch": str(known["train.batch"]), "ch": str(known.get("model.width", "-"))}
    if "model.z_entry" not in known:
        return found
    shared, skips = known["model.class_embedding"] != "per-class", known["model.z_entry"] != "input"
    return found | {name: "yes" if on else "-" for name, on in (("shared", shared), ("skip-z", skips), ("ortho", ortho))}


def markdown(study: Study, runs: list[Run], results: list[dict[str, Any]]) -> str:
    """The table and the verdicts."""
    rows = summary(results)
    first = {run.row.name: run for run in reversed(runs) if run.folder.config_file.exists()}
    scores = list(next(iter(rows.values()))["scores"])
    heads = ["setting", *columns(runs[0]), "params M", "steps to collapse or end", "collapsed", *scores]
    lines = [f"# {study.title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [name, *columns(first[name]).values(), f"{parameters_of(first[name]):.2f}", str(row["steps"])]
        cells += [f"{row['collapsed']} of {row['seeds']}", *(str(row["scores"][score]) for score in scores)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {line}" for line in verdicts(study, rows))]
    return "\n".join(lines) + "\n"


def record(study: Study, runs: list[Run], results: list[dict[str, Any]]) -> str:
    """Everything behind the table, as JSON."""
    settings = {row.name: row.settings for row in (run.row for run in runs)}
    base = {name: value for name, value in flatten(runs[0].config).items() if not name.startswith("found")}
    return json.dumps({"title": study.title, "rows": settings, "first_run": base, "results": results}, indent=1, default=str)
