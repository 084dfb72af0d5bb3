"""A run that is stopped, in whatever way, and started again ends exactly where an undisturbed one does."""

import json

import pytest
import torch
from conftest import tiny_config

import biggan
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint
from biggan.configs.run import resolve
from biggan.data.dataset import dataset_info, open_source
from biggan.training.trainer import fit


def train(config, path):
    """One call of fit in this process; the run folder."""
    source = open_source(config.data.source, config.model.resolution, flip=config.data.flip)
    folder = RunDir(path)
    config = resolve(config, dataset_info(source))
    folder.claim(config)
    fit(config, source, folder)
    return folder


def final_tensors(folder):
    """Everything in the last checkpoint but the statistics for sampling, which training does not use."""
    tensors = read_checkpoint(folder.list_checkpoints()[-1]).tensors
    return {name: tensor for name, tensor in tensors.items() if "standing" not in name}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu(tmp_path, precision):
    """Two steps, resumed for two more, then sampling: on the device, and from its model on the CPU."""
    for steps in (2, 4):
        folder = train(tiny_config(steps=steps, precision=precision, device="cuda", micro_batch=4), tmp_path / "run")
    samples = [biggan.from_pretrained(folder.path, device=d, precision="fp32").sample(8).images for d in ("cuda", "cpu")]
    assert (samples[0].int() - samples[1].int()).abs().float().mean() < 1


def test_resuming_in_static_buffers_is_equal_to_the_bit(tmp_path):
    """Two and two steps in static buffers, against four that run as they come."""
    whole = train(tiny_config(steps=4, capture="off"), tmp_path / "whole")
    for steps in (2, 4):
        parts = train(tiny_config(steps=steps, capture="on"), tmp_path / "parts")
    assert_same(final_tensors(whole), final_tensors(parts))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_four_steps_are_two_and_two(tmp_path, precision, notes):
    whole = train(tiny_config(steps=4, precision=precision), tmp_path / "whole")
    train(tiny_config(steps=2, precision=precision), tmp_path / "parts")
    notes.clear()
    parts = train(tiny_config(steps=4, precision=precision), tmp_path / "parts")
    assert "resuming from step 2" in notes[0]
    assert_same(final_tensors(whole), final_tensors(parts))
    logs = [[json.loads(line) for line in run.stats_file.read_text().splitlines()] for run in (whole, parts)]
    for one, other in zip(*logs, strict=True):
        clocks = {"seconds", "images_per_second", "mfu", "data_wait"}
        assert {k: v for k, v in one.items() if k not in clocks} == {k: v for k, v in other.items() if k not in clocks}
    models = [(run.model / "generator.safetensors").read_bytes() for run in (whole, parts)]
    assert models[0] == models[1]


@pytest.mark.parametrize("frozen", ["generator_lr", "discriminator_lr"])
def test_with_a_player_that_never_moves(frozen, tmp_path):
    whole = train(tiny_config(steps=4, **{frozen: 0.0}), tmp_path / "whole")
    for steps in (2, 4):
        parts = train(tiny_config(steps=steps, **{frozen: 0.0}), tmp_path / "parts")
    assert_same(final_tensors(whole), final_tensors(parts))


def test_a_damaged_line_in_the_log_is_dropped(tmp_path):
    folder = train(tiny_config(steps=2), tmp_path / "run")
    folder.stats_file.write_text(folder.stats_file.read_text() + "\0\0\0\n{\n[]\n")
    train(tiny_config(steps=3), tmp_path / "run")
    assert [json.loads(line)["step"] for line in folder.stats_file.read_text().splitlines()] == [1, 2, 3]


def test_damage_is_reported_and_training_goes_on_from_before(tmp_path, notes):
    train(tiny_config(steps=4, checkpoint_every=2), tmp_path / "run")
    whole = final_tensors(RunDir(tmp_path / "run"))
    newest = RunDir(tmp_path / "run").list_checkpoints()[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    notes.clear()
    folder = train(tiny_config(steps=4, checkpoint_every=2), tmp_path / "run")
    assert "damaged" in notes[0]
    assert "resuming from step 2" in notes[1]
    assert_same(whole, final_tensors(folder))


def test_a_finished_run_says_so_and_has_its_model(tmp_path, notes):
    """Also when it was killed after its last checkpoint and before its model was written."""
    folder = train(tiny_config(steps=2), tmp_path / "run")
    model = (folder.model / "generator.safetensors").read_bytes()
    (folder.model / "generator.safetensors").unlink()
    notes.clear()
    train(tiny_config(steps=2), tmp_path / "run")
    assert "already at step 2" in notes[-1]
    assert (folder.model / "generator.safetensors").read_bytes() == model
