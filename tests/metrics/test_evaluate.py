"""Whole evaluations: against torch-fidelity with the same random Inception, a module from a file, two ranks, the cache."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Small, call, write_pictures
from torch import nn

from biggan.data.dataset import open_source
from biggan.metrics import features, statistics
from biggan.metrics.evaluate import evaluate, parse_recipe
from biggan.metrics.features import Extractor, open_extractor
from biggan.metrics.statistics import ImageSet
from biggan.runtime.errors import CheckpointError, ConfigError, DataError
from biggan.sampling import image_sets

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "a", {"cat": 30, "dog": 30, "eel": 30}, size=(16, 16))
    write_pictures(tmp_path / "b", {"cat": 20, "dog": 20, "eel": 20}, size=(18, 18))
    return tmp_path / "a", tmp_path / "b"


def opened(small, bf16=False):
    return open_extractor(f"module:{small}", cache=Path("absent"), device=CPU, bf16=bf16)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory) -> Path:
    """Seeded random weights, spread so that features and logits vary."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    load, torch.load = torch.load, lambda *words, **options: None
    original = nn.Module.load_state_dict
    nn.Module.load_state_dict = lambda self, state: None
    try:
        torch.manual_seed(0)
        network.__init__("random", ["2048"], "nowhere")
    finally:
        torch.load, nn.Module.load_state_dict = load, original
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), file)
    return file


def test_against_torch_fidelity_with_the_same_weights(pictures, inception_weights, tmp_path):
    """Features to rounding; scores within 1e-4 on the very same images."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    theirs = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(inception_weights))
    ours = open_extractor("inception", weights=inception_weights, cache=tmp_path, device=CPU)
    assert not ours.is_inception, "random weights may not call their distance FID"
    first, second = (image_sets.real_images(open_source(str(folder), 16, cache=tmp_path)) for folder in pictures)
    first = ImageSet(lambda n: limited(first_batches(), n), "a", {}, first.class_names, 16)
    all_images = [torch.cat([images for images, _ in batches]) for batches in (first.batches(16), second.batches(60))]
    all_images[1] = all_images[1][:16]
    second = ImageSet(lambda n: iter([(all_images[1][:n], torch.zeros(n, dtype=torch.int64))]), "b", {}, ("all",), 16)
    features_1, logits_1 = (torch.cat(part) for part in zip(*(theirs(x) for x in all_images[0].split(8)), strict=True))
    features_2, _ = (torch.cat(part) for part in zip(*(theirs(x) for x in all_images[1].split(8)), strict=True))
    assert torch.allclose(ours(all_images[0][:8]).features, features_1[:8], atol=1e-5, rtol=1e-4)
    scores = evaluate(first, second, ours, parse_recipe("fid16,is16,kid16,prdc16")).scores
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, (features_1, features_2)), False)
    assert scores["frechet_distance"]["value"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    expected = isc_features_to_metric(logits_1, 10, shuffle=False)
    assert scores["exp_kl_score"]["mean"] == pytest.approx(expected["inception_score_mean"], rel=1e-4)
    options = {"kid_subsets": 100, "kid_subset_size": 8, "rng_seed": 2020, "verbose": False}
    expected = kid_features_to_metric(features_1.double(), features_2.double(), **options)
    assert scores["kernel_distance"]["mean"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    precision, recall = calculate_precision_recall_full(features_1, features_2, 3)
    assert (scores["precision"]["value"], scores["recall"]["value"]) == pytest.approx((precision, recall))


def first_batches():
    """24 smooth random images, each of its own colors, in batches of 5."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(24, 3, 4, 4, generator=generator)
    images = (nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    return zip(images.split(5), torch.zeros(24, dtype=torch.int64).split(5), strict=True)


def limited(batches, count):
    for images, labels in batches:
        yield images[:count], labels[:count]
        count -= len(labels)
        if count <= 0:
            return


def test_scores_of_two_sets(pictures, small, tmp_path):
    first, second = (image_sets.real_images(open_source(str(folder), 16, cache=tmp_path)) for folder in pictures)
    found = evaluate(first, second, opened(small), parse_recipe("fid90,is90,kid50,prdc60,intra90,accuracy90"))
    assert set(found.scores) == {
        *("frechet_distance", "exp_kl_score", "kernel_distance", "precision", "recall", "density", "coverage"),
        *("intra_frechet_distance", "accuracy"),
    }
    source = open_source(str(pictures[0]), 16, cache=tmp_path)
    named = Small()(source.images)[1].argmax(1)
    assert found.scores["accuracy"]["value"] == pytest.approx((named == source.labels).double().mean().item())
    assert found.scores["frechet_distance"]["reference_images"] == 60
    assert found.scores["precision"]["reference_images"] == 60
    alone = evaluate(first, second, opened(small), parse_recipe("intra90")).scores["intra_frechet_distance"]
    assert alone == found.scores["intra_frechet_distance"], "whatever else is asked for"
    assert alone["value"] == pytest.approx(sum(alone[f"class_{number}"] for number in range(3)) / 3)
    images, labels = (torch.cat(part) for part in zip(*first.batches(90), strict=True))
    others, their_labels = (torch.cat(part) for part in zip(*second.batches(60), strict=True))
    sides = [Small()(x[y == 1])[0].detach().double().numpy() for x, y in ((images, labels), (others, their_labels))]
    covariances = [np.cov(side, rowvar=False) for side in sides]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    difference = sides[0].mean(0) - sides[1].mean(0)
    expected = difference @ difference + sum(map(np.trace, covariances)) - 2 * root
    assert alone["class_1"] == pytest.approx(expected, rel=1e-3)
    assert found.recipe["extractor"]["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    again = evaluate(first, first, opened(small), parse_recipe("fid90,intra90")).scores
    assert again["frechet_distance"]["value"] < 1e-3
    assert again["intra_frechet_distance"]["value"] < 1e-3
    bf16 = evaluate(first, second, opened(small, bf16=True), parse_recipe("fid90"))
    assert bf16.recipe["extractor"]["arithmetic"] == "bf16"


def test_the_reference_is_made_once_and_anew_when_it_changes(pictures, small, tmp_path, monkeypatch):
    def run(cache=tmp_path / "cache"):
        passes = []
        first, second = (image_sets.real_images(open_source(str(folder), 16, cache=tmp_path)) for folder in pictures)

        def progress(items, total, what):
            passes.append(what)
            return items

        wanted = parse_recipe("fid60,prdc60")
        monkeypatch.setattr(statistics, "image_progress_bar", progress)
        return evaluate(first, second, opened(small), wanted, cache=cache), passes

    (one, passes), (two, again) = run(), run()
    assert (passes, again) == (["samples", "reference"], ["samples"])
    assert one == two
    kept = next((tmp_path / "cache").glob("reference-*"))
    kept.write_bytes(kept.read_bytes()[:100])
    assert run() == (one, passes), "a damaged file is made again"
    (pictures[1] / "cat" / "0.png").unlink()
    three, passes = run()
    assert passes == ["samples", "reference"]
    assert three.scores != one.scores
    assert three.recipe["reference"]["identity"] != one.recipe["reference"]["identity"]
    assert run(cache=None)[0] == three
    for name, value in (("device", "cuda"), ("tf32", True), ("deterministic", True), ("arithmetic", "bf16")):
        numerics = {"device": "cpu", "arithmetic": "float32", "tf32": False, "deterministic": False}
        assert {key: three.recipe["extractor"][key] for key in numerics} == numerics
        monkeypatch.setattr(Extractor, "numerics", numerics | {name: value})
        four, passes = run()
        assert passes == ["samples", "reference"], "what is rounded differently shares no entry"
        assert four.recipe["extractor"][name] == value
        assert run()[1] == ["samples"]


@pytest.mark.parametrize("interrupted", ["samples", "reference"])
def test_what_was_interrupted_starts_clean(pictures, small, tmp_path, monkeypatch, interrupted):
    first, second = (image_sets.real_images(open_source(str(folder), 16, cache=tmp_path)) for folder in pictures)

    def progress(items, total, what):
        for number, item in enumerate(items):
            if what == interrupted and number == 0:
                raise KeyboardInterrupt
            yield item

    wanted, cache = parse_recipe("fid60,prdc60"), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(statistics, "image_progress_bar", progress)
        with pytest.raises(KeyboardInterrupt):
            evaluate(first, second, opened(small), wanted, cache=cache)
    assert not cache.exists() or not list(cache.iterdir())
    undisturbed = evaluate(first, second, opened(small), wanted)
    assert evaluate(first, second, opened(small), wanted, cache=cache) == undisturbed


def test_two_ranks_give_what_one_gives(pictures, small, tmp_path):
    """By the command, with batches that do not divide by the ranks."""
    words = [
        "evaluate",
        str(pictures[0]),
        "--data",
        str(pictures[1]),
        "--resolution",
        "16",
        "--extractor",
        f"module:{small}",
    ]
    words += [
        "--recipe",
        "fid90,is90,kid70,prdc60,intra90,accuracy90",
        "--cache",
        str(tmp_path / "cache"),
        "--device",
        "cpu",
    ]
    results = []
    for number, start in enumerate(([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        out = tmp_path / f"{number}.json"
        command = [sys.executable, *start, "-m", "biggan", *(["--"] if start else []), *words, "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(out.read_text()))
        for file in (tmp_path / "cache").rglob("reference-*"):
            file.unlink()
    assert results[0] == results[1]


def test_torch_export_programs(tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(Small(), (torch.zeros(2, 3, 16, 16, dtype=torch.uint8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "small.pt2")
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    extractor = open_extractor(f"module:{tmp_path / 'small.pt2'}", cache=tmp_path, device=CPU, trusted=True)
    assert torch.allclose(extractor(images).features, Small()(images)[0], atol=1e-6)


def test_a_program_is_run_only_where_it_is_trusted(small_untrusted, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGGAN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "judge.pt"
    file.write_bytes(small_untrusted.read_bytes())
    load, loaded = torch.jit.load, []
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: loaded.append(1) or load(*args, **options))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=rf"runs its code: .*--trust-extractor .*{digest}"):
        opened(file)
    assert not loaded
    assert open_extractor(f"module:{file}", cache=tmp_path / "cache", device=CPU, trusted=True)
    assert opened(file), "this very file has been trusted"
    moved = file.rename(tmp_path / "moved.pt")
    assert opened(moved), "wherever it lies"
    with open(moved, "ab") as more:
        more.write(b"another")
    with pytest.raises(ConfigError, match="runs its code"):
        opened(moved)
    moved.write_bytes(b"no program")
    with pytest.raises(CheckpointError, match="neither a torch"):
        open_extractor(f"module:{moved}", cache=tmp_path / "cache", device=CPU, trusted=True)
    with pytest.raises(ConfigError, match="runs its code"):
        opened(moved)
    (tmp_path / "cache" / "trusted_extractors.json").write_text("[half")
    file.write_bytes(small_untrusted.read_bytes())
    with pytest.raises(ConfigError, match="runs its code"):
        opened(file)
    assert open_extractor(f"module:{file}", cache=tmp_path / "cache", device=CPU, trusted=True)
    assert opened(file)


RUN_OF_DIGITS = ["--train.steps", 1, "--train.batch", 8, "--monitor.every", "None", "--train.standing-stats-batches", 1]
RUN_OF_DIGITS += ["--model.width", 2, "--model.embedding-dim", 8]


def test_every_command_asks_before_it_runs_a_program(capsys, pictures, small_untrusted, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGGAN_CACHE", str(tmp_path / "cache"))
    run, judge = tmp_path / "run", f"module:{small_untrusted}"
    assert call(capsys, "train", "digits", "--run", run, *RUN_OF_DIGITS)[0] == 0
    digits = ["--data", "embedded:digits"]
    bench = ["bench", "evaluate", "digits", "--rounds", 1, "--seconds", 0.01, "--batch", 2, "--eval.extractor", judge]
    evaluated = ["--eval.every", 1, "--eval.recipe", "fid20", "--eval.extractor", judge]
    train = ["train", "digits", *RUN_OF_DIGITS, *evaluated, "--eval.reference-images", 20, "--run", tmp_path / "next"]
    for words in (
        ["evaluate", run, *digits, "--recipe", "fid20", "--extractor", judge],
        ["truncation", run, *digits, "--recipe", "fid20", "--extractor", judge],
        ["neighbors", run, *digits, "--extractor", judge],
        ["leakage", run, "--extractor", judge],
        bench,
        train,
    ):
        code, _, err = call(capsys, *words)
        assert (code, "add --trust-extractor" in err.splitlines()[-1]) == (2, True), err
    assert not (tmp_path / "cache" / "trusted_extractors.json").exists()
    code, _, err = call(capsys, *train, "--trust-extractor")
    assert code == 0, err
    assert "trust" not in (tmp_path / "next" / "config.json").read_text()
    assert call(capsys, *bench)[0] == 0, "from then on it is known"


def test_dinov2_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "dino")
    extractor = open_extractor("dinov2", weights=tmp_path / "dino", cache=tmp_path, device=CPU)
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, deviation = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    prepared = torch.from_numpy((images.numpy() / 255 - mean) / deviation).float()
    with torch.no_grad():
        expected = model(pixel_values=prepared).last_hidden_state[:, 0]
    assert torch.allclose(extractor(images).features, expected, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"cannot be loaded from .*absent"):
        open_extractor("dinov2", weights=tmp_path / "absent", cache=tmp_path, device=CPU)


def test_weights_of_inception_are_fetched_once_and_checked(inception_weights, tmp_path, monkeypatch):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(inception_weights.parent))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda self, *words: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(features, "INCEPTION_URL", f"http://127.0.0.1:{server.server_address[1]}/random.pth")
        with pytest.raises(CheckpointError, match=r"its sha256 is .*--extractor-weights FILE"):
            open_extractor("inception", cache=tmp_path / "cache", device=CPU)
        assert not list((tmp_path / "cache").glob("*"))
        digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
        monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
        assert open_extractor("inception", cache=tmp_path / "cache", device=CPU).is_inception
        server.shutdown()
    open_extractor("inception", cache=tmp_path / "cache", device=CPU)
    monkeypatch.setattr(features, "INCEPTION_URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(CheckpointError, match=rf"fetch http://127\.0\.0\.1:9/weights\.pth \(sha256 {digest}\) by hand"):
        open_extractor("inception", cache=tmp_path / "other", device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--recipe", "fid"], "a score and a number of images"),
        (["--recipe", "fidd1k"], "did you mean 'fid'"),
        (["--recipe", "fid1k,fid2k"], "each score once"),
        (["--recipe", "fid1"], "at least 2 images"),
        (["--recipe", "is5"], "at least 10 images"),
        (["--recipe", "prdc5"], "at least 6 images"),
        (["--resolution", "-3"], "--resolution -3 must be at least 1"),
        (["--recipe", "fid1k"], "fid1k needs 1000 images"),
        (["--data", "absent"], "no such run, model or data set"),
        (["--extractor", "incption"], "use inception, dinov2 or module:FILE"),
        (["--extractor", "module:absent.pt"], "no such file"),
        (["--truncation", "0.5"], "for generators, not for data sets"),
        (["--extractor", "module:{0}/cat/0.png"], "neither a torch.export program nor a TorchScript module"),
        (["--extractor-weights", "{0}/cat/0.png", "--extractor", "inception"], "cannot be read as tensors"),
    ],
)
def test_bad_input(capsys, pictures, small, tmp_path, change, message):
    words = {"--data": str(pictures[1]), "--resolution": "16", "--extractor": f"module:{small}", "--recipe": "fid60"}
    words |= {"--cache": str(tmp_path / "cache"), "--out": str(tmp_path / "out.json")}
    words |= dict(zip(change[::2], (word.format(pictures[0]) for word in change[1::2]), strict=True))
    options = [part for pair in words.items() for part in pair]
    trust = ["--trust-extractor"] if words["--extractor"].startswith("module:") else []
    code, _, err = call(capsys, "evaluate", pictures[0], *trust, *options)
    assert (code, message in err, len(err.splitlines())) == (2, True, 1), err
    assert not (tmp_path / "out.json").exists()


def test_what_a_score_cannot_do_without(pictures, small, tmp_path):
    first = image_sets.real_images(open_source(str(pictures[0]), 16, cache=tmp_path))
    with pytest.raises(ConfigError, match="add --data SOURCE"):
        evaluate(first, None, opened(small), parse_recipe("fid60"))
    second = image_sets.real_images(open_source(str(pictures[1]), 16, cache=tmp_path))
    other = image_sets.real_images(open_source("embedded:digits", 16, cache=tmp_path))
    with pytest.raises(ConfigError, match="samples and reference have different classes"):
        evaluate(first, other, opened(small), parse_recipe("intra60"))
    with pytest.raises(ConfigError, match="predicts 3 classes, the images have 10"):
        evaluate(other, None, opened(small), parse_recipe("accuracy60"))
    broken = opened(small)
    broken.network = lambda images: (torch.full((len(images), 4), torch.nan), None)
    with pytest.raises(DataError, match="not finite"):
        evaluate(first, first, broken, parse_recipe("fid60"))
    without = opened(small)
    without.network = lambda images: (torch.zeros(len(images), 4), None)
    with pytest.raises(ConfigError, match="gives no logits"):
        evaluate(first, None, without, parse_recipe("is60"))
    without.network = lambda images: (torch.zeros(len(images), 4, 2, 2), None)
    with pytest.raises(ConfigError, match=r"no features of shape \(N, F\)"):
        evaluate(first, second, without, parse_recipe("fid60"))
