"""The table of a study as Markdown: what comes from outside is no markup in it."""

import json

from conftest import tiny_config

from biggan.checkpoints.run_dir import RunDir
from biggan.studies import table
from biggan.studies.definitions import STUDIES, Row
from biggan.studies.runner import Run, read_result

HOSTILE = "a|b <img src=x>\n# [c](d) `e`\x1b[31m"


def test_names_are_no_markup(tmp_path, monkeypatch):
    folder = RunDir(tmp_path)
    folder.config_file.write_text("{}")
    monkeypatch.setattr(table, "millions_of_parameters", lambda run: 1.5)
    run = Run(Row(HOSTILE, {}), 0, tiny_config(), folder, [])
    result = {"row": HOSTILE, "seed": 0, "steps": 3, "collapsed": False, "scores": {"inception_score": 1.5, HOSTILE: 2.0}}
    text = table.markdown(STUDIES["r1"], [run], [result])
    head, _, row = (line for line in text.splitlines() if line.startswith("|"))
    escaped = "a\\|b &lt;img src=x&gt;\\\\n\\# \\[c\\](d) \\`e\\`\\\\x1b\\[31m"
    assert row.startswith(f"| {escaped} | ")
    assert head.endswith(f" | inception_score | {escaped} |")
    assert "<img" not in text


def test_scores_of_earlier_versions_that_are_not_finite_do_not_count(tmp_path):
    folder = RunDir(tmp_path)
    lines = [
        {"step": 1, "fid": 9.0},
        {"step": 2, "fid": float("nan")},
        {"step": 3, "fid": float("-inf")},
        {"step": 4, "fid": "x"},
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.stats_file.write_text(json.dumps({"step": 4, "seconds": 60}) + "\n")
    result = read_result(Run(Row("a", {}), 0, tiny_config(), folder, []))
    assert (result["scores"], result["best_step"]) == ({"fid": 9.0}, 1)
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(lines[1]) + "\n")
    assert read_result(Run(Row("a", {}), 0, tiny_config(), folder, [])) is None
