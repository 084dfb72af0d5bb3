"""The commands that look at and measure a model, on a small run: what they print, write and refuse."""

import json
import shutil

import pytest
import torch
from conftest import call
from PIL import Image

import biggan
from biggan.analysis.truncation import CurvePoint, parse_thresholds, table2_columns
from biggan.metrics.evaluate import Evaluation
from biggan.metrics.features import save_trust
from biggan.runtime.atomic_io import file_sha256
from biggan.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on the digits, with three evaluations asked for."""
    folder = tmp_path_factory.mktemp("looked-at") / "run"
    words = ["train", "digits", "--run", str(folder), "--train.steps", "2", "--train.batch", "8"]
    words += [
        "--train.standing-stats-batches",
        "2",
        "--model.width",
        "2",
        "--model.embedding-dim",
        "8",
        "--train.device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as done:
        biggan_main(words)
    assert not done.value.code
    return folder


def biggan_main(words):
    from biggan.cli.main import main

    main(words)


@pytest.fixture
def ten(tmp_path):
    """An extractor that knows ten classes."""
    torch.manual_seed(0)

    class Ten(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(48, 10)

        def forward(self, images):
            x = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)
            return x, self.head(x)

    program = torch.export.export(
        Ten(), (torch.zeros(2, 3, 32, 32, dtype=torch.uint8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "ten.pt2")
    save_trust(tmp_path / "ten.pt2", file_sha256(tmp_path / "ten.pt2"))
    return f"module:{tmp_path / 'ten.pt2'}"


def size_of(file):
    with Image.open(file) as image:
        return image.size


def test_interpolate(capsys, run, tmp_path):
    code, out, _ = call(capsys, "interpolate", run, "--rows", 2, "--steps", 4, "--out", tmp_path / "a.png")
    assert (code, "2 walks of 4 images" in out) == (0, True)
    assert size_of(tmp_path / "a.png") == (4 * 33 + 1, 2 * 33 + 1)
    words = ["--between", "classes", "--classes", "1,7", "--rows", 2, "--steps", 4]
    assert call(capsys, "interpolate", run, *words, "--out", tmp_path / "a.gif")[0] == 0
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.size, film.n_frames) == ((2 * 33 + 1, 34), 6), "there and back"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio-ffmpeg leaves its pipe open
def test_a_film(capsys, run, tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    assert call(capsys, "interpolate", run, "--rows", 2, "--steps", 4, "--out", tmp_path / "a.mp4")[0] == 0
    assert len(list(imageio.imiter(tmp_path / "a.mp4"))) == 6


def test_mix_and_neighbours(capsys, run, tmp_path, ten):
    code, out, _ = call(capsys, "mix", run, "--classes", "3:3,5:1", "--n", 4, "--out", tmp_path / "m.png")
    assert (code, "first row 75% 3, 25% 5" in out) == (0, True)
    assert size_of(tmp_path / "m.png") == (4 * 33 + 1, 3 * 33 + 1)
    for extractor in ("pixels", ten):
        words = ["--data", "embedded:digits", "--n", 3, "--count", 2, "--extractor", extractor, "--out", tmp_path / "n.png"]
        code, out, _ = call(capsys, "neighbors", run, *words)
        assert (code, len(out.splitlines())) == (0, 5)
        assert size_of(tmp_path / "n.png") == (3 * 33 + 1, 3 * 33 + 1)


def test_evaluate_a_run(capsys, run, ten):
    words = ["--data", "embedded:digits", "--extractor", ten, "--recipe", "fid200,is200,accuracy100", "--truncation", 0.5]
    results = []
    for _ in range(2):
        code, out, _ = call(capsys, "evaluate", run, *words)
        assert code == 0
        results.append(json.loads((run / "metrics" / out.splitlines()[-1].split("/")[-1]).read_text()))
    assert results[0] == results[1]
    samples = results[0]["recipe"]["samples"]
    assert (samples["truncation"], samples["seed"], samples["averaged"]) == (0.5, 0, True)
    assert samples["statistics"].startswith("standing")
    assert results[0]["recipe"]["reference"]["images"] == 1797


def test_a_model_may_be_the_reference(capsys, run, ten, tmp_path):
    words = ["--extractor", ten, "--recipe", "fid200,intra200", "--out", tmp_path / "out.json"]
    code, out, err = call(capsys, "evaluate", "embedded:digits", "--data", run, *words)
    assert (code, "frechet_distance" in out, "against 200" in out) == (0, True, True), err


def test_truncation(capsys, run, ten, tmp_path):
    words = ["--data", "embedded:digits", "--extractor", ten, "--recipe", "fid200,is200,prdc100", "--thresholds", "0.5,1"]
    code, out, _ = call(capsys, "truncation", run, *words, "--scaled-latents", "--store", "--out", tmp_path / "curve")
    assert code == 0
    rows = [line.split()[:3] for line in out.splitlines() if line.startswith(("resampled", "scaled"))]
    resampled = [["resampled", threshold, "frechet_distance"] for threshold in ("none", "1", "0.5")]
    assert rows == [*resampled, *(["scaled", threshold, "frechet_distance"] for threshold in ("1", "0.5"))]
    record = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert [len(points) for points in record["curves"].values()] == [3, 2]
    assert {"least frechet_distance", "largest exp_kl_score", "exp_kl_score of real images"} == set(record["best"])
    for name in ("distance-against-score", "against-threshold", "sheet-resampled-none", "sheet-scaled-0.5"):
        assert min(size_of(tmp_path / "curve" / f"{name}.png")) > 30
    sampler = biggan.from_pretrained(run, device="cpu")
    assert sampler.statistics_table.truncations == (0.5, 1.0, 6.0)
    plain = biggan.from_pretrained(run, device="cpu")
    plain.forget_statistics()
    for truncation in (0.5, None):
        stored, collected = (which.sample(4, truncation=truncation).images.int() for which in (sampler, plain))
        assert (stored - collected).abs().max() <= 1, "what was stored is what is collected anew"
    again = call(capsys, "truncation", run, *words[:-1], "0.7", "--store", "--out", tmp_path / "again")
    assert again[0] == 0
    assert biggan.from_pretrained(run, device="cpu").statistics_table.truncations == (0.7, 6.0)
    code, _, err = call(capsys, "truncation", run, *words[:-1], "1,8", "--store", "--out", tmp_path / "again")
    assert (code, "below 6" in err) == (2, True)
    more = ["--train.steps", 3, "--train.batch", 8, "--train.standing-stats-batches", 2, "--model.width", 2]
    more += ["--model.embedding-dim", 8, "--train.device", "cpu"]
    assert call(capsys, "train", "digits", "--run", run, *more)[0] == 0
    assert biggan.from_pretrained(run, device="cpu").statistics_table is None, "those of the model that was"


def test_leakage(capsys, run, ten, tmp_path):
    code, out, _ = call(capsys, "leakage", run, "--extractor", ten, "--per-class", 5, "--out", tmp_path / "leak")
    assert (code, "of 50 images" in out) == (0, True)
    counts = torch.tensor(json.loads((tmp_path / "leak" / "confusion.json").read_text())["asked_by_named"])
    assert counts.sum(1).tolist() == [5] * 10
    assert (tmp_path / "leak" / "worst.png").exists()


def test_memorization(capsys, run):
    words = ["--data", "embedded:digits", "--held-out", "embedded:digits", "--n", 100]
    code, out, _ = call(capsys, "memorization", run, *words)
    assert code == 0
    trained, held_out, generated = out.splitlines()
    assert trained.split()[2:] == held_out.split()[2:], "the same images are classified alike"
    assert "of 100 images are classified as real" in generated


def test_memorization_goes_by_the_loss_of_the_run(capsys, run, tmp_path):
    words = [shutil.copytree(run, tmp_path / "run"), "--data", "embedded:digits", "--held-out", "embedded:digits", "--n", 20]
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())

    def memorization_with(**objective):
        file.write_text(json.dumps(config | {"objective": config["objective"] | objective}))
        return call(capsys, "memorization", *words)

    code, out, err = memorization_with(loss="non-saturating", real_target=1e-300)  # the boundary is a logit of -691
    assert (code, out.count("100.0% of 20 images are classified as real")) == (0, 3), err
    for loss in ("wasserstein", "relativistic"):
        code, out, err = memorization_with(loss=loss)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert f"the {loss} loss gives logits without a decision boundary: " in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["interpolate", "{run}", "--steps", "1"], "--steps 1 must be at least 2"),
        (["interpolate", "{run}", "--classes", "elephant"], "no class 'elephant'"),
        (["interpolate", "{run}", "--out", "{tmp}/a.txt"], "use .png, .gif or .mp4"),
        (["interpolate", "{tmp}/absent"], "holds no model"),
        (["mix", "{run}", "--classes", "3"], "each class and its weight"),
        (["neighbors", "{run}"], "add --data SOURCE"),
        (["truncation", "{run}"], "add --data SOURCE"),
        (["truncation", "{run}", "--data", "embedded:digits", "--thresholds", "2:1:3"], "LOW:HIGH:COUNT"),
        (["leakage", "{run}", "--extractor", "module:absent"], "no such file"),
        (["memorization", "{run}/model", "--data", "embedded:digits", "--held-out", "embedded:digits"], "no discriminator"),
        (["evaluate", "{tmp}/absent"], "no such run, model or data set"),
        (["evaluate", "embedded:digits", "--recipe", "fid10"], "add --resolution"),
        (["evaluate", "{run}", "--resolution", "64", "--recipe", "fid10"], "32 and 64 pixels"),
        (
            ["evaluate", "{run}", "--recipe", "is10", "--extractor", "inception", "--extractor-weights", "absent"],
            "no such file",
        ),
    ],
)
def test_bad_input(capsys, run, tmp_path, words, message):
    code, _, err = call(capsys, *(word.format(run=run, tmp=tmp_path) for word in words))
    assert (code, message in err, len(err.splitlines())) == (2, True, 1), err


def test_thresholds():
    assert parse_thresholds("0.5,2,1") == [2, 1, 0.5]
    assert parse_thresholds("0.04:4:3") == pytest.approx([4, 0.4, 0.04])
    for text in ("", "x", "0,1", "1:2", "1:2:1", "-1,2", "nan", "1:2:1000"):
        with pytest.raises(ConfigError, match="LOW:HIGH:COUNT"):
            parse_thresholds(text)


def test_the_columns_of_table_2():
    scores = {None: (10.0, 5.0), 1.0: (8.0, 6.0), 0.5: (9.0, 7.0), 0.1: (20.0, 8.0)}
    points = [
        CurvePoint(threshold, Evaluation({"fid": {"value": fid}, "inception_score": {"mean": score, "std": 0.0}}, {}))
        for threshold, (fid, score) in scores.items()
    ]
    best = {what: point.threshold for what, point in table2_columns(points, 7.2).items()}
    assert best == {"least fid": 1.0, "inception_score of real images": 0.5, "largest inception_score": 0.1}
