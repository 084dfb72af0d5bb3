"""The model folder: verified whenever it is read, also by folders of earlier versions and while a run renews it."""

import dataclasses
import json
import os

import pytest
import torch
from conftest import call
from safetensors.torch import load_file, save_file

import biggan
from biggan.checkpoints import model_dir
from biggan.checkpoints.model_dir import ModelCard, ModelDir, save_model_dir
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.pretrained.export import export_safetensors
from biggan.runtime import atomic_io
from biggan.runtime.errors import CheckpointError

CONFIG = BigGANConfig(resolution=32, num_classes=2, width=2, embedding_dim=4)
CARD = ModelCard(model=CONFIG, class_names=("a", "b"), step=1, trained_on="nothing")


def networks(seed=0):
    g, d = registry.build_networks(CONFIG, torch.Generator().manual_seed(seed))
    return {"generator": g.state_dict(), "discriminator": d.state_dict()}


@pytest.fixture
def folder(tmp_path):
    save_model_dir(tmp_path / "model", CARD, networks())
    return tmp_path / "model"


def opened(folder):
    return biggan.from_pretrained(folder, device="cpu", precision="fp32")


def resave(folder, change, name="generator"):
    """Another file in the place of the first, as in a folder without checksums."""
    file = folder / f"{name}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    card = json.loads((folder / "config.json").read_text())
    card.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps(card))


def test_every_flipped_byte_is_noticed(folder):
    file = folder / "generator.safetensors"
    data = file.read_bytes()
    for place in [*range(0, 200, 13), *range(200, len(data), len(data) // 20), len(data) - 1]:
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"generator.safetensors (is damaged: its checksum|cannot be read)"):
            opened(folder)
    file.write_bytes(data)
    assert opened(folder).sample(2).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_files_of_another_model_are_not_taken_for_its_own(name, folder, tmp_path):
    save_model_dir(tmp_path / "other", CARD, networks(seed=1))
    os.replace(tmp_path / "other" / f"{name}.safetensors", folder / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors is damaged: its checksum is wrong"):
        ModelDir(folder).load(name)


def test_a_folder_of_an_earlier_version_has_no_checksums(folder):
    resave(folder, lambda tensors: None)
    assert opened(folder).sample(1)
    assert ModelDir(folder).card.sha256 == {}


def test_an_exported_file_is_verified_with_its_config(folder, tmp_path):
    file = export_safetensors(folder, tmp_path / "g.safetensors")
    assert torch.equal(opened(file).sample(2).images, opened(folder).sample(2).images)
    data = file.read_bytes()
    for place in (data.index(b"nothing"), len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="is damaged: its checksum is wrong"):
            opened(file)
    tensors, metadata = load_file(folder / "generator.safetensors"), {"config": (folder / "config.json").read_text()}
    save_file(tensors, file, metadata)
    assert opened(file).sample(1), "one of an earlier version"


def test_a_model_that_is_renewed_while_it_is_read(folder):
    first = ModelDir(folder)
    save_model_dir(folder, CARD, networks(seed=1))
    assert torch.equal(first.load("generator")["linear.weight"], networks(seed=1)["generator"]["linear.weight"])


@pytest.mark.parametrize("files_written", [0, 1, 2, 3])
def test_writing_that_is_cut_off_leaves_a_model(files_written, folder, monkeypatch):
    written, original = [], atomic_io.write_stream

    def write(target, blocks):
        if len(written) == files_written:
            raise KeyboardInterrupt
        written.append(target)
        original(target, blocks)

    for module in (model_dir, atomic_io):
        monkeypatch.setattr(module, "write_stream", write)
    with pytest.raises(KeyboardInterrupt):
        save_model_dir(folder, CARD, networks(seed=1))
    assert opened(folder).sample(1)
    assert ModelDir(folder).load("discriminator")


def test_a_file_that_stays_keeps_its_checksum(folder):
    card = ModelDir(folder).card
    save_model_dir(folder, dataclasses.replace(card, step=2), {"discriminator": networks(seed=1)["discriminator"]})
    assert ModelDir(folder).card.sha256["generator"] == card.sha256["generator"]
    assert ModelDir(folder).card.sha256["discriminator"] != card.sha256["discriminator"]
    assert opened(folder)


def put(name, change):
    return lambda tensors: tensors.__setitem__(name, change(tensors[name]).contiguous())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("linear.weight", lambda t: t * float("nan")), "linear.weight holds numbers that are not finite"),
        (put("linear.weight", lambda t: t.double() * 1e300), "linear.weight holds numbers that are not finite"),
        (put("linear.weight", lambda t: t.long()), "linear.weight holds numbers of type int64, not float32 or"),
        (put("linear.weight", lambda t: t > 0), "linear.weight holds numbers of type bool, not float32 or"),
        (put("linear.weight", lambda t: t.to(torch.complex64)), "complex"),
        (put("linear.weight", lambda t: t.to(torch.float8_e5m2)), "float8_e5m2"),
        (put("linear.weight", lambda t: t.T), r"linear.weight is \(\d+, \d+\), not \(\d+, \d+\)"),
        (put("linear.weight", lambda t: t[None]), "linear.weight is"),
        (put("linear.weight", lambda t: t.sum()), r"linear.weight is \(\), not"),
        (lambda tensors: tensors.pop("linear.weight"), "does not fit its config.json: linear.weight is missing$"),
        (
            lambda tensors: tensors.update({"x\x1b\n": torch.ones(1), "y": torch.ones(1)}),
            r"x\\x1b\\n is unknown \(and 1 more\)",
        ),
        (lambda tensors: tensors.clear(), r"is missing \(and \d+ more\)"),
    ],
)
def test_weights_that_are_none(change, message, folder):
    resave(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_converted_and_that_is_said(dtype, folder, notes):
    resave(folder, lambda tensors: [put(name, lambda t: t.to(dtype))(tensors) for name in list(tensors)])
    sampler = opened(folder)
    assert {tensor.dtype for tensor in sampler.generator.state_dict().values()} == {torch.float32}
    assert any(f"weights of {dtype} are converted".replace("torch.", "") in note for note in notes)


@pytest.mark.parametrize("name", ["generator.safetensors", "config.json"])
def test_pipes_in_a_model_folder_are_not_waited_for(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="not a regular file"):
        opened(folder)


@pytest.mark.parametrize("value", ["x", [1], {"generator": 3}, {"generator": None}])
def test_checksums_that_are_none(value, folder):
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(card | {"sha256": value}))
    with pytest.raises(biggan.runtime.errors.UserError, match="sha256"):
        opened(folder)


def test_a_run_does_not_start_from_weights_that_are_not_finite(capsys, folder, tmp_path):
    save_model_dir(folder, CARD, networks())
    words = ["train", "digits", "--run", tmp_path / "run", "--train.steps", 1, "--train.batch", 8, "--init-from", folder]
    for change, message in (
        (put("linear.weight", lambda t: t / 0), "not finite"),
        (put("linear.weight", lambda t: t.int()), "linear.weight is torch.int32 there, torch.float32 here"),
    ):
        save_model_dir(folder, CARD, networks())
        resave(folder, change)
        code, _, err = call(capsys, *words, "--train.device", "cpu")
        assert (code, message in err.splitlines()[-1]) == (2, True), err
