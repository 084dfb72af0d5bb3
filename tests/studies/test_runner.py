"""Studies and the analysis of a run, as commands on tiny runs; the arithmetic of tables on made-up results."""

import json
import math
import shlex
import subprocess
from types import SimpleNamespace

import pytest
from conftest import call

from biggan.analysis.run_plots import WEIGHT_QUANTITIES
from biggan.cli.main import main
from biggan.cli.study import for_a_study
from biggan.configs.overrides import replace_fields, to_command_line
from biggan.configs.presets import preset
from biggan.studies.definitions import STUDIES
from biggan.studies.runner import list_runs
from biggan.studies.table import cell, findings_agreement, summary

TINY = ["--train.batch", 8, "--train.standing-stats-batches", 2, "--model.width", 2, "--model.embedding-dim", 8]
TINY += ["--train.device", "cpu", "--train.precision", "fp32", "--model.discriminator.width", 2]


@pytest.fixture
def in_process(monkeypatch):
    """Runs of a study in this process, which saves their start; the commands are noted."""
    commands = []

    def run(words, stdout, stderr):
        commands.append(words[3:])
        with pytest.raises(SystemExit) as exit_:
            main(words[3:])
        return SimpleNamespace(returncode=exit_.value.code or 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def study(capsys, out, small, *more):
    words = ["study", "truncatable", "--preset", "digits", "--steps", 2, "--seeds", 2, "--out", out, *TINY]
    words += [
        "--eval.every",
        1,
        "--eval.max_time_fraction",
        100,
        "--eval.extractor",
        f"module:{small}",
        "--eval.recipe",
        "fid20,is20",
    ]
    return call(capsys, *words, "--eval.reference-images", 60, *more)


def test_a_study_from_beginning_to_end(capsys, small, tmp_path, in_process):
    code, out, err = study(capsys, tmp_path, small)
    assert code == 0, err
    assert [words[words.index("--run") + 1].rsplit("/")[-1] for words in in_process] == [
        "without-0",
        "with-0",
        "without-1",
        "with-1",
    ]
    table = (tmp_path / "table.md").read_text()
    assert table in out
    rows = [line for line in table.splitlines() if line.startswith("| with")]
    assert [row.split("|")[8].strip() for row in rows] == ["2 ± 0", "2 ± 0"]
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [(result["row"], result["seed"]) for result in results] == [
        ("without", 0),
        ("without", 1),
        ("with", 0),
        ("with", 1),
    ]
    last = [json.loads(line) for line in (tmp_path / "runs/with-1/evaluations.jsonl").read_text().splitlines()]
    assert results[-1]["scores"]["frechet_distance"] == min(line["frechet_distance"] for line in last)
    assert results[-1]["scores"]["survives"] in (0.0, 1.0)
    assert {"scores.png", "samples.png", "commands.txt"} <= {path.name for path in tmp_path.iterdir()}
    assert study(capsys, tmp_path, small)[0] == 0
    assert len(in_process) == 4, "what is done is not done again"
    commands = [shlex.split(line)[1:] for line in (tmp_path / "commands.txt").read_text().splitlines()]
    assert commands == [list(map(str, words)) for words in in_process], "the list says what was run"


def test_parts_and_lists(capsys, small, tmp_path, in_process):
    code, out, _ = study(capsys, tmp_path, small, "--list")
    assert (code, out, in_process) == (0, "no run is done yet\n", [])
    study(capsys, tmp_path, small, "--list", "--trust-extractor")
    lines = (tmp_path / "commands.txt").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.endswith(" --trust-extractor") for line in lines)
    assert study(capsys, tmp_path, small, "--part", "2/4", "--train.steps", 1)[0] == 0
    assert [words[words.index("--run") + 1].rsplit("/")[-1] for words in in_process] == ["with-0"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_one_of_runs_that_make_sense(name, tmp_path):
    plain = preset(STUDIES[name].preset)
    base = replace_fields(plain, {"init_from": "run@100", "data.source": "zip:a.zip"})
    runs = list_runs(STUDIES[name], base, plain, 2, tmp_path)
    assert len({run.folder.path for run in runs}) == len(runs) == 2 * len(STUDIES[name].rows(base))
    names = {run.row.name for run in runs}
    for finding in STUDIES[name].findings:
        assert {finding.before, finding.after} <= names


def test_table_1_is_the_papers(tmp_path):
    """From its batch of 256 and width of 64 come the rows of BigGAN's Table 1, and their parameters."""
    base = replace_fields(
        preset("sagan-128"), {"model.num_classes": 1000, "model.width": 64, "model.class_embedding": "shared"}
    )
    base = replace_fields(base, {"model": replace_fields(preset("biggan-128").model, {"num_classes": 1000, "width": 64})})
    runs = list_runs(STUDIES["table1"], base, base, 1, tmp_path)
    from biggan.training.flops import footprint

    wanted = [(256, 64, 81.47), (512, 64, 81.47), (1024, 64, 81.47), (2048, 64, 81.47), (2048, 96, 173.54)]
    wanted += [(2048, 96, 160.77), (2048, 96, 158.42), (2048, 96, 158.42), (2048, 64, 71.43)]
    for run, (batch, width, parameters) in zip(runs, wanted, strict=True):
        assert (run.config.train.batch, run.config.model.width) == (batch, width)
        if run.row.name in ("batch x8", "width x1, all"):
            need = footprint(replace_fields(run.config, {"train.batch": 1}))
            assert (need.generator_parameters + need.discriminator_parameters) / 1e6 == pytest.approx(parameters, abs=0.006)


def test_each_row_of_improved_leaves_out_what_it_says(tmp_path):
    """Of Salimans et al. 2016, table 3: everything, and what each row has instead."""
    base = preset(STUDIES["improved"].preset)
    rows = {row.name: row.settings for row in STUDIES["improved"].rows(base)}
    whole = replace_fields(base, rows["all"])
    assert (whole.objective.real_target, whole.objective.feature_matching) == (0.9, None)
    assert (whole.model.generator.norm, whole.model.discriminator.minibatch_kernels) == ("virtual", 100)
    assert (whole.objective.loss, whole.data.labels_per_class) == ("semi-supervised", None)
    without_labels = {"objective.loss": "non-saturating", "train.discriminator_ema_decay": None}
    averaging = {f"regularization.{player}.historical_averaging": 0.01 for player in ("generator", "discriminator")}
    instead = {
        "batch norm": {"model.generator.norm": "batch"},
        "no smoothing": {"objective.real_target": 1.0},
        "no minibatch features": {"model.discriminator.minibatch_kernels": None},
        "no labels": without_labels,
        "averaging, no labels": without_labels | averaging,
    }
    assert set(rows) == {"all", *instead}
    for name, settings in instead.items():
        assert replace_fields(base, rows[name]) == replace_fields(whole, settings), name


def test_rates_fall_at_the_same_share_of_the_steps_unless_one_says_when():
    base = preset("improved-cifar10")
    assert for_a_study(base, base, 600).train.lr_decay_start == 400
    given = replace_fields(base, {"train.lr_decay_start": 500})
    assert for_a_study(given, base, 600).train.lr_decay_start == 500


def test_options_of_a_config_give_it_back(capsys, monkeypatch):
    base = preset("cifar10")
    changes = {"train.batch": 64, "data.flip": False, "regularization.generator.orthogonal": None, "model.width": 8}
    changes |= {"augment.policy": ("color", "cutout"), "regularization.discriminator.sigma_clamp": True}
    config = replace_fields(base, changes | {"regularization.discriminator.sigma_bound": 2.0})
    code, out, err = call(capsys, "train", "cifar10", *to_command_line(config, base), "--dry-run")
    assert code == 0, err
    made = json.loads(out[: out.rindex("\n}\n") + 3])
    assert (made["train"]["batch"], made["data"]["flip"], made["augment"]["policy"]) == (64, False, ["color", "cutout"])
    assert made["regularization"]["generator"]["orthogonal"] is None
    assert made["regularization"]["discriminator"]["sigma_clamp"] is True


def test_means_and_agreement():
    def result(row, seed, distance):
        return {"row": row, "seed": seed, "steps": 10, "collapsed": False, "scores": {"frechet_distance": distance}}

    rows = summary(
        [result("batch x1", 0, 10.0), result("batch x1", 1, 12.0), result("batch x2", 0, 5.0), result("batch x2", 1, 6.0)]
    )
    assert rows["batch x1"]["scores"]["frechet_distance"] == cell([10.0, 12.0])
    assert str(cell([10.0, 12.0])) == "11 ± 1.4"
    assert math.isnan(cell([1.0]).deviation)
    (line,) = findings_agreement(STUDIES["table1"], rows)
    error = math.sqrt((2.0 + 0.5) / 2)
    assert line == (f"batch x2: paper better; here frechet_distance 11 to 5.5 (standard error {error:.2g}), better: agrees")
    rows["batch x2"], rows["batch x1"] = rows["batch x1"], rows["batch x2"]
    assert findings_agreement(STUDIES["table1"], rows)[0].endswith("worse: does not agree")


def test_bad_input(capsys, small, tmp_path):
    for words, message in (
        (["study", "tabel1"], "did you mean 'table1'"),
        (["study", "table1"], "needs images"),
        (["study", "table1", "--data", "embedded:digits", "--eval.every", 1, "--part", "3/2"], "give K/N"),
        (["study", "collapse", "--data", "embedded:digits", "--eval.every", 1], "add --init-from RUN@STEP"),
        (["study", "r1", "--preset", "cifra10"], "did you mean 'cifar10'"),
        (["analyze", tmp_path], "holds no log"),
    ):
        code, _, err = call(capsys, *words)
        assert (code, message in err, len(err.splitlines())) == (2, True, 1), err


def test_analyzing_a_run_and_an_old_log(capsys, tmp_path):
    words = [
        "train",
        "digits",
        "--run",
        tmp_path / "run",
        "--train.steps",
        3,
        *TINY,
        "--monitor.every",
        1,
        "--monitor.max_time_fraction",
        100,
    ]
    assert call(capsys, *words)[0] == 0
    code, out, err = call(capsys, "analyze", tmp_path / "run")
    assert code == 0, err
    assert out.startswith("no alarm in 3 steps\n")
    plots = [tmp_path / "run" / "analysis" / f"{name}.png" for name in ("run", *WEIGHT_QUANTITIES)]
    assert out.splitlines()[1:] == [f"plot {plot}" for plot in plots]
    assert all(plot.stat().st_size > 10_000 for plot in plots)
    old = tmp_path / "old"
    old.mkdir()
    lines = [
        {"step": s, "D/loss_real": 0.8 if s < 3000 else 0.9, "D/acc_real": 0.8 if s < 3000 else 0.1}
        for s in range(0, 4001, 50)
    ]
    (old / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = call(capsys, "analyze", old)
    assert code == 0
    assert "alarm at step 3100: D turns against real images (classified as real: 80% at step 2300, 10% now)" in out
