"""Collected standing statistics are kept: the same images to the bit, for exactly what they were collected for."""

import os

import pytest
import torch

import biggan
from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.sampling import sampler as sampler_module
from biggan.sampling.latents import LatentConfig
from biggan.sampling.sampler import Sampler


@pytest.fixture
def folder(tmp_path, generator):
    config = BigGANConfig(resolution=32, num_classes=3, width=2)
    network, _ = registry.build_networks(config, generator)
    card = ModelCard(model=config, class_names=("a", "b", "c"), step=0, trained_on="nothing")
    save_model_dir(tmp_path / "model", card, {"generator": network.state_dict()})
    return tmp_path / "model"


@pytest.fixture
def collected(monkeypatch):
    """The truncations for which statistics were collected."""
    found, collect = [], Sampler.collect_statistics
    monkeypatch.setattr(Sampler, "collect_statistics", lambda self, t: (found.append(t), collect(self, t))[1])
    return found


def draw(folder, tmp_path, truncation=0.5, **changes):
    """Two images of a new sampler."""
    sampler = biggan.from_pretrained(folder, device="cpu", precision="fp32", cache=tmp_path / "cache")
    for name, value in changes.items():
        setattr(sampler, name, value)
    return sampler.sample(2, truncation=truncation).images


def test_the_images_are_the_same_to_the_bit(folder, tmp_path, collected):
    first = draw(folder, tmp_path, statistics_cache=None)
    missed = draw(folder, tmp_path)
    assert collected == [0.5, 0.5]
    found = draw(folder, tmp_path)
    assert collected == [0.5, 0.5], "the third sampler found them"
    assert torch.equal(first, missed)
    assert torch.equal(first, found)


def test_they_hold_for_what_they_were_collected_for_alone(folder, tmp_path, collected):
    draw(folder, tmp_path)
    others = (
        {"truncation": 0.25},
        {"standing_stats_batches": 3},
        {"standing_stats_batch_size": 8},
        {"standing_stats_seed": 1},
        {"prior": LatentConfig(distribution="censored-normal").build()},
    )
    for count, change in enumerate(others, start=2):
        draw(folder, tmp_path, **change)
        assert len(collected) == count, change
    sampler = biggan.from_pretrained(folder, device="cpu", precision="fp32", cache=tmp_path / "cache")
    with torch.no_grad():
        next(sampler.generator.parameters()).mul_(1.01)
    sampler.sample(1, truncation=0.5)
    assert len(collected) == len(others) + 2, "other weights"


def test_a_damaged_file_is_replaced(folder, tmp_path, collected):
    first = draw(folder, tmp_path)
    (file,) = (tmp_path / "cache" / "statistics").iterdir()
    data = file.read_bytes()
    for damaged in (b"", data[:100], data[:-1] + bytes([data[-1] ^ 1]), b"0" * len(data)):
        file.write_bytes(damaged)
        assert torch.equal(draw(folder, tmp_path), first)
        assert file.read_bytes() == data
    assert len(collected) == 5


def test_a_cache_that_cannot_be_written(folder, tmp_path, notes):
    (tmp_path / "cache").write_text("a file")
    first = draw(folder, tmp_path)
    assert torch.equal(first, draw(folder, tmp_path, statistics_cache=None))
    assert any("not kept" in note for note in notes)


def test_no_home_folder_is_no_cache(folder, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("biggan.pretrained.default_cache", no_home)
    assert biggan.from_pretrained(folder, device="cpu", precision="fp32").statistics_cache is None


def test_a_long_collection_is_announced(folder, tmp_path, notes, monkeypatch):
    monkeypatch.setattr(sampler_module, "NOTE_SECONDS", float("inf"))
    draw(folder, tmp_path)
    assert notes == []
    monkeypatch.setattr(sampler_module, "NOTE_SECONDS", 0)
    draw(folder, tmp_path, truncation=0.3)
    assert any(note.startswith("collecting standing statistics for truncation 0.3: 32 batches") for note in notes)
    assert len(os.listdir(tmp_path / "cache" / "statistics")) == 2
