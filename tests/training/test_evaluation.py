"""Evaluation while training: logged, the best kept, the steps untouched, the time bounded."""

import json
import os
import signal

import pytest
import torch
from conftest import call

import biggan
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint
from biggan.metrics.features import Extractor
from biggan.training.evaluation import Evaluator
from biggan.training.signals import StoppedEarly, StopRequest, stop_signals, until_stopped


def train(capsys, folder, small, *more):
    words = ["train", "digits", "--run", folder, "--train.steps", 6, "--train.batch", 8, "--train.standing-stats-batches", 2]
    words += ["--model.width", 2, "--model.embedding-dim", 8, "--train.device", "cpu", "--train.precision", "fp32"]
    words += ["--train.keep-checkpoints", 1, "--eval.extractor", f"module:{small}", "--eval.reference-images", 60]
    return call(capsys, *words, *more)


def test_the_best_is_kept_and_the_steps_are_what_they_were(capsys, small, tmp_path, monkeypatch):
    values = iter([5.0, 3.0, 4.0, 2.0, 9.0, 8.0])
    original = Evaluator.keep_if_best
    monkeypatch.setattr(Evaluator, "keep_if_best", lambda self, s, c, name, value: original(self, s, c, name, next(values)))
    recipe = ["--eval.every", 1, "--eval.recipe", "fid20,is20", "--eval.max_time_fraction", 1000]
    code, _, err = train(capsys, tmp_path / "run", small, *recipe)
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert list(lines[0]) == ["step", "frechet_distance", "exp_kl_score", "evaluation_seconds"]
    assert [line.split()[1] for line in err.splitlines() if line.endswith("the best so far")] == ["1:", "2:", "4:"]
    folder = RunDir(tmp_path / "run")
    best = folder.best()
    assert (best["step"], best["score"], best["value"]) == (4, "frechet_distance", 2.0)
    assert [path.name for path in folder.list_checkpoints()] == ["step-00000004", "step-00000006"]
    assert biggan.from_pretrained(tmp_path / "run" / "best", device="cpu").sample(2).images.shape == (2, 3, 32, 32)
    assert train(capsys, tmp_path / "plain", small)[0] == 0
    one, other = (read_checkpoint(RunDir(tmp_path / run).list_checkpoints()[-1]).tensors for run in ("run", "plain"))
    same = [name for name in one if "standing" not in name]
    assert all(torch.equal(one[name], other[name]) for name in same)


def test_evaluations_wait_until_they_are_worth_their_time(capsys, small, tmp_path):
    words = ["--eval.every", 1, "--eval.recipe", "fid20", "--eval.max_time_fraction", 1e-9]
    assert train(capsys, tmp_path / "run", small, *words)[0] == 0
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 6], "the first and the last are free, then there is no time"
    assert train(capsys, tmp_path / "run", small, *words, "--train.steps", 8)[0] == 0
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 6, 8], "nor after another start"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("every", "saved"), [(1, 2), (6, 6)], ids=["amid the run", "at its end"])
def test_a_signal_during_an_evaluation_ends_it_and_the_run_is_saved(
    number, code, every, saved, capsys, small, tmp_path, monkeypatch
):
    calls, original = [], Extractor.extract

    def extract(self, images, **options):
        calls.append(len(images))
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return original(self, images, **options)

    monkeypatch.setattr(Extractor, "extract", extract)
    recipe = ["--eval.every", every, "--eval.recipe", "fid640", "--eval.max_time_fraction", 1000]
    before = signal.signal(number, signal.default_int_handler)  # under nohup SIGHUP is ignored, and stays so
    try:
        ended, _, err = train(capsys, tmp_path / "run", small, *recipe)
    finally:
        signal.signal(number, before)
    assert (ended, len(calls)) == (code, 2), err
    assert f"step {every}: the evaluation was given up" in err
    assert [path.name for path in RunDir(tmp_path / "run").list_checkpoints()] == [f"step-{saved:08d}"]
    assert "was received" in err
    assert not (tmp_path / "run" / "evaluations.jsonl").read_text()


def test_batches_end_at_the_first_look_after_a_signal():
    stop = StopRequest()
    items = until_stopped(range(5), stop.is_set)
    with stop_signals(stop):
        seen = [next(items), next(items)]
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedEarly):
            next(items)
    assert (seen, stop.name) == ([0, 1], "SIGTERM")


def test_bad_input(capsys, small, tmp_path):
    for words, message in (
        (["--eval.recipe", "fidd5k"], "did you mean 'fid'"),
        (["--eval.every", 0], "eval.every=0 must be at least 1"),
        (["--eval.every", 1, "--eval.extractor", "module:absent"], "no such file"),
        (["--eval.every", 5, "--eval.recipe", "accuracy20"], "predicts 3 classes"),
        (["--eval.every", 5, "--eval.recipe", "prdc20", "--eval.reference-images", 5], "needs 6 images"),
    ):
        code, _, err = train(capsys, tmp_path / "run", small, *words)
        assert (code, message in err) == (2, True), err
