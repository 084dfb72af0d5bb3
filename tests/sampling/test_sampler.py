"""Samples: addressed per image, truncated, with the right statistics, written as PNG."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import biggan
from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.runtime.errors import CheckpointError, ConfigError, UserError
from biggan.sampling.image_io import make_grid
from biggan.sampling.sample_folder import write_samples

NAMES = ("ant", "bee", "walrus")


@pytest.fixture
def model_folder(tmp_path, generator):
    config = BigGANConfig(resolution=32, num_classes=3, width=2)
    g, _ = registry.build_networks(config, generator)
    card = ModelCard(model=config, class_names=NAMES, step=0, trained_on="nothing")
    save_model_dir(tmp_path / "model", card, {"generator": g.state_dict()})
    return tmp_path / "model"


@pytest.fixture
def sampler(model_folder):
    return biggan.from_pretrained(model_folder, device="cpu", precision="fp32")


def test_an_image_does_not_depend_on_the_batch(sampler):
    whole = sampler.sample(7, seed=5, batch=7).images.int()
    parts = sampler.sample(7, seed=5, batch=2).images.int()
    assert (whole - parts).abs().max() <= 1  # uint8 rounding
    fewer = sampler.sample(3, seed=5).images.int()
    assert (whole[:3] - fewer).abs().max() <= 1


def test_seeds_and_classes_change_the_image(sampler):
    base = sampler.sample(1, seed=0, classes=["ant"]).images
    assert not torch.equal(base, sampler.sample(1, seed=1, classes=["ant"]).images)
    assert not torch.equal(base, sampler.sample(1, seed=0, classes=["bee"]).images)


def test_classes_by_name_and_number_in_turn(sampler):
    assert sampler.sample(5, classes=["walrus", 0]).labels.tolist() == [2, 0, 2, 0, 2]
    assert sampler.sample(4).labels.tolist() == [0, 1, 2, 0]
    with pytest.raises(ConfigError, match="did you mean 'walrus'"):
        sampler.sample(1, classes=["walrsu"])
    with pytest.raises(ConfigError, match="no class of index 3"):
        sampler.sample(1, classes=[3])
    with pytest.raises(ConfigError, match="at least 1"):
        sampler.sample(0)


def test_statistics_are_renewed_for_each_truncation(sampler):
    norm = sampler.generator.output_norm.normalize
    sampler.sample(1, truncation=0.1)
    narrow = norm.standing_mean.clone()
    sampler.sample(1)
    wide = norm.standing_mean.clone()
    assert not torch.allclose(narrow, wide)
    sampler.sample(1, truncation=0.1)
    assert torch.equal(norm.standing_mean, narrow)


def test_two_iterators_keep_their_own_statistics(sampler):
    labels = torch.zeros(4, dtype=torch.int64)
    settings = {"seed": 0, "batch": 2}
    alone = [torch.cat(list(sampler.batches(range(4), labels, truncation=t, **settings))) for t in (0.1, None)]
    process_group = zip(*(sampler.batches(range(4), labels, truncation=t, **settings) for t in (0.1, None)), strict=True)
    for whole, parts in zip(alone, zip(*process_group, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_the_grid_is_bounded(sampler, tmp_path):
    labels = sampler.cycle_labels(7, None)
    batches = sampler.batches(range(7), labels, truncation=None, seed=0, batch=3)
    grid = write_samples(batches, labels, NAMES, tmp_path / "out", in_grid=4)
    assert len(list((tmp_path / "out").glob("0*.png"))) == 7
    with Image.open(grid) as picture:
        assert picture.size == (2 * 33 + 1, 2 * 33 + 1)


def test_a_config_that_lies_is_refused(model_folder):
    text = (model_folder / "config.json").read_text()
    for old, new, message in (
        ('"resolution": 32', '"resolution": 48', "32, 64"),
        ('"num_classes": 3', '"num_classes": 4', "names 3 classes"),
    ):
        (model_folder / "config.json").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=message):
            biggan.from_pretrained(model_folder)


def test_sampling_moves_no_vector(sampler):
    before = sampler.generator.linear.reparametrization.u.clone()
    sampler.sample(2, truncation=0.5)
    assert torch.equal(before, sampler.generator.linear.reparametrization.u)


def test_saved_files_are_the_images(sampler, tmp_path):
    samples = sampler.sample(5, seed=2)
    grid = samples.save(tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    images = ["00000-ant.png", "00001-bee.png", "00002-walrus.png", "00003-ant.png", "00004-bee.png"]
    assert (files, grid) == ([*images, "samples.json"], tmp_path / "out-grid.png")
    with Image.open(tmp_path / "out" / "00003-ant.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels == samples.images[3].permute(1, 2, 0).numpy()).all()
    with Image.open(grid) as picture:
        assert picture.size == (3 * 33 + 1, 2 * 33 + 1)


def test_sheet_puts_images_where_they_belong():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 4, 4) + 10
    pixels = np.asarray(make_grid(images, columns=2))
    assert pixels.shape == (11, 11, 3)
    assert pixels[2, 2, 0] == 10
    assert pixels[2, 7, 0] == 11
    assert pixels[7, 2, 0] == 12
    assert pixels[7, 7, 0] == 0


def test_what_is_no_model(tmp_path, model_folder):
    with pytest.raises(CheckpointError, match="holds no model"):
        biggan.from_pretrained(tmp_path / "absent")
    (model_folder / "generator.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        biggan.from_pretrained(model_folder)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ for the CPU")
def test_compiled_images_are_the_images(sampler, model_folder):
    compiled = biggan.from_pretrained(model_folder, device="cpu", precision="fp32", compiled=True)
    for truncation in (None, 0.5):
        found, expected = (which.sample(7, seed=5, batch=5, truncation=truncation) for which in (compiled, sampler))
        assert (found.images.int() - expected.images.int()).abs().max() <= 1, "uint8 rounding"


def test_compiling_without_a_compiler_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"install g\+\+"):
        biggan.from_pretrained(model_folder, device="cpu", compiled=True).sample(1)


@pytest.mark.parametrize("seed", ["a", 1.5, None, True, float("nan")])
def test_seeds_that_are_none(sampler, seed):
    with pytest.raises(ConfigError, match=r"seed=.* must be an integer"):
        sampler.sample(1, seed=seed)


def test_numbers_of_numpy_can_be_saved(sampler, tmp_path):
    sampler.sample(2, seed=np.int64(3), truncation=np.float32(0.5)).save(tmp_path / "out")
    listing = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (listing["seed"], listing["truncation"]) == (3, 0.5)
