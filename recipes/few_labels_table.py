"""Test errors of semi-supervised runs, by their number of labels: python recipes/few_labels_table.py RUN ..."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from biggan.checkpoint import RunFolder
from biggan.config import RunConfig, from_json
from biggan.stats import read_log


def main() -> None:
    """One line for each run, then one for each number of labels."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for path in map(Path, sys.argv[1:]):
        tests = read_log(path / "tests.jsonl")
        if not tests:
            continue
        file = RunFolder(path).config_file
        config = from_json(file.read_text(), RunConfig, file)
        labels = config.data.labels_per_class * len(config.found.class_names)
        last = tests[-1]
        done, wrong = last["step"] == config.train.steps, int(last["test_wrong"])
        print(json.dumps({"run": path.name, "labels": labels, "step": last["step"], "wrong": wrong, "whole": done}))
        if done:
            groups[config.preset, labels].append(wrong)
    for (preset, labels), wrong in sorted(groups.items()):
        spread = f" ± {statistics.stdev(wrong):.1f}" if len(wrong) > 1 else ""
        print(
            f"{preset}, {labels} labels: {statistics.mean(wrong):.1f}{spread} test images wrong, {len(wrong)} whole run(s)"
        )


if __name__ == "__main__":
    main()
