"""The table of a study: means and standard deviations over seeds, and whether they agree with the paper's findings."""

import json
import math
import statistics
from typing import Any, NamedTuple

from biggan.configs.overrides import flatten
from biggan.metrics.evaluate import SCORE_NAMES, higher_is_better
from biggan.runtime.text import markdown_name, printable
from biggan.studies.definitions import Finding, Study
from biggan.studies.runner import Run, millions_of_parameters

COMPARED_SCORES = (*SCORE_NAMES, "survives")

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


def findings_agreement(study: Study, rows: dict[str, dict[str, Any]]) -> list[str]:
    """For each finding of the paper whether the sign of ours agrees, by each score, in words. A difference counts as one
    where it is larger than twice the standard error of the difference of means."""
    lines = []
    for finding in study.findings:
        if finding.before not in rows or finding.after not in rows:
            continue
        before, after = rows[finding.before], rows[finding.after]
        told = [describe_agreement(score, finding, before, after) for score in before["scores"] if score in COMPARED_SCORES]
        lines.append(f"{finding.change}: paper {WORDS[finding.better]}; here {'; '.join(told)}")
    return lines


def describe_agreement(score: str, finding: Finding, before: dict[str, Any], after: dict[str, Any]) -> str:
    """What one score says of a finding, in words."""
    a, b = before["scores"][score], after["scores"][score]
    change = f"{score} {a.mean:.4g} to {b.mean:.4g}"
    if math.isnan(a.deviation + b.deviation):
        return f"{change}, one seed decides nothing"
    gain = (b.mean - a.mean) * (1 if higher_is_better(score) else -1)
    error = math.sqrt(sum(c.deviation**2 / row["seeds"] for c, row in ((a, before), (b, after))))
    ours = 0 if abs(gain) <= 2 * error else int(math.copysign(1, gain))
    agreement = "not decided" if ours == 0 else "agrees" if ours == finding.better else "does not agree"
    return f"{change} (standard error {error:.2g}), {WORDS[ours]}: {agreement}"


def columns(run: Run) -> dict[str, str]:
    """The settings of table 1, of a run; of another family than BigGAN's only those that it has."""
    known = flatten(run.config)
    ortho = known["regularization.generator.orthogonal"]
    found = {"batch": str(known["train.batch"]), "ch": str(known.get("model.width", "-"))}
    if "model.latent_injection" not in known:
        return found
    shared, skips = known["model.class_embedding"] != "per-class", known["model.latent_injection"] != "input"
    return found | {name: "yes" if on else "-" for name, on in (("shared", shared), ("skip-z", skips), ("ortho", ortho))}


def markdown(study: Study, runs: list[Run], results: list[dict[str, Any]]) -> str:
    """The table, and whether it agrees with the findings, in Markdown."""
    rows = summary(results)
    first = {run.row.name: run for run in reversed(runs) if run.folder.config_file.exists()}
    scores = list(next(iter(rows.values()))["scores"])
    heads = ["setting", *columns(runs[0]), "params M", "steps to collapse or end", "collapsed", *scores]
    heads = [markdown_name(head) for head in heads]
    lines = [f"# {study.title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [
            markdown_name(name),
            *map(markdown_name, columns(first[name]).values()),
            f"{millions_of_parameters(first[name]):.2f}",
            str(row["steps"]),
        ]
        cells += [f"{row['collapsed']} of {row['seeds']}", *(str(row["scores"][score]) for score in scores)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {printable(line)}" for line in findings_agreement(study, rows))]
    return "\n".join(lines) + "\n"


def record(study: Study, runs: list[Run], results: list[dict[str, Any]]) -> str:
    """Everything behind the table, as JSON."""
    settings = {row.name: row.settings for row in (run.row for run in runs)}
    base = {name: value for name, value in flatten(runs[0].config).items() if not name.startswith("dataset")}
    return json.dumps({"title": study.title, "rows": settings, "first_run": base, "results": results}, indent=1, default=str)
