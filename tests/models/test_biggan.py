"""Positions of attention and chunks of z in BigGAN; impossible networks are refused."""

import pytest
import torch
from conftest import model_config

from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.runtime.errors import ConfigError


def small(resolution: int, **changes: object) -> BigGANConfig:
    settings = {"width": 4, "generator__attention": (), "discriminator__attention": ()}
    return model_config(BigGANConfig, resolution=resolution, num_classes=3, **(settings | changes))


def test_attention_is_where_the_config_says(generator):
    config = model_config(
        BigGANConfig, resolution=32, num_classes=3, width=4, generator__attention=(16,), discriminator__attention=(8, 16)
    )
    config.check()
    g, d = registry.build_networks(config, generator)
    assert list(g.attention) == ["16"]
    assert list(d.attention) == ["16", "8"]
    sizes = []
    for network in (g, d):
        for layer in network.attention.values():
            layer.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    d(g(torch.randn(2, 80), torch.tensor([0, 1])), torch.tensor([0, 1]))
    assert sizes == [16, 16, 8]


def test_each_block_has_its_own_chunk_of_z(generator):
    """Skip-z: changing chunk i leaves everything before block i as it was (BigGAN appendix B)."""
    g, _ = registry.build_networks(small(32), generator)
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
        ({"generator__attention": (64,)}, "passes through"),
        ({"width": 1, "generator__attention": (16,)}, "8 channels"),
        ({"width": 0}, "at least 1"),
        ({"discriminator__minibatch_kernel_dim": -2}, "discriminator.minibatch_kernel_dim=-2 must be at least 1"),
        ({"extra_blocks": -1}, "at least 0"),
        ({"generator__dilation": 0}, "at least 1"),
        ({"discriminator__dropout": 1.0}, "below 1"),
        ({"generator__output_channels": 2}, "at least 3"),
        ({"class_embedding": "per-class"}, "--model.latent-injection input"),
        ({"discriminator__width": 0}, "discriminator.width=0"),
        ({"norm_epsilon": 0.0}, "at least 1e-12"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**({"resolution": 32} | changes)).check()


def test_bottlenecks_need_a_width():
    with pytest.raises(ConfigError, match="quarter"):
        model_config(BigGANDeepConfig, resolution=32, num_classes=3, width=3, generator__output_channels=3).check()
