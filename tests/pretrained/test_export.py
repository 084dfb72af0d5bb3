"""What is exported is read back by others: onnxruntime, safetensors, and the hub's own client against a local hub."""

import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import call, model_config, write_pictures
from safetensors import safe_open

import biggan
from biggan.metrics.evaluate import Evaluation
from biggan.pretrained.export import export_hub, export_onnx

TINY = ["--model.width", 2, "--model.embedding-dim", 8, "--train.batch", 8, "--train.standing-stats-batches", 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps."""
    from biggan.cli.main import main

    folder = tmp_path_factory.mktemp("exported") / "run"
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in ["train", "digits", "--train.steps", 2, "--run", folder, *TINY]])
    assert not exit_.value.code
    return folder


@pytest.mark.parametrize("given", ["class", "embedding"])
def test_onnx(capsys, run, given, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "g.onnx"
    words = ["export", run, "--to", "onnx", "--input", given, "--out", file, "--truncation", 0.5]
    code, out, _ = call(capsys, *words)
    assert (code, "differs from torch by at most" in out) == (0, True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    sampler = biggan.from_pretrained(run, device="cpu", precision="fp32")
    sampler.set_statistics(0.5)
    for count in (1, 5):
        z, y = torch.randn(count, 80), torch.arange(count)
        second = {"y": y.numpy()} if given == "class" else {"e": sampler.generator.embed(y).numpy()}
        (image,) = session.run(None, {"z": z.numpy(), **second})
        expected = sampler.generator(z, y).numpy()
        assert np.abs(image - expected).max() < 1e-3
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["truncation"] == "0.5"
    assert json.loads(metadata["biggan"])["class_names"] == list("0123456789")


@pytest.mark.parametrize("preset", ["biggan-deep", "sagan", "sngan"])
def test_onnx_of_every_family(preset, tmp_path):
    pytest.importorskip("onnxruntime")
    from biggan.checkpoints.model_dir import ModelCard, save_model_dir
    from biggan.models import registry

    config = model_config(
        registry.FAMILIES[preset].config,
        resolution=32,
        num_classes=3,
        width=8,
        embedding_dim=8,
        generator__attention=(16,),
        discriminator__attention=(),
    )
    g, _ = registry.build_networks(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        g.attention["16"].gamma.fill_(0.5)
    card = ModelCard(model=config, class_names=("a", "b", "c"), step=0, trained_on="nothing")
    save_model_dir(tmp_path / "model", card, {"generator": g.state_dict()})
    assert export_onnx(tmp_path / "model", tmp_path / "g.onnx") < 1e-3


def test_one_file_carries_its_config(capsys, run, tmp_path):
    file = tmp_path / "out" / "g.safetensors"
    assert call(capsys, "export", run, "--to", "safetensors", "--out", file)[0] == 0
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["config"])["model"]["width"] == 2
    a, b = (biggan.from_pretrained(path).sample(3, seed=1).images for path in (run, file))
    assert torch.equal(a, b)


def test_hub_folder(capsys, run, tmp_path):
    assert call(capsys, "export", run, "--to", "hub", "--out", tmp_path / "hub")[0] == 0
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        "README.md", "config.json", "generator.safetensors", "samples.png",
    }  # fmt: skip
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: biggan\n")
    for fact in ("trained on embedded:digits, 2 steps", '"preset": "digits"', "No quality figures", "| D/loss_real |"):
        assert fact in card
    score = {"fid": {"value": 12.345678, "images": 50_000}, "inception_score": {"mean": 2.0, "std": 0.1}}
    Evaluation(score, recipe={}).save(run / "metrics" / "123.json")
    assert call(capsys, "export", run, "--to", "hub", "--out", tmp_path / "hub")[0] == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| fid | 12.35 |" in card
    assert "| inception_score | 2.00 +- 0.10 |" in card
    a, b = (biggan.from_pretrained(path).sample(3, seed=1).images for path in (run, tmp_path / "hub"))
    assert torch.equal(a, b)


def test_a_filled_folder_is_no_place_for_an_export(capsys, run, tmp_path):
    out = tmp_path / "hub"
    words = ["export", run, "--to", "hub", "--out", out]
    out.mkdir()
    (out / ".git").mkdir()
    assert call(capsys, *words)[0] == 0, "an empty folder, or a clone of an empty repository"
    assert call(capsys, *words)[0] == 0, "an earlier export"
    (out / "thesis.tex").write_text("mine")
    code, _, err = call(capsys, *words)
    assert (code, "--overwrite" in err, len(err.splitlines())) == (2, True, 1), err
    assert call(capsys, *words, "--overwrite")[0] == 0
    assert (out / "thesis.tex").read_text() == "mine"
    for name in ("README.md", "config.json", "generator.safetensors"):
        other = tmp_path / name.replace(".", "-")
        other.mkdir()
        (other / name).write_text("mine")
        code, _, err = call(capsys, *words[:-1], other)
        assert (code, f"{other} holds {name}, which is no earlier export" in err) == (2, True), err
        assert [path.name for path in other.iterdir()] == [name]
    code, _, err = call(capsys, "export", run, "--to", "hub", "--out", run / "model")
    assert (code, "no earlier export" in err) == (2, True), "a model folder is none"
    code, _, err = call(capsys, "export", run, "--to", "onnx", "--overwrite")
    assert (code, "goes with --to hub" in err) == (2, True)


@pytest.mark.parametrize("kind", ["safetensors", "onnx", "hub"])
def test_a_full_disk_leaves_no_file_of_an_export(capsys, run, kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        code, _, err = call(capsys, "export", run, "--to", kind, "--out", tmp_path / "out" / f"x.{kind}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, "could not be written" in err.splitlines()[-1]) == (2, True), err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


HOSTILE = "a|b <img src=x>\n# [c](d) `e` ---\x1b[31m"


def test_nothing_from_outside_is_markup_in_a_model_card(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    card = json.loads((folder / "model" / "config.json").read_text())
    names = [f"{HOSTILE}{number}" for number in range(10)]
    changed = card | {"class_names": names, "trained_on": f"folder:{HOSTILE}"}
    (folder / "model" / "config.json").write_text(json.dumps(changed))
    shutil.rmtree(folder / "metrics", ignore_errors=True)
    score = {"value": 1.0, "images": 10}
    Evaluation({HOSTILE: score}, {}, (f"caution {HOSTILE}",)).save(folder / "metrics" / "1.json")
    export_hub(folder, tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert text.count("---\n") == 2, "the front matter"
    assert "<img" not in text
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("# [c]")]
    shutil.rmtree(folder / "metrics")
    with open(folder / "stats.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, HOSTILE: 1.0}) + "\n")
    export_hub(folder, tmp_path / "hub")
    table = (tmp_path / "hub" / "README.md").read_text().split("## Measured")[1]
    assert "\\|b &lt;img src=x&gt;" in table
    assert "<img" not in table


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"scores": 3}', '{"scores": {"fid": 3}}', '{"scores": {"fid": {"value": "x"}}}']
)
def test_saved_scores_that_are_none(capsys, run, tmp_path, text):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "metrics", ignore_errors=True)
    (folder / "metrics").mkdir()
    (folder / "metrics" / "1.json").write_text(text)
    code, _, err = call(capsys, "export", folder, "--to", "hub", "--out", tmp_path / "hub")
    assert (code, "the scores in" in err, len(err.splitlines())) == (2, True, 1), err


HUB = """
import hashlib, json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
folder, sha = Path(sys.argv[1]), "0" * 40
class Hub(BaseHTTPRequestHandler):
    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": sha, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/user/model/tree/"):
            files = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in folder.iterdir()]
            self.answer(json.dumps(files).encode(), **{"Content-Type": "application/json"})
        elif path.startswith("/api/models/user/model"):
            files = [{"rfilename": p.name} for p in folder.iterdir()]
            info = {"id": "user/model", "modelId": "user/model", "sha": sha, "siblings": files, "private": False,
                    "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False}
            self.answer(json.dumps(info).encode(), **{"Content-Type": "application/json"})
        elif path.startswith("/user/model/resolve/") and (folder / path.split("/")[-1]).exists():
            body = (folder / path.split("/")[-1]).read_bytes()
            self.answer(body, ETag='"' + hashlib.sha1(body).hexdigest() + '"')
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def test_from_pretrained_by_hub_name(capsys, run, tmp_path):
    """The hub's client reads its address when it is imported: hence another process."""
    pytest.importorskip("huggingface_hub")
    assert call(capsys, "export", run, "--to", "hub", "--out", tmp_path / "hub")[0] == 0
    with subprocess.Popen([sys.executable, "-c", HUB, tmp_path / "hub"], stdout=subprocess.PIPE, text=True) as server:
        try:
            address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
            words = [sys.executable, "-m", "biggan", "sample", "user/model", "--n", "3", "--out", str(tmp_path / "drawn")]
            done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
            absent = subprocess.run(
                [*words[:4], "user/absent"], capture_output=True, text=True, env=environment, cwd=tmp_path
            )
        finally:
            server.kill()
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 3
    assert absent.returncode == 2
    assert "by hand" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_pushing_to_the_hub(capsys, run, tmp_path, monkeypatch):
    """The hub's client is asked for a repository and given the folder; what it refuses is one line."""
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    class Client:
        def create_repo(self, name, **options):
            asked.append((name, options))

        def upload_folder(self, **options):
            asked.append(options)

    monkeypatch.setattr(hub, "HfApi", Client)
    words = ["export", run, "--to", "hub", "--out", tmp_path / "hub", "--push", "user/model"]
    code, out, _ = call(capsys, *words)
    assert (code, "https://huggingface.co/user/model" in out) == (0, True)
    assert asked == [("user/model", {"exist_ok": True}), {"repo_id": "user/model", "folder_path": str(tmp_path / "hub")}]

    for write_error_message in (hub.errors.HFValidationError("no such name"), RuntimeError("no such name")):

        def refuse(self, name, write_error_message=write_error_message, **options):
            raise write_error_message

        monkeypatch.setattr(Client, "create_repo", refuse)
        code, _, err = call(capsys, *words)
        assert (code, "is ready, but the hub does not take it as user/model (no such name)" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "tflite"], "tflite"),
        (["--to", "onnx", "--push", "user/model"], "goes with --to hub"),
        (["--to", "hub", "--truncation", "0.5"], "goes with --to onnx"),
        (["--to", "onnx", "--truncation", "-1"], "at least 0.001"),
    ],
)
def test_bad_input(capsys, run, words, message, tmp_path):
    code, _, err = call(capsys, "export", run, *words, "--out", tmp_path / "out.onnx")
    assert (code, message in err, len(err.splitlines())) == (2, True, 1)
    assert not (tmp_path / "out.onnx").exists()


def test_places_that_cannot_be_written(capsys, run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for kind in ("onnx", "safetensors"):
        for out in (tmp_path / "folder", tmp_path / "file" / "below"):
            code, _, err = call(capsys, "export", run, "--to", kind, "--out", out)
            assert (code, str(out) in err, len(err.splitlines())) == (2, True, 1)
    code, _, err = call(capsys, "export", run, "--to", "hub", "--out", tmp_path / "file")
    assert (code, len(err.splitlines())) == (2, 1)
    assert not list((tmp_path / "folder").iterdir())


def test_one_file_goes_to_the_hub_as_a_whole_model(capsys, run, tmp_path):
    file = tmp_path / "g.safetensors"
    call(capsys, "export", run, "--to", "safetensors", "--out", file)
    assert call(capsys, "export", file, "--to", "hub", "--out", tmp_path / "hub")[0] == 0
    a, b = (biggan.from_pretrained(path).sample(3, seed=1).images for path in (run, tmp_path / "hub"))
    assert torch.equal(a, b)


def test_no_paths_of_this_machine_are_published(capsys, tmp_path):
    write_pictures(tmp_path / "secret" / "photos", {"a": 8, "b": 8})
    words = ["train", "digits", "--data", tmp_path / "secret" / "photos", "--train.steps", 1, "--run", tmp_path / "run"]
    words += ["--data.cache", tmp_path / "secret" / "cache", "--monitor.held-out", tmp_path / "secret" / "photos"]
    words += ["--eval.extractor-weights", tmp_path / "secret" / "weights.pt"]
    assert call(capsys, *words, *TINY)[0] == 0
    assert call(capsys, "export", tmp_path / "run", "--to", "hub", "--out", tmp_path / "hub")[0] == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert all(
        "secret" not in file.read_text() for file in (tmp_path / "hub").glob("*.*") if file.suffix in (".md", ".json")
    )
    assert "photos" in card


def test_nothing_to_export(capsys, tmp_path):
    code, _, err = call(capsys, "export", tmp_path, "--to", "hub")
    assert (code, "holds no model" in err) == (2, True)
    assert not list(tmp_path.iterdir())
