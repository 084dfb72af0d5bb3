"""BigGAN against the spec's parameter counts and against outputs of another implementation."""

import json

import pytest
import torch
from conftest import shared_file
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from biggan import models
from biggan.errors import ConfigError
from biggan.models.biggan import LAYOUTS, BigGANConfig, Discriminator, Generator
from biggan.nn.norm import collecting_statistics


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("resolution", "g_count", "d_count"),
    [(128, 70_433_988, 87_982_370), (256, 82_097_604, 99_225_890), (512, 82_468_068, 99_401_282)],
)
def test_parameter_counts(resolution, g_count, d_count):
    """Spec section 4d."""
    config = BigGANConfig(resolution=resolution, num_classes=1000)
    with torch.device("meta"):
        assert count(Generator(config)) == g_count
        assert count(Discriminator(config)) == d_count


def test_parameter_counts_layer_by_layer():
    """Spec section 4d, breakdown of BigGAN-128."""
    config = BigGANConfig(resolution=128, num_classes=1000)
    with torch.device("meta"):
        g, d = Generator(config), Discriminator(config)
    assert count(g.embedding) == 128_000
    assert count(g.linear) == 516_096
    assert [count(block) for block in g.blocks] == [45_740_544, 17_789_184, 4_618_368, 1_240_128, 352_800]
    assert count(g.attention) == 46_081
    assert count(g.output_norm) + count(g.output_conv) == 2_787
    assert [count(block) for block in d.blocks] == [86_112, 516_672, 2_065_536, 8_259_840, 33_034_752, 42_470_400]
    assert count(d.attention) == 11_521
    assert count(d.head.linear) == 1_537
    assert count(d.head.embedding) == 1_536_000


def ours(name: str, config: BigGANConfig, player: str) -> str:
    """Our name for a tensor of BigGAN-PyTorch."""
    parts = name.split(".")
    if parts[0] == "blocks":
        block, place = int(parts[1]), int(parts[2])
        size = 4 * 2 ** (block + 1) if player == "G" else config.resolution >> (block + 1)
        parts = ["blocks", str(block), *parts[3:]] if place == 0 else ["attention", str(size), *parts[3:]]
    elif player == "D":
        parts = ["head", *parts]
    name = ".".join(parts)
    for theirs, mine in {
        "bn1": "norm_1", "bn2": "norm_2", "conv1": "conv_1", "conv2": "conv_2", "conv_sc": "skip", "u0": "left_vector",
        "stored_mean": "standing_mean", "stored_var": "standing_variance", "output_layer.0": "output_norm",
        "output_layer.2": "output_conv", "shared": "embedding", "head.embed.": "head.embedding.",
    }.items():  # fmt: skip
        name = name.replace(theirs, mine)
    return name


@pytest.mark.parametrize("name", ["32_tiny", "128_tiny"])
def test_golden_outputs_of_biggan_pytorch(name):
    """Random weights, inputs and outputs made by the author's PyTorch code, evaluation mode."""
    prefix = f"golden/biggan_pytorch_{name}"
    files = {player: shared_file(f"{prefix}.{player}.safetensors") for player in "GD"}
    with safe_open(files["G"], "pt") as file:
        source = json.loads(file.metadata()["config"])
    config = BigGANConfig(
        resolution=source["resolution"],
        num_classes=source["n_classes"],
        width=source["G_ch"],
        skip_z=source["hier"],
        latent_dim=source["dim_z"],
        embedding_dim=source["shared_dim"] or source["dim_z"],
        norm_epsilon=source["BN_eps"],
        spectral_epsilon=source["SN_eps"],
    )
    networks = {"G": Generator(config).eval(), "D": Discriminator(config).eval()}
    for player, network in networks.items():
        tensors = {ours(key, config, player): t for key, t in load_file(files[player]).items() if "sv0" not in key}
        network.load_state_dict(tensors)
    golden = load_file(shared_file(f"{prefix}.io.safetensors"))
    with torch.no_grad():
        image = networks["G"](golden["z"], golden["y"])
        score = networks["D"](golden["image"], golden["y"]).score_N
    assert (image - golden["image"]).abs().max() < 1e-5
    assert torch.allclose(score, golden["logit_of_image"].squeeze(1), rtol=1e-5)


def small(resolution: int, **changes: object) -> BigGANConfig:
    settings = {"width": 4, "generator_attention": (), "discriminator_attention": ()}
    return BigGANConfig(resolution=resolution, num_classes=3, **(settings | changes))


@pytest.mark.parametrize("resolution", LAYOUTS)
def test_forward_and_backward_at_every_resolution(resolution, generator):
    config = small(resolution)
    config.check()
    g, d = models.build(config, generator)
    z, y = torch.randn(2, config.z_dim, generator=generator), torch.tensor([0, 2])
    image = g(z, y)
    assert image.shape == (2, 3, resolution, resolution)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1
    verdict = d(image, y)
    assert verdict.score_N.shape == (2,)
    assert verdict.features_NF.shape[0] == 2
    verdict.score_N.sum().backward()
    assert all(p.grad is not None for network in (g, d) for p in network.parameters())


def test_attention_stands_where_the_config_says(generator):
    config = BigGANConfig(resolution=32, num_classes=3, width=4, generator_attention=(16,), discriminator_attention=(8, 16))
    config.check()
    g, d = models.build(config, generator)
    assert list(g.attention) == ["16"]
    assert list(d.attention) == ["8", "16"]
    seen = []
    for network in (g, d):
        for layer in network.attention.values():
            layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    d(g(torch.randn(2, 80), torch.tensor([0, 1])), torch.tensor([0, 1]))
    assert seen == [16, 16, 8]


def test_evaluation_does_not_depend_on_the_batch(generator):
    g, _ = models.build(small(32), generator)
    z, y = torch.randn(4, 80, generator=generator), torch.tensor([0, 1, 2, 0])
    g.eval()
    with torch.no_grad():
        with collecting_statistics(g):
            g(z, y)
        assert torch.allclose(g(z, y)[2:3], g(z[2:3], y[2:3]), atol=1e-5)


def test_each_block_has_its_own_chunk_of_z(generator):
    """Skip-z: changing chunk i leaves everything before block i as it was (spec section 2)."""
    g, _ = models.build(small(32), generator)
    g.eval()
    z, y = torch.randn(1, 80, generator=generator), torch.tensor([1])
    outputs = {}
    for index, block in enumerate(g.blocks):
        block.register_forward_hook(lambda _, __, out, index=index: outputs.__setitem__(index, out.detach().clone()))
    g(z, y)
    before = dict(outputs)
    z[:, 60:] += 1  # the last chunk: block 2
    g(z, y)
    assert torch.equal(outputs[0], before[0])
    assert torch.equal(outputs[1], before[1])
    assert not torch.equal(outputs[2], before[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "32, 64, 128, 256, 512"),
        ({"latent_dim": 81}, "use 80"),
        ({"generator_attention": (64,)}, "passes through"),
        ({"width": 1, "generator_attention": (16,)}, "8 channels"),
        ({"width": 0}, "at least 1"),
        ({"discriminator_width": 0}, "discriminator_width=0"),
        ({"norm_epsilon": 0.0}, "above 0"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**({"resolution": 32} | changes)).check()
