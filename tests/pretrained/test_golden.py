"""Weights, inputs and outputs made by the author's PyTorch code and by Hugging Face's, through the importers."""

import pytest
import torch
from conftest import golden_file
from safetensors.torch import load_file

from biggan.models.registry import FAMILIES
from biggan.pretrained.biggan_pytorch import read_biggan_pytorch
from biggan.pretrained.hugging_face import read_hugging_face
from biggan.sampling.standing_statistics import StatisticsTable


@pytest.mark.parametrize("name", ["32_tiny", "32_unshared_tiny", "128_tiny", "deep_128_tiny"])
def test_biggan_pytorch(name):
    prefix = f"biggan_pytorch_{name}"
    files = [golden_file(f"{prefix}.{player}.safetensors") for player in "GD"]
    foreign = read_biggan_pytorch(files[0], discriminator=files[1], norm_epsilon=1e-5, spectral_norm_epsilon=1e-6)
    family = FAMILIES[foreign.model.family]
    g, d = family.generator(foreign.model).eval(), family.discriminator(foreign.model).eval()
    g.load_state_dict(foreign.weights["generator"])
    d.load_state_dict(foreign.weights["discriminator"])
    golden = load_file(golden_file(f"{prefix}.io.safetensors"))
    with torch.no_grad():
        image = g(golden["z"], golden["y"])
        score = d(golden["image"], golden["y"]).logits
    assert (image - golden["image"]).abs().max() < 1e-5
    assert torch.allclose(score, golden["logit_of_image"].squeeze(1), rtol=1e-5)


@pytest.mark.parametrize("truncation", [1.0, 0.4])
def test_hugging_face(hugging_face, truncation):
    foreign = read_hugging_face(hugging_face)
    g = FAMILIES[foreign.model.family].generator(foreign.model).eval()
    g.load_state_dict(foreign.weights["generator"])
    table = StatisticsTable(foreign.statistics_at, foreign.weights["statistics"])
    for name, values in table.at(truncation).items():
        g.get_buffer(name).copy_(values)
    golden = load_file(golden_file("hf_biggan_deep_128_tiny.io.safetensors"))
    with torch.no_grad():
        image = g(golden["z"], golden["y"])
    assert (image - golden[f"image_truncation_{truncation}"]).abs().max() < 1e-5


def test_every_tensor_of_the_source_is_used(hugging_face):
    """506 tensors: all but u and v of each weight, merged, and the statistics, which go into the table."""
    source = torch.load(hugging_face / "pytorch_model.bin", weights_only=True)
    foreign = read_hugging_face(hugging_face)
    pairs = sum(name.endswith("weight_u") for name in source)
    assert len(foreign.weights["generator"]) == len(source) - pairs
    assert len(foreign.weights["statistics"]) == sum("running" in name for name in source)
    assert all(len(table) == 51 for table in foreign.weights["statistics"].values())
