"""Test errors of semi-supervised runs, alone and over seeds: python recipes/few_labels_table.py RUN ..."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.json_io import to_json
from biggan.configs.overrides import replace_fields
from biggan.runtime.metric_logger import read_log


def main() -> None:
    """One line for each run, then one for those that differ in nothing but their seeds."""
    groups: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for path in map(Path, sys.argv[1:]):
        tests = read_log(path / "classifier_test.jsonl") or read_log(path / "tests.jsonl")  # as version 0.1 called it
        if not tests:
            continue
        config = RunDir(path).read_config()
        each = config.data.labels_per_class
        labels = "all" if each is None else str(each * len(config.dataset.class_names))
        last = tests[-1]
        step, wrong, percent = last["step"], int(last["test_wrong"]), last["test_error"]
        print(json.dumps({"run": path.name, "labels": labels, "step": step, "wrong": wrong, "percent": percent}))
        length = f"{step} of {config.train.steps} steps" if config.train.minutes is None else f"{config.train.minutes:g} min"
        kind = config.preset + ("" if config.objective.unsupervised_weight else ", labels alone")
        without_seeds = replace_fields(config, {"train.seed": 0, "data.label_seed": 0})
        groups[f"{kind}, {labels} labels, {length}", to_json(without_seeds)][str(path)] = wrong
    for (what, _), runs in sorted(groups.items()):
        wrong = list(runs.values())
        spread = f" ± {statistics.stdev(wrong):.1f}" if len(wrong) > 1 else ""
        names = ", ".join(Path(run).name for run in runs)
        print(f"{what}: {statistics.mean(wrong):.1f}{spread} test images wrong ({names})")


if __name__ == "__main__":
    main()
