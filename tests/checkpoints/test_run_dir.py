"""Checkpoints: whole or not at all, verified, pruned; a run folder belongs to one run."""

import dataclasses
import hashlib
import json
import os
import resource
import signal

import pytest
import torch
from conftest import tiny_config

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint
from biggan.configs.json_io import from_json, to_json
from biggan.configs.run import RunConfig
from biggan.runtime.errors import CheckpointError, ConfigError

TENSORS = {"a": torch.arange(1000.0), "b": torch.tensor(3, dtype=torch.int64)}


@pytest.fixture
def folder(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim(tiny_config())
    return run


def load_quietly(folder, notes):
    """The newest checkpoint, of which there is nothing to say."""
    notes.clear()
    newest = folder.load_newest()
    assert not notes
    return newest


def test_round_trip_and_pruning(folder, notes):
    for step in (1, 2, 3):
        folder.save(step, {"a": TENSORS["a"] + step}, {"seconds": 1.5 * step}, keep=2)
    assert [path.name for path in folder.list_checkpoints()] == ["step-00000002", "step-00000003"]
    newest = load_quietly(folder, notes)
    assert (newest.step, newest.counters) == (3, {"seconds": 4.5})
    assert torch.equal(newest.tensors["a"], TENSORS["a"] + 3)


def test_no_checkpoint_yet(folder, notes):
    assert load_quietly(folder, notes) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "no tensors", "bad manifest"])
def test_a_damaged_newest_is_reported_and_the_one_before_is_used(folder, damage, notes):
    folder.save(1, TENSORS, {}, keep=2)
    newest = folder.save(2, TENSORS, {}, keep=2)
    file = newest / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[:-100])
    elif damage == "flipped bit":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "no tensors":
        file.unlink()
    else:
        (newest / "manifest.json").write_text("{")
    assert folder.load_newest().step == 1
    assert "step-00000002" in notes[0]
    assert "damaged" in notes[0]
    folder.save(2, TENSORS, {}, keep=1)
    assert load_quietly(folder, notes).step == 2, "the damaged one does not count among those that are kept"


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7},
        {"step": "2"},
        {"step": -1},
        {"step": 10**400},
        {"counters": {"seconds": 1.0, "rollbacks": 9}},
        {"counters": []},
        {"counters": {"seconds": "1"}},
        {"counters": {"seconds": float("nan")}},
        {"bytes": 10**30},
        {"bytes": "many"},
        {"sha256": None},
        {"sha256": ["x"]},
        {"format": 99},
        {"format": [2]},
        {"more": 1},
    ],
    ids=str,
)
def test_every_fact_of_a_manifest_is_under_the_checksum(folder, change, notes):
    folder.save(1, TENSORS, {"seconds": 1.0}, keep=2)
    file = folder.save(2, TENSORS, {"seconds": 2.0}, keep=2) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    newest = folder.load_newest()
    assert (newest.step, newest.counters) == (1, {"seconds": 1.0})
    assert "step-00000002 is damaged" in notes[0]
    assert len(notes[0].splitlines()) == 1


@pytest.mark.parametrize("text", ["[]", "null", "1", "[" * 100_000, "\ud800", '{"step": ' + "1" * 5000 + "}", ""])
def test_a_manifest_that_is_none_gives_way_to_the_one_before(folder, text):
    folder.save(1, TENSORS, {}, keep=2)
    (folder.save(2, TENSORS, {}, keep=2) / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    assert folder.load_newest().step == 1


def test_a_manifest_that_is_no_file_is_not_waited_for(folder):
    folder.save(1, TENSORS, {}, keep=2)
    file = folder.save(2, TENSORS, {}, keep=2) / "manifest.json"
    file.unlink()
    os.mkfifo(file)
    assert folder.load_newest().step == 1


def test_checkpoints_of_version_0_1_are_read(folder):
    """Their checksum is over the tensors alone."""
    path = folder.save(5, TENSORS, {"seconds": 3.0}, keep=2)
    data = (path / "tensors.safetensors").read_bytes()
    old = {"step": 5, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "counters": {"seconds": 3.0}}
    (path / "manifest.json").write_text(json.dumps(old))
    assert (folder.load_newest().step, folder.load_newest().counters) == (5, {"seconds": 3.0})


@pytest.mark.parametrize("text", ["{", "[]", '{"diverged": -1}', '{"diverged": "x"}', '{"else": 1}', "[" * 100_000])
def test_rollbacks_that_are_none(folder, text):
    (folder.path / "rollbacks.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"rollbacks.json cannot be read .*: remove it to forget the rollbacks"
    ) as error:
        folder.load_rollbacks()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"step": "1"}', '{"step": 1, "score": 2, "value": 1}', "[" * 100_000])
def test_a_best_score_that_is_none_counts_for_nothing(folder, text):
    folder.best_model.mkdir()
    folder.best_file.write_text(text)
    assert folder.best() is None
    assert folder.best_model_hint().startswith("the last model is")


def test_only_damaged_ones_are_an_error(folder):
    (folder.save(1, TENSORS, {}, keep=2) / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        folder.load_newest()


def test_a_disk_that_does_not_take_it_leaves_the_old_one(folder, notes):
    """The size limit of the process stands for a full disk: the system refuses the write half way."""
    folder.save(1, TENSORS, {}, keep=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            folder.save(2, TENSORS, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_quietly(folder, notes).step == 1
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-00000001"]
    folder.save(2, TENSORS, {}, keep=1)
    assert torch.equal(read_checkpoint(folder.list_checkpoints()[0]).tensors["b"], TENSORS["b"])


def test_a_half_written_checkpoint_is_no_checkpoint(folder, notes):
    scratch = folder.checkpoints / ".step-00000009.writing"
    scratch.mkdir()
    (scratch / "manifest.json").write_text("{}")
    assert load_quietly(folder, notes) is None
    folder.save(9, TENSORS, {}, keep=2)
    assert load_quietly(folder, notes).step == 9


def test_a_folder_of_another_run_is_refused_with_the_fields(folder):
    folder.claim(tiny_config(batch=32))
    folder.claim(tiny_config())  # without a checkpoint there is nothing to lose
    folder.save(1, TENSORS, {}, keep=1)
    other = tiny_config(batch=16, steps=9)
    with pytest.raises(CheckpointError, match=r"train\.batch: 8 there, 16 here") as caught:
        folder.claim(other)
    assert "steps" not in str(caught.value), "more steps are no other run"
    folder.claim(tiny_config(steps=9))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no run"):
        RunDir(tmp_path / "photos").claim(tiny_config())
    assert (tmp_path / "photos" / "me.png").exists()


def test_a_folder_whose_claim_was_cut_short_can_be_claimed(tmp_path):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / ".config.json.writing").write_text("{")
    RunDir(tmp_path / "run").claim(tiny_config())
    assert (tmp_path / "run" / "config.json").exists()


def test_config_round_trip(tmp_path):
    config = dataclasses.replace(tiny_config(micro_batch=4), preset="mine")
    assert from_json(to_json(config), RunConfig, tmp_path) == config


def test_unknown_keys_and_bad_values_in_json(tmp_path):
    data = json.loads(to_json(tiny_config()))
    data["train"]["bacth"] = 3
    with pytest.raises(ConfigError, match="unknown key 'bacth'; did you mean 'batch'"):
        from_json(json.dumps(data), RunConfig, tmp_path)
    data = json.loads(to_json(tiny_config()))
    data["train"]["batch"] = "many"
    with pytest.raises(ConfigError, match=r"train\.batch='many'"):
        from_json(json.dumps(data), RunConfig, tmp_path)
