"""Runs and models of somebody else: links that lead out, numbers that are none, tensors that are missing or exchanged."""

import json
import os
import shutil
import struct

import pytest
import safetensors.torch
import torch
from conftest import call
from PIL import Image

from biggan.checkpoints.model_dir import ModelDir
from biggan.checkpoints.run_dir import RunDir
from biggan.cli.main import main
from biggan.data.sources import public_name
from biggan.pretrained.export import export_hub, export_safetensors
from biggan.runtime.errors import CheckpointError

WORDS = ["--train.batch", 8, "--train.discriminator-steps", 1, "--model.width", 2, "--model.embedding-dim", 8]
WORDS += ["--train.device", "cpu", "--train.standing-stats-batches", 1, "--train.checkpoint-every", 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in ("train", "digits", "--run", run, *WORDS, "--train.steps", 2)])
    assert not exit_.value.code
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def change_newest(run, change):
    """Write the newest checkpoint anew, with a right checksum, after `change` of its tensors."""
    folder = RunDir(run)
    checkpoint = folder.load_newest()
    change(checkpoint.tensors)
    folder.save(checkpoint.step, checkpoint.tensors, checkpoint.counters, keep=2)


def fails(capsys, *words):
    """The one line of a command that is refused."""
    code, _, err = call(capsys, *words)
    assert code == 2, err
    assert "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize("name", ["samples", "checkpoints", "model", "best"])
def test_nothing_is_written_through_links_in_a_run(name, run, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    if (run / name).exists():
        shutil.move(run / name, outside)
    (run / name).symlink_to(outside / name if (outside / name).exists() else outside)
    before = sorted(outside.rglob("*"))
    line = fails(capsys, "train", "digits", "--run", run, *WORDS, "--train.steps", 3)
    assert f"{run / name} is a link, through which nothing is written" in line
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize(("name", "words"), [("analysis", ["analyze"]), ("export", ["export", "--to", "safetensors"])])
def test_nor_through_a_link_at_a_default_place(name, words, run, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (run / name).symlink_to(tmp_path / "outside")
    assert "is a link" in fails(capsys, words[0], run, *words[1:])
    assert not list((tmp_path / "outside").iterdir())


def test_alarms_and_the_lock_are_no_links(run, tmp_path, capsys):
    (tmp_path / "precious").write_text("text")
    (run / "alarms.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match=r"alarms|run"):
        RunDir(run).append_alarms([{"rule": "x", "step": 1}])
    (run / ".lock").symlink_to(tmp_path / "precious")
    assert ".lock is a link" in fails(capsys, "train", "digits", "--run", run, *WORDS, "--train.steps", 3)
    assert (tmp_path / "precious").read_text() == "text"


def test_a_sheet_that_links_to_a_secret_is_not_published(run, tmp_path, notes):
    (tmp_path / "secret").write_text("secret")
    (run / "samples" / "step-99999999.png").symlink_to(tmp_path / "secret")
    export_hub(run, tmp_path / "hub")
    with Image.open(tmp_path / "hub" / "samples.png") as sheet:
        assert sheet.format == "PNG"
    (run / "samples" / "step-99999999.png").unlink()
    (run / "samples" / "step-99999999.png").write_text("no image")
    export_hub(run, tmp_path / "hub")
    assert not (tmp_path / "hub" / "samples.png").exists()
    assert "is no image" in notes[-1]


def test_a_checkpoint_moved_to_another_disk_behind_a_link_is_pruned(run, tmp_path, capsys):
    oldest = RunDir(run).list_checkpoints()[0]
    shutil.move(oldest, tmp_path / "elsewhere")
    oldest.symlink_to(tmp_path / "elsewhere")
    code, _, err = call(capsys, "train", "digits", "--run", run, *WORDS, "--train.steps", 4)
    assert code == 0, err
    assert not os.path.lexists(oldest)
    assert (tmp_path / "elsewhere" / "manifest.json").exists()


def without_model(run):
    shutil.rmtree(run / "model")
    return run


def test_samples_of_a_checkpoint_with_numbers_that_are_not_finite(run, tmp_path, capsys):
    change_newest(without_model(run), lambda tensors: tensors["ema/linear.weight"].fill_(torch.nan))
    assert "not finite" in fails(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_checkpoint_without_its_generator_is_no_model(run, tmp_path, capsys):
    def remove(tensors):
        for name in [name for name in tensors if name.startswith("ema/")]:
            del tensors[name]

    change_newest(without_model(run), remove)
    assert "holds no averaged generator" in fails(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")


def test_images_that_are_not_finite_are_not_images(run, tmp_path, capsys):
    """Finite weights whose product overflows."""
    card = json.loads((run / "model" / "config.json").read_text())
    tensors = ModelDir(run).load("generator")
    tensors["linear.weight"].fill_(3e38)
    tensors[next(name for name in tensors if name.endswith(".u"))].fill_(1e-30)
    safetensors.torch.save_file(tensors, run / "model" / "generator.safetensors")
    (run / "model" / "config.json").write_text(json.dumps(card | {"sha256": {}}))
    for words in (["sample", run, "--n", 2, "--out", tmp_path / "out"], ["mix", run, "--classes", "1:1,2:1"]):
        line = fails(capsys, *words, *(["--out", tmp_path / "m.png"] if words[0] == "mix" else []))
        assert "images hold numbers that are not finite" in line
    assert not list((tmp_path / "out").glob("*.png"))
    pytest.importorskip("onnxruntime")
    fails(capsys, "export", run, "--to", "onnx", "--out", tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()


FITTING = ["generator_optimizer/linear.weight/exp_avg", "discriminator/head.linear.weight", "ema/linear.weight"]


@pytest.mark.parametrize("change", ["missing", "misshaped"])
@pytest.mark.parametrize(
    "name", ["generator_optimizer/linear.weight/exp_avg", "discriminator/head.linear.weight", "ema/linear.weight"]
)
def test_tensors_that_do_not_fit_are_one_line(change, name, run, tmp_path, capsys):
    def spoil(tensors):
        assert name in tensors
        tensors[name] = torch.zeros(1, 1, 1)
        if change == "missing":
            del tensors[name]

    change_newest(run, spoil)
    start = ["--init-from", f"{run}@2", "--train.optimizer-state", "keep", "--run", tmp_path / "next"]
    line = fails(capsys, "train", "digits", *WORDS, "--train.steps", 3, *start)
    assert "linear.weight" in line or "[128, 20]" in line
    digits = ["--data", "embedded:digits", "--held-out", "embedded:digits", "--n", 10]
    if not name.startswith("generator_optimizer"):
        assert "linear.weight" in fails(capsys, "memorization", run, *digits)


def test_exchanged_tensors_of_an_exported_file_are_noticed(run, tmp_path):
    """Their places in the header, which are no part of the bytes of the tensors."""
    file = export_safetensors(run, tmp_path / "g.safetensors")
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    shapes = {}
    for name, entry in header.items():
        if name != "__metadata__":
            shapes.setdefault((entry["dtype"], tuple(entry["shape"])), []).append(name)
    one, other = next(names for names in shapes.values() if len(names) > 1)[:2]
    header[one]["data_offsets"], header[other]["data_offsets"] = header[other]["data_offsets"], header[one]["data_offsets"]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    file.write_bytes(data[:8] + text + data[8 + size :])
    with pytest.raises(CheckpointError, match="checksum is wrong"):
        ModelDir(file).load("generator")


@pytest.mark.parametrize("to", ["hub", "safetensors"])
def test_an_export_does_not_overwrite_what_it_exports(to, run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out = run if to == "hub" else run / "model" / "generator.safetensors"
    overwrite = ["--overwrite"] if to == "hub" else []
    assert "that is exported: give another --out" in fails(capsys, "export", run, "--to", to, "--out", out, *overwrite)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_rollbacks_beyond_all_reason(run, capsys):
    (run / "rollbacks.json").write_text('{"collapsed": 2000}')
    line = fails(capsys, "train", "digits", "--run", run, *WORDS, "--train.steps", 3)
    assert "remove it to forget the rollbacks" in line


def test_plots_of_absurd_logs(run, capsys):
    lines = [
        {"step": 3, "G/loss": 1e308, "D/loss_real": -1e308, "class_norm/\u732b": [1.0, 1e200]},
        {"step": 4, "G/loss": 1.0},
    ]
    with open(run / "stats.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*lines, {"step": 5, "class_norm/x": 3.0}])
    code, out, err = call(capsys, "analyze", run)
    assert (code, len(err.splitlines())) == (0, 1), err
    assert "line 4 is not what a run writes" in err
    assert "plot" in out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.norm_epsilon", 1e308),
        ("model.spectral_norm_epsilon", 1e308),
        ("model.generator.dilation", 1 << 20),
        ("latent.sigma", [1, 1e-320]),
    ],
)
def test_settings_that_no_network_can_have(field, value, run, tmp_path, capsys):
    file = run / "model" / "config.json"
    card = json.loads(file.read_text())
    *parents, name = field.split(".")
    part = card
    for parent in parents:
        part = part[parent]
    part[name] = value
    if name == "sigma":
        part["distribution"] = "annealed-normal"
    file.write_text(json.dumps(card))
    assert name in fails(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")


def test_statistics_with_a_tensor_too_many(run, tmp_path, capsys):
    file = run / "model" / "statistics.safetensors"
    buffers = {name: value for name, value in ModelDir(run).load("generator").items() if "standing" in name}
    table = {name: torch.stack([value, value]) for name, value in buffers.items()}
    safetensors.torch.save_file(table | {"x": torch.zeros(2, dtype=torch.int64)}, file)
    card = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps(card | {"statistics_at": [0.5, 1.0], "sha256": {}}))
    assert "statistics.safetensors does not hold" in fails(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")


def test_scores_that_are_not_finite_are_not_published(run, tmp_path):
    (run / "metrics").mkdir()
    (run / "metrics" / "a.json").write_text('{"scores": {"fid": {"value": NaN, "images": 10}}}')
    (run / "metrics" / "b.json").symlink_to(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot be read: remove the file"):
        export_hub(run, tmp_path / "hub")
    (run / "metrics" / "a.json").unlink()
    with open(run / "stats.jsonl", "a") as file:
        file.write('{"step": 3, "G/loss": NaN, "D/loss_real": -Infinity, "D/loss_fake": 0.5}\n')
    export_hub(run, tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "| D/loss_fake | 0.5 |" in text
    assert "nan" not in text.split("## Measured")[1]
    assert "inf" not in text.split("## Measured")[1]


def test_secrets_and_local_paths_are_not_published():
    for source, published in {
        "folder:/home/me/photos": "folder:photos",
        "/home/me/photos": "photos",
        "zip:/home/me/secret/a.zip:train": "zip:a.zip:train",
        "wds:pipe:AWS_SECRET_ACCESS_KEY=1 cat /abs/a.tar # s3://bucket/x": "wds:pipe",
        'wds:pipe:curl -H "Authorization: Bearer T" https://host/x.tar': "wds:pipe",
        "wds:https://me:pw@host/set?token=1": "wds:https://host/set",
        "hf:uoft-cs/cifar10:train": "hf:uoft-cs/cifar10:train",
        "embedded:digits": "embedded:digits",
    }.items():
        assert public_name(source) == published


def test_logs_kept_by_a_rollback_do_not_go_through_links(run, tmp_path):
    (tmp_path / "outside").mkdir()
    (run / "rollback-1").symlink_to(tmp_path / "outside")
    folder = RunDir(run)
    with pytest.raises(CheckpointError, match="rollback-1 is a link"):
        folder.roll_back_to(folder.list_checkpoints()[0], {"collapsed": 1})
    (run / "rollback-1").unlink()
    (run / "rollback-1").mkdir()
    (tmp_path / "victim").write_text("mine")
    (run / "rollback-1" / "stats.jsonl").symlink_to(tmp_path / "victim")
    folder.roll_back_to(folder.list_checkpoints()[0], {"collapsed": 1})
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_checkpoint_named_for_another_step_is_damaged(run, notes):
    newest = RunDir(run).list_checkpoints()[-1]
    newest.rename(newest.with_name("step-00000009"))
    assert RunDir(run).load_newest(set_aside=False).step == 1
    assert "it is of step 2, not of that in its name" in notes[-1]


@pytest.mark.parametrize("spoil", ["no optimizer", "another type"])
def test_a_run_does_not_go_on_with_less_or_with_other_numbers(spoil, run, capsys):
    def change(tensors):
        for name in list(tensors):
            if spoil == "no optimizer" and "_optimizer/" in name:
                del tensors[name]
            elif spoil == "another type" and name.startswith("ema/") and tensors[name].is_floating_point():
                tensors[name] = tensors[name].to(torch.int64)

    change_newest(run, change)
    line = fails(capsys, "train", "digits", "--run", run, *WORDS, "--train.steps", 3)
    assert ("holds no optimizer state" if spoil == "no optimizer" else "int64") in line


def test_a_sparse_file_is_not_read_to_its_end(run, capsys, tmp_path):
    file = run / "model" / "generator.safetensors"
    with open(file, "r+b") as stream:
        stream.truncate(1 << 40)
    assert "1,099,511,627,776 bytes, not the" in fails(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")
