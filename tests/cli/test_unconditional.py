"""Generators without classes: nothing that is asked of a class is pretended, and images stay what they were."""

import json
import os

import pytest
import torch
from conftest import call, model_config
from PIL import Image

import biggan
from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.models import registry
from biggan.models.improved_gan_config import MLPConfig
from biggan.nn.batch_norm import BatchNorm
from biggan.runtime.errors import ConfigError
from biggan.runtime.rng import addressed_rng
from biggan.sampling.latents import draw_labels
from biggan.sampling.standing_statistics import collect_standing_statistics

NAMES = ("ant", "bee", "walrus")


@pytest.fixture
def folder(tmp_path, generator):
    config = model_config(
        MLPConfig, resolution=8, latent_dim=4, num_classes=3, generator__hidden=(8,), discriminator__hidden=(8,)
    )
    network, _ = registry.build_networks(config, generator)
    card = ModelCard(model=config, class_names=NAMES, step=0, trained_on="nothing")
    save_model_dir(tmp_path / "model", card, {"generator": network.state_dict()})
    return tmp_path / "model"


def test_the_sampler_says_that_it_has_no_classes(folder):
    sampler = biggan.from_pretrained(folder, device="cpu", precision="fp32")
    assert (sampler.is_conditional, sampler.class_names) == (False, ())
    samples = sampler.sample(4, truncation=0.5)
    assert (samples.class_names, samples.labels.tolist(), samples.recipe["classes"]) == ((), [0, 0, 0, 0], None)
    for ask in (
        lambda: sampler.sample(4, classes=[0]),
        lambda: sampler.sample(4, classes=[]),
        lambda: sampler.class_indices(None),
    ):
        with pytest.raises(ConfigError, match="improved-mlp is unconditional"):
            ask()
    columns = 5
    assert sampler.class_grid(columns=columns).size == (columns * 9 + 1, columns * 9 + 1)


def test_its_images_are_those_of_the_labels_that_it_ignored(folder):
    """Labels of three classes were drawn for the standing statistics, and given to the generator in rotation."""
    sampler = biggan.from_pretrained(folder, device="cpu", precision="fp32")
    found = sampler.sample(5, truncation=0.5, seed=2).images
    network = biggan.from_pretrained(folder, device="cpu", precision="fp32").generator
    assert any(isinstance(layer, BatchNorm) for layer in network.modules())
    with torch.no_grad(), collect_standing_statistics(network):
        for number in range(32):
            rng = addressed_rng(0, "standing statistics", number)
            z_NZ = sampler.prior.draw((64, 4), rng, 0.5)
            network(z_NZ, draw_labels(64, 3, rng))
    again = biggan.from_pretrained(folder, device="cpu", precision="fp32")
    again.generator.load_state_dict(network.state_dict())
    z_NZ = sampler.latents(2, range(5), 0.5)
    assert torch.equal(found, again.images(z_NZ, torch.tensor([0, 1, 2, 0, 1])))


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "MODEL", "--classes", "ant"],
        ["mix", "MODEL", "--classes", "ant:1"],
        ["interpolate", "MODEL", "--between", "classes"],
        ["interpolate", "MODEL", "--between", "both"],
        ["interpolate", "MODEL", "--between", "latents", "--classes", "ant"],
        ["leakage", "MODEL", "--extractor", "module:absent"],
        ["neighbors", "MODEL", "--data", "embedded:digits", "--classes", "1"],
        ["evaluate", "MODEL", "--recipe", "accuracy20"],
        ["evaluate", "MODEL", "--data", "embedded:digits", "--recipe", "intra20"],
    ],
    ids=" ".join,
)
def test_classes_are_refused(capsys, folder, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *(folder if word == "MODEL" else word for word in words))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "unconditional" in err
    assert os.listdir(tmp_path) == ["model"]


def test_what_works_without_classes(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "sample", folder, "--n", 3)[0] == 0
    assert sorted(os.listdir("samples")) == ["00000.png", "00001.png", "00002.png", "samples.json"]
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["classes"] is None
    assert call(capsys, "interpolate", folder, "--rows", 2, "--steps", 3)[0] == 0
    with Image.open("interpolation.png") as sheet:
        assert sheet.size == (3 * 9 + 1, 2 * 9 + 1)
    code, out, _ = call(capsys, "neighbors", folder, "--data", "embedded:digits", "--n", 2, "--count", 2)
    assert (code, "distances" in out) == (0, True)
