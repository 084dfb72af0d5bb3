"""biggan import as a user meets it: what is recognized, what the folder is good for, and what is refused."""

import dataclasses
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import call, golden_file
from safetensors.torch import load_file, save_file

import biggan
from biggan.checkpoints.model_dir import ModelDir
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.pretrained import importing
from biggan.pretrained.download import download_released
from biggan.pretrained.importing import find_files, imagenet_names
from biggan.runtime.errors import CheckpointError
from biggan.training.resume import initialize_from, load_except_class_tables
from biggan.training.setup import build_train_state


def test_hugging_face_folder(capsys, hugging_face, tmp_path):
    code, out, _ = call(capsys, "import", hugging_face, "--out", tmp_path / "model")
    assert (code, "biggan-deep, 128 px, width 8, 10 classes" in out) == (0, True)
    sampler = biggan.from_pretrained(tmp_path / "model", precision="fp32")
    golden = load_file(golden_file("hf_biggan_deep_128_tiny.io.safetensors"))
    for truncation in (0.4, None, 1.0, 0.4):
        sampler.set_statistics(truncation)
        expected = golden[f"image_truncation_{truncation or 1.0}"]
        pixels = expected.add(1).mul(127.5).round()
        assert (sampler.images(golden["z"], golden["y"]).float() - pixels).abs().max() <= 1
    middle = (sampler.statistics_table.at(0.4)["output_norm.normalize.standing_mean"]
              + sampler.statistics_table.at(0.42)["output_norm.normalize.standing_mean"]) / 2  # fmt: skip
    sampler.sample(1, truncation=0.41)
    assert torch.allclose(sampler.generator.output_norm.normalize.standing_mean, middle, atol=1e-6)
    words = ["sample", tmp_path / "model", "--n", 4, "--truncation", 0.4, "--out", tmp_path / "drawn"]
    assert call(capsys, *words)[0] == 0
    assert (tmp_path / "drawn-grid.png").exists()
    code, _, err = call(capsys, *words, "--truncation", 1.5)
    assert (code, "at most 1" in err) == (2, True)


def test_biggan_pytorch_folder(capsys, biggan_pytorch, tmp_path):
    code, out, _ = call(capsys, "import", biggan_pytorch, "--out", tmp_path / "model")
    assert (code, "biggan, 32 px, width 8, 10 classes, latent 32" in out) == (0, True)
    folder = ModelDir(tmp_path / "model")
    average, raw = folder.load("generator"), folder.load("training_generator")
    assert torch.allclose(average["linear.weight"], raw["linear.weight"] / 2)
    assert call(capsys, "sample", tmp_path / "model", "--n", 4, "--out", tmp_path / "drawn")[0] == 0
    code, _, err = call(capsys, "import", biggan_pytorch, "--out", tmp_path / "model")
    assert (code, "give another --out" in err) == (2, True)
    code, _, err = call(capsys, "import", tmp_path / "model")
    assert (code, "is a model of biggan already" in err) == (2, True)


def test_fine_tuning_an_imported_model(capsys, biggan_pytorch, tmp_path):
    """The first step starts from the very weights; D comes along; another number of classes draws the tables anew."""
    call(capsys, "import", biggan_pytorch, "--out", tmp_path / "model")
    tiny = ["--train.batch", 8, "--train.standing-stats-batches", 2, "--train.device", "cpu", "--train.precision", "fp32"]
    words = ["train", "digits", "--init-from", tmp_path / "model", "--train.steps", 2, "--run", tmp_path / "run", *tiny]
    code, _, err = call(capsys, *words)
    assert (code, f"starting from the weights of {tmp_path / 'model'}" in err) == (0, True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model"]["width"], config["model"]["latent_injection"]) == (8, "input")
    assert config["init_from"] == str(tmp_path / "model")
    assert "resuming" not in err
    code, _, err = call(capsys, *words, "--train.steps", 3)
    assert (code, "resuming from step 2" in err) == (0, True)
    code, _, err = call(capsys, *words[:4], "--model.width", 16, *words[4:], "--run", tmp_path / "other")
    assert (code, "does not fit" in err) == (2, True)


@pytest.mark.parametrize("classes", [10, 7])
def test_what_a_run_starts_from(capsys, biggan_pytorch, tmp_path, classes, notes):
    call(capsys, "import", biggan_pytorch, "--out", tmp_path / "model")
    folder = ModelDir(tmp_path / "model")
    config = RunConfig(model=dataclasses.replace(folder.card.model, num_classes=classes))
    run = build_train_state(config)
    initialize_from(run, dataclasses.replace(config, init_from=str(tmp_path / "model")))
    parts = {"training_generator": run.generator.network, "generator": run.ema.average}
    parts["discriminator"] = run.discriminator.network
    tables = {"embedding.weight", "head.embedding.weight", "head.embedding.reparametrization.u"}
    for part, network in parts.items():
        state, source = network.state_dict(), folder.load(part)
        different = {name for name in state if state[name].shape != source[name].shape}
        assert different == (set() if classes == 10 else tables & set(state))
        assert all(torch.equal(state[name], source[name]) for name in state if name not in different)
    assert any("initialized anew for 7 classes" in note for note in notes) == (classes == 7)


def test_a_run_starts_from_the_last_checkpoint_of_another(capsys, tmp_path):
    tiny = ["--model.width", 2, "--model.embedding-dim", 8, "--train.batch", 8, "--train.standing-stats-batches", 2]
    words = ["train", "digits", "--train.steps", 2, "--run", tmp_path / "first", *tiny]
    assert call(capsys, *words)[0] == 0
    words = ["train", "digits", "--train.steps", 1, "--run", tmp_path / "second", "--init-from", tmp_path / "first"]
    code, _, err = call(capsys, *words, *tiny[4:], "--train.generator-lr", 1e-12, "--train.discriminator-lr", 1e-12)
    assert code == 0, err
    before, after = (RunDir(tmp_path / name).load_newest().tensors for name in ("first", "second"))
    weights = [name for name in before if name.startswith(("generator/", "discriminator/")) and name.endswith("weight")]
    assert len(weights) > 20
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in weights)


def test_files_of_a_biggan_pytorch_run(tmp_path):
    def touch(*names):
        for name in names:
            (tmp_path / name).touch()

    with pytest.raises(CheckpointError, match=r"nor G\.pth"):
        find_files(tmp_path)
    touch("G_ema_best1.pth", "G_best1.pth", "D_best1.pth", "G_optim_best1.pth", "state_dict_best1.pth")
    assert [file.name for file in find_files(tmp_path)] == ["G_best1.pth", "G_ema_best1.pth", "D_best1.pth"]
    touch("G_best2.pth")
    with pytest.raises(CheckpointError, match="several generators"):
        find_files(tmp_path)
    touch("G_ema.pth", "G_optim.pth", "D_optim.pth", "state_dict.pth")
    assert [file and file.name for file in find_files(tmp_path)] == ["G_ema.pth", None, None]
    touch("G.pth", "D.pth")
    assert [file.name for file in find_files(tmp_path)] == ["G.pth", "G_ema.pth", "D.pth"]


def test_names_of_classes(capsys, biggan_pytorch, tmp_path):
    names = tmp_path / "names.txt"
    words = ["import", biggan_pytorch, "--class-names", names, "--out"]
    assert "cannot be read" in call(capsys, *words, tmp_path / "a")[2]
    names.write_text("a\nb\n")
    assert "holds 2 names, the model has 10 classes" in call(capsys, *words, tmp_path / "a")[2]
    names.write_text("\n".join([*"abcdefghi", "a"]))
    assert "'a' twice" in call(capsys, *words, tmp_path / "a")[2]
    names.write_text("\n".join("abcdefghij"))
    assert call(capsys, *words, tmp_path / "a")[0] == 0
    assert biggan.from_pretrained(tmp_path / "a").class_names == tuple("abcdefghij")


def test_imagenet_classes_by_name(capsys, tmp_path):
    """A model of 1,000 classes takes the names that torchvision's weights carry; a near miss suggests."""
    pytest.importorskip("torchvision")
    tensors = load_file(golden_file("biggan_pytorch_32_tiny.G.safetensors"))
    tensors["shared.weight"] = torch.randn(1000, 32)
    torch.save(tensors, tmp_path / "G.pth")
    assert call(capsys, "import", tmp_path / "G.pth", "--out", tmp_path / "model")[0] == 0
    words = ["sample", tmp_path / "model", "--n", 2, "--out", tmp_path / "drawn", "--classes"]
    assert call(capsys, *words, "golden retriever,daisy")[0] == 0
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["00000-golden_retriever.png", "00001-daisy.png", "samples.json"]
    code, _, err = call(capsys, *words, "golden retriver")
    assert (code, "did you mean 'golden retriever'?" in err) == (2, True)
    names = imagenet_names()
    assert (len(set(names)), names[207], names[985]) == (1000, "golden retriever", "daisy")


def test_a_single_file_brings_its_neighbors(capsys, biggan_pytorch, tmp_path):
    assert call(capsys, "import", biggan_pytorch / "G.pth", "--out", tmp_path / "model")[0] == 0
    assert {path.stem for path in (tmp_path / "model").glob("*.safetensors")} == {
        "generator", "training_generator", "discriminator",
    }  # fmt: skip
    code, _, err = call(capsys, "sample", biggan_pytorch / "G.pth")
    assert (code, "biggan import" in err) == (2, True)


def test_checkpoints_of_whole_runs(capsys, biggan_pytorch, tmp_path):
    """Several networks in one file, with prefixes of wrapper modules and other things beside them."""
    parts = {name: torch.load(biggan_pytorch / f"{name}.pth", weights_only=True) for name in ("G", "G_ema", "D")}
    wrapped = {name: {f"module.{key}": value for key, value in tensors.items()} for name, tensors in parts.items()}
    (tmp_path / "in").mkdir()
    torch.save(wrapped | {"epoch": np.int64(3), "optim": {"state": {}}}, tmp_path / "in" / "last.ckpt")
    code, _, err = call(capsys, "import", tmp_path / "in" / "last.ckpt", "--out", tmp_path / "a")
    assert (code, "the weights are taken from 'G_ema'" in err) == (0, True), err
    assert torch.equal(ModelDir(tmp_path / "a").load("generator")["linear.weight"], parts["G_ema"]["linear.weight"])
    code, _, err = call(capsys, "import", tmp_path / "in", "--out", tmp_path / "b", "--entry", "G")
    assert code == 0, err
    assert torch.equal(ModelDir(tmp_path / "b").load("generator")["linear.weight"], parts["G"]["linear.weight"])
    code, _, err = call(capsys, "import", tmp_path / "in", "--out", tmp_path / "c", "--entry", "H")
    assert (code, "no entry 'H'; it has G, G_ema, D, epoch, optim" in err, len(err.splitlines())) == (2, True, 1)
    words = ["--discriminator", tmp_path / "in" / "last.ckpt"]
    assert call(capsys, "import", tmp_path / "in", "--out", tmp_path / "d", *words)[0] == 0
    assert ModelDir(tmp_path / "d").load("discriminator")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.half(), None),
        (lambda tensor: tensor.double(), None),
        (lambda tensor: tensor.bfloat16(), None),
        (lambda tensor: tensor.long(), "holds numbers of type int64, not weights"),
        (lambda tensor: tensor > 0, "holds numbers of type bool, not weights"),
        (lambda tensor: tensor.double() * 1e300, "not finite"),
        (lambda tensor: tensor.to(torch.complex64), "no dense tensor of real numbers"),
    ],
)
@pytest.mark.parametrize("kind", ["biggan_pytorch", "hugging_face"])
def test_types_of_imported_weights(capsys, request, tmp_path, change, message, kind):
    folder = request.getfixturevalue(kind)
    (file,) = [folder / name for name in ("G_ema.pth", "pytorch_model.bin") if (folder / name).exists()]
    tensors = torch.load(file, weights_only=True)
    name = "blocks.0.0.conv1.bias" if kind == "biggan_pytorch" else "generator.bn.bias"
    tensors[name] = change(tensors[name])
    torch.save(tensors, file)
    code, _, err = call(capsys, "import", folder, "--out", tmp_path / "model")
    if message is None:
        assert (code, "are converted to float32" in err) == (0, True), err
    else:
        assert (code, message in err, len(err.splitlines())) == (2, True, 1), err
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 10**30}, "config.json"),
        ({"num_classes": 10**12, "class_embed_dim": 10**12}, "config.json"),
        ({"eps": float("nan")}, "config.json"),
        ({"n_stats": 10**9}, "statistics for the 1000000000 truncations"),
        ({"n_stats": -1}, "at least 2"),
        ({"attention_layer_position": -1}, "not those of a BigGAN-deep"),
        ({"layers": [[True, 1, 1]] * 1000}, "not those of a BigGAN-deep"),
        ({"layers": "x"}, "layers"),
        ({"x\x1b\n": 1}, "missing or unknown: x\\x1b\\n"),
        ({str(number): 1 for number in range(1000)}, "missing or unknown: 0, 1,"),
        ([], "not an object but list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_configs_of_hugging_face_that_make_no_sense(capsys, hugging_face, tmp_path, change, message):
    file = hugging_face / "config.json"
    text = json.dumps(json.loads(file.read_text()) | change) if isinstance(change, dict) else json.dumps(change)
    file.write_bytes((change if isinstance(change, str) else text).encode("utf-8", "surrogateescape"))
    code, _, err = call(capsys, "import", hugging_face, "--out", tmp_path / "model")
    assert (code, message in err, len(err.splitlines())) == (2, True, 1), err
    assert len(err) < 600


def test_a_folder_that_exists_is_refused_before_the_work(capsys, biggan_pytorch, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "read_imported_model", lambda *words, **options: pytest.fail("it was read"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    code, _, err = call(capsys, "import", biggan_pytorch, "--out", tmp_path / "model")
    assert (code, "give another --out" in err) == (2, True)


def test_the_default_folder_is_named_after_the_source(capsys, biggan_pytorch, tmp_path, monkeypatch):
    monkeypatch.chdir(biggan_pytorch)
    assert call(capsys, "import", ".")[0] == 0
    assert (biggan_pytorch / "models" / "biggan_pytorch" / "config.json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors, card: tensors.pop("output_norm.normalize.standing_mean"), "does not hold 51 sets"),
        (lambda tensors, card: tensors.update(extra=torch.zeros(51, 3)), "does not hold 51 sets"),
        (lambda tensors, card: tensors.update({"output_norm.normalize.standing_mean": torch.zeros(())}), "51 sets"),
        (lambda tensors, card: card["statistics_at"].__setitem__(1, 0.0), "ascending"),
        (
            lambda tensors, card: card["latent"].update(distribution="varied-normal", sigma=[-1, 0]),
            "greater than or",
        ),
    ],
)
def test_a_model_folder_that_contradicts_itself(capsys, hugging_face, tmp_path, spoil, message):
    call(capsys, "import", hugging_face, "--out", tmp_path / "model")
    files = {name: tmp_path / "model" / name for name in ("statistics.safetensors", "config.json")}
    tensors, card = load_file(files["statistics.safetensors"]), json.loads(files["config.json"].read_text())
    del card["sha256"]  # as in a folder of an earlier version: otherwise the checksum tells first
    spoil(tensors, card)
    save_file(tensors, files["statistics.safetensors"])
    files["config.json"].write_text(json.dumps(card))
    code, _, err = call(capsys, "sample", tmp_path / "model", "--truncation", 0.5, "--out", tmp_path / "drawn")
    assert (code, message in err, len(err.splitlines())) == (2, True, 1)


@pytest.mark.parametrize(("embedding", "classes"), [(8, (1, 4)), (10, (10, 4)), (4, (10, 4))])
def test_tables_are_told_from_other_sizes_that_equal_the_number_of_classes(embedding, classes):
    config = BigGANConfig(resolution=32, width=2, embedding_dim=embedding)
    there, here = (registry.build_networks(dataclasses.replace(config, num_classes=k), torch.Generator()) for k in classes)
    for source, network in zip(there, here, strict=True):
        left = load_except_class_tables(network, source.state_dict(), classes, "it")
        assert all("embedding" in name for name in left)
        assert left


def test_unknown_sources(capsys):
    code, _, err = call(capsys, "import", "nothing")
    assert (code, "no file or folder nothing" in err) == (2, True)


@pytest.fixture
def serve():
    """A function that serves a handler on localhost and gives its address."""
    servers = []

    def start(handler) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Cut(BaseHTTPRequestHandler):
    """Promises more bytes than it sends."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"short")

    def log_message(self, *args):
        pass


def test_released_files_are_fetched_once(hugging_face, tmp_path, serve, notes):
    served = tmp_path / "served"
    served.mkdir()
    for kind in ("config.json", "pytorch_model.bin"):
        (served / f"biggan-deep-128-{kind}").write_bytes((hugging_face / kind).read_bytes())
    address = serve(partial(Quiet, directory=served))
    for _ in range(2):
        folder = download_released("biggan-deep-128", tmp_path / "cache", address=address)
    assert (folder / "pytorch_model.bin").read_bytes() == (hugging_face / "pytorch_model.bin").read_bytes()
    assert sum("pytorch_model.bin" in note for note in notes) == 1, "the second time it is there"
    with pytest.raises(CheckpointError, match=f"fetch {address}/biggan-deep-256-config.json and .* by hand"):
        download_released("biggan-deep-256", tmp_path / "cache", address=address)


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, serve):
    with pytest.raises(CheckpointError, match="by hand"):
        download_released("biggan-deep-128", tmp_path / "cache", address=serve(Cut))
    assert not list((tmp_path / "cache" / "biggan-deep-128").iterdir())
