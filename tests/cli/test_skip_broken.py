"""After a run that skipped broken images every verb can be given the same data: refused with its own option, or skipped."""

import json

import pytest
from conftest import call, write_pictures
from PIL import Image

from biggan.cli.main import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 24 images of two classes, one of them broken and one transparent, and the data."""
    folder = tmp_path_factory.mktemp("skipped")
    write_pictures(folder / "set", {"a": 12, "b": 12}, size=(32, 32))
    (folder / "set" / "a" / "1.png").write_bytes(b"broken")
    Image.new("RGBA", (32, 32), (1, 2, 3, 0)).save(folder / "set" / "b" / "0.png")
    words = ["train", "digits", "--data", folder / "set", "--run", folder / "run", "--train.steps", 1, "--train.batch", 8]
    words += ["--train.standing-stats-batches", 2, "--model.width", 2, "--model.embedding-dim", 8, "--train.device", "cpu"]
    words += ["--skip-broken", "--background", "black", "--monitor.held-out", folder / "set"]
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert not done.value.code
    return folder / "run", folder / "set"


VERBS = {
    "evaluate": ["--recipe", "fid20", "--extractor", "module:SMALL", "--out", "OUT/scores.json"],
    "truncation": ["--recipe", "fid20", "--extractor", "module:SMALL", "--thresholds", "1", "--out", "OUT"],
    "neighbors": ["--extractor", "pixels", "--n", "2", "--count", "3", "--out", "OUT/neighbors.png"],
    "memorization": ["--held-out", "SET", "--n", "20"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_compare_with_real_images(capsys, trained, small, tmp_path, verb):
    run, data = trained
    (tmp_path / "out").mkdir()
    options = [word.replace("SMALL", str(small)).replace("OUT", str(tmp_path / "out")) for word in VERBS[verb]]
    words = [
        verb,
        run,
        "--data",
        data,
        *(data if word == "SET" else word for word in options),
        "--cache",
        tmp_path / "cache",
    ]
    code, _, err = call(capsys, *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "image a/1.png in " in err
    assert "(--skip-broken)" in err
    assert call(capsys, *words, "--skip-broken", "--background", "#000000", "--verify")[0] == 0
    code, _, err = call(capsys, *words, "--background", "blakc")
    assert (code, "'blakc' is no color" in err, len(err.splitlines())) == (2, True, 1)
    if verb == "evaluate":
        recipe = json.loads((tmp_path / "out" / "scores.json").read_text())["recipe"]
        assert (recipe["reference"]["background"], recipe["reference"]["images"]) == ("#000000", 23)


def test_the_run_remembers_the_background(capsys, trained):
    run, data = trained
    config = json.loads((run / "config.json").read_text())
    assert (config["data"]["background"], config["data"]["skip_broken"]) == ("black", True)
    words = ["train", "digits", "--data", data, "--run", run, "--train.steps", 2, "--train.batch", 8, "--skip-broken"]
    words += ["--train.standing-stats-batches", 2, "--model.width", 2, "--model.embedding-dim", 8, "--train.device", "cpu"]
    code, _, err = call(capsys, *words, "--monitor.held-out", data)
    assert (code, "background" in err) == (2, True)


def test_bench_and_study_take_the_options_of_train(capsys, trained, tmp_path):
    _, data = trained
    words = ["bench", "data", "digits", "--data", data, "--train.batch", 8, "--seconds", 0.1]
    code, _, err = call(capsys, *words)
    assert (code, "(--skip-broken)" in err, len(err.splitlines())) == (2, True, 1)
    code, out, _ = call(capsys, *words, "--skip-broken")
    assert (code, "23 images at 32 px" in out) == (0, True)
    words = ["study", "d-steps", "--data", data, "--list", "--out", tmp_path / "study", "--steps", 1, "--seeds", 1]
    assert call(capsys, *words, "--skip-broken", "--background", "black")[0] == 0
    for command in (tmp_path / "study" / "commands.txt").read_text().splitlines():
        assert "--data.skip-broken" in command
        assert "--data.background black" in command
