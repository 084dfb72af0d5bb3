"""The command line as a user meets it: bad input gets one clear line and exit code 2, and costs nothing."""

import json
import resource
import signal

import pytest
from conftest import call, write_pictures
from PIL import Image

from biggan.cli.train import data_name
from biggan.configs.presets import PRESETS

TINY = ["--model.width", "2", "--model.embedding-dim", "8", "--train.batch", "8", "--train.standing-stats-batches", "2"]
TINY += ["--train.device", "cpu", "--train.precision", "fp32"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "needs a preset"),
        (["train", "digit"], "did you mean 'digits'"),
        (["train", "digits", "--train.bach", "3"], "did you mean '--train.batch'"),
        (["train", "digits", "--train.batch", "many"], "'many'"),
        (["train", "digits", "--train.precision", "fp12"], "'fp32'"),
        (["train", "digits", "--train.batch", "50", "--train.micro-batch", "7"], "use --train.micro-batch 5"),
        (["train", "digits", "--train.steps", "0"], "at least 1"),
        (["train", "digits", "--train.generator-lr", "nan"], "at least 0"),
        (["train", "digits", "--model.resolution", "48"], "32, 64, 128, 256, 512"),
        (["train", "digits", "--model.num-classes", "7"], "has 10 classes"),
        (["train", "cifar10"], "add --data"),
        (["train", "cifar10", "--data", "absent.zip"], "no such file"),
        (["train", "digits", "--regularization.generator.orthogonal", "-1"], "None for off"),
        (["sample", "absent"], "holds no model"),
        (["sample"], "model"),
        (["bench", "data", "cifar10"], "add --data"),
        (["bench", "sample", "digits", "--compare", "train.batch=3"], "goes with bench train"),
        (["bench", "sample", "digits", "--rounds", "0"], "--rounds 0 must be at least 1"),
        (["bench", "tarin"], "did you mean 'train'"),
        (["train", "digits", "--xyzzyqq", "1"], "`biggan train digits --help` shows all"),
        (["train", "digits", "--watch.every", "5"], "it is now --monitor.every"),
        (["train", "digits", "--train.no-recompute"], "it is now --train.no-activation-checkpointing"),
        (["train", "improved-mnist", "--model.discriminator-hidden", "outputs"], "it is now --model.discriminator.hidden"),
        (["train", "digits", "--model.discriminator-hidden", "outputs"], "it is now --model.discriminator.hidden-width"),
        (["train", "digits", "--dataset", "x"], "unknown option --dataset"),
        (["bench", "train", "digits", "--compare", "train.recompute=True"], "it is now train.activation_checkpointing"),
        (["interpolate", "run", "--way", "linear"], "it is now --interpolation"),
        (["data"], "biggan: data: name what to do"),
        (["data", "inspect", "embedded:digits", "--out", "sheet"], "is no image file: give one such as sheet/inspected.png"),
        (["evaluate", "embedded:digits", "--resolution", "16"], "fid50k compares with real images: add --data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("biggan: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_bad_folders(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = call(capsys, "train", "cifar10", "--data", tmp_path / "empty", "--run", tmp_path / "run")
    assert (code, "holds no image" in err) == (2, True)
    write_pictures(tmp_path / "set", {"a": 12, "b": 12})
    (tmp_path / "set" / "a" / "1.png").write_bytes(b"broken")
    words = ["train", "cifar10", "--data", tmp_path / "set", "--run", tmp_path / "run", "--train.steps", "1", *TINY]
    code, _, err = call(capsys, *words)
    assert (code, "a/1.png" in err, "--skip-broken" in err) == (2, True, True)
    assert not (tmp_path / "run").exists()
    code, _, err = call(capsys, *words, "--data.skip-broken")
    assert (code, "1 of 24 images could not be read" in err) == (0, True)


def test_another_config_in_the_run_folder(capsys, tmp_path):
    words = ["train", "digits", "--run", tmp_path / "run", "--train.steps", "1", *TINY]
    assert call(capsys, *words)[0] == 0
    before = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(before)["dataset"]["sizes"] == [[8, 8], [8, 8]]
    code, _, err = call(capsys, *words, "--train.seed", "4")
    assert (code, "train.seed: 0 there, 4 here" in err) == (2, True)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_full_disk_ends_in_one_line_and_costs_no_checkpoint(capsys, tmp_path):
    """The size limit of the process stands for a full disk: the system refuses the write half way."""
    words = ["train", "digits", "--run", tmp_path / "run", *TINY, "--train.checkpoint-every", "1", "--train.steps"]
    assert call(capsys, *words, "1")[0] == 0
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code, _, err = call(capsys, *words, "2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2
    assert "biggan: " in err.splitlines()[-1]
    assert "could not be written to" in err.splitlines()[-1]
    assert "free some space" not in err.splitlines()[-1], "this disk is not full"
    code, _, err = call(capsys, *words, "2")
    assert (code, "resuming from step 1" in err) == (0, True)


@pytest.mark.parametrize("name", PRESETS)
def test_dry_run_of_every_preset_starts_nothing(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "train", name, "--dry-run", "--train.device", "cpu")
    assert code == 0
    settings, end = json.JSONDecoder().raw_decode(out)
    assert settings["preset"] == name
    for word in ("per pass", "parameters", "memory", "time"):
        assert word in out[end:]
    assert not list(tmp_path.iterdir())


def test_train_then_sample(capsys, tmp_path):
    code, out, _ = call(capsys, "train", "digits", "--run", tmp_path / "run", "--train.steps", "2", *TINY)
    assert code == 0
    shown = dict(line.split(None, 1) for line in out.splitlines())
    with Image.open(shown["sheet"]) as picture:
        assert picture.size == (10 * 33 + 1, 10 * 33 + 1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]["images"] == 1797
    words = ["sample", tmp_path / "run", "--n", "4", "--classes", "3,7", "--truncation", "0.7", "--out", tmp_path / "out"]
    assert call(capsys, *words)[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000-3.png", "00001-7.png", "00002-3.png", "00003-7.png", "samples.json"]
    for bad, message in (
        (["--classes", "11"], "no class '11'"),
        (["--truncation", "0"], "at least 0.001"),
        (["--n", "0"], "least 1"),
    ):
        code, _, err = call(capsys, "sample", tmp_path / "run", *bad, "--out", tmp_path / "no")
        assert (code, message in err) == (2, True)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "{0}"],
        ["analyze", "{0}"],
        ["import", "{0}", "--out", "{1}/new"],
        ["export", "{0}", "--to", "hub"],
        ["classify", "{0}", "{0}"],
        ["train", "digits", "--init-from", "{0}"],
        ["train", "cifar10", "--data", "wds:{0}"],
        ["evaluate", "embedded:digits", "--data", "embedded:digits", "--resolution", 8, "--extractor", "module:{0}"],
    ],
    ids=lambda words: words[0],
)
def test_paths_that_the_system_refuses_are_one_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("x" * 300)
    code, _, err = call(capsys, *(str(word).format(path, tmp_path) for word in words))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--run", ""], ["--run="], ["--data", ""], ["--data.cache", ""]])
def test_an_empty_argument_is_no_folder(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "train", "digits", *words)
    assert (code, "an argument is empty" in err, len(err.splitlines())) == (2, True, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("folder:photos", "photos"),
        ("/home/me/My Photos/", "My_Photos"),
        ("zip:/home/me/cifar10-train.zip", "cifar10-train"),
        ("hf:uoft-cs/cifar10:train", "cifar10_train"),
        ("wds:https://me:pw@host/set?token=1", "set"),
        ("wds:pipe:SECRET=1 cat x.tar", "pipe"),
        ("...", "data"),
    ],
)
def test_runs_are_named_after_their_data_without_secrets(source, name):
    assert data_name(source) == name


def test_the_folder_of_here_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert data_name(".") == data_name("folder:.") == "photos"
