"""Each option of the residual networks trains on the digits, and changes what it should in the networks."""

import dataclasses
import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from conftest import model_config, tiny_config
from torch import nn

from biggan.data.dataset import dataset_info, open_source
from biggan.models import registry
from biggan.models.biggan import BigGANConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.nn.batch_norm import AffineNorm, BatchNorm, ClassConditionalTable, ConditionalNorm, MLPMap, NoNorm
from biggan.nn.embeddings import OneHot, ProjectedEmbedding, SharedEmbedding
from biggan.nn.layers import Conv2d, ReparametrizedLayer
from biggan.nn.residual_blocks import affines_of_blocks, identity
from biggan.sampling.latents import LatentConfig, LatentName
from biggan.training.setup import build_train_state
from biggan.training.step import train_step

TINY = {"resolution": 32, "width": 4, "embedding_dim": 8}


@pytest.fixture(scope="module")
def digits():
    return open_source("embedded:digits", 32)


def train_20_steps(config, digits):
    """20 steps; every logged value and every weight stays finite, and both networks change."""
    facts = dataset_info(digits)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, num_classes=len(facts.class_names)), dataset=facts
    )
    config.check()
    state = build_train_state(config)
    networks = (state.generator.network, state.discriminator.network)
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    stream = digits.stream(state.plan.micro_batch, start_image=0, seed=0)
    for step in range(1, 21):
        scalars = train_step(state, step, stream)
        assert all(math.isfinite(value) for value in scalars.values()), (step, scalars)
    for network, old in zip(networks, before, strict=True):
        assert all(p.isfinite().all() for p in network.parameters())
        changed = [not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True)]
        assert sum(changed) > 0.9 * len(changed)
    return state


OPTIONS = {
    "BigGAN": BigGANConfig(**TINY),
    "BigGAN-deep": BigGANDeepConfig(**TINY),
    "SA-GAN": model_config(SAGANConfig, **TINY, generator__attention=(16,), discriminator__attention=(16,)),
    "SN-GAN": SNGANConfig(**TINY),
    "per-class embedding": BigGANConfig(**TINY, class_embedding="per-class", latent_injection="input"),
    "embedding shared by G and D": BigGANConfig(**TINY, class_embedding="shared-with-discriminator"),
    "z at the input": BigGANConfig(**TINY, latent_injection="input"),
    "z whole": BigGANConfig(**TINY, latent_injection="whole"),
    "z in chunks, deep": BigGANDeepConfig(**TINY, latent_injection="chunks"),
    "extra block": BigGANConfig(**TINY, extra_blocks=1),
    "extra block, deep": BigGANDeepConfig(**TINY, extra_blocks=1),
    "kernel 5 in G": model_config(BigGANConfig, **TINY, generator__kernel_size=5),
    "kernel 7 in D": model_config(BigGANConfig, **TINY, discriminator__kernel_size=7),
    "dilation in G": model_config(BigGANConfig, **TINY, generator__dilation=2),
    "dilation in D": model_config(BigGANConfig, **TINY, discriminator__dilation=2),
    "bilinear": model_config(BigGANConfig, **TINY, generator__upsampling="bilinear"),
    "weight norm, no batch norm": model_config(
        BigGANConfig, **TINY, generator__reparametrization="weight-norm", generator__norm="none"
    ),
    "plain weights in G": model_config(BigGANConfig, **TINY, generator__reparametrization="plain"),
    "no norm but spectral": model_config(BigGANConfig, **TINY, generator__norm="none"),
    "batch norm in D": model_config(BigGANConfig, **TINY, discriminator__norm="batch"),
    "conditional batch norm in D": model_config(BigGANConfig, **TINY, discriminator__norm="conditional-batch"),
    "perceptron conditioning": BigGANConfig(**TINY, conditioning="mlp"),
    "dropout in D": model_config(BigGANConfig, **TINY, discriminator__dropout=0.5),
    "attention at 8 and 16": model_config(
        BigGANConfig, **TINY, generator__attention=(8, 16), discriminator__attention=(8, 16)
    ),
    "N(0, 0.02)": BigGANConfig(**TINY, initialization="normal"),
    "Glorot": BigGANConfig(**TINY, initialization="glorot"),
    "SN-GAN's hidden width": model_config(BigGANConfig, **TINY, discriminator__hidden_width="inputs"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains(name, digits):
    state = train_20_steps(dataclasses.replace(tiny_config(), model=OPTIONS[name]), digits)
    assert state.guard.first_bad() is None


@pytest.mark.parametrize("name", get_args(LatentName))
def test_every_prior_trains(name, digits):
    config = dataclasses.replace(tiny_config(), latent=LatentConfig(distribution=name))
    state = train_20_steps(config, digits)
    assert state.prior == config.latent.build()


def test_larger_generator_batches_and_falling_rates_train(digits):
    config = tiny_config(generator_batch_multiplier=2, lr_decay_start=10, steps=20, batch=8, micro_batch=4)
    state = train_20_steps(config, digits)
    assert state.latents.draw(1, "generator turn", 0).z.shape == (2, 8, config.model.z_dim)
    rate = state.generator.learning_rate
    assert [rate.at(step) / rate.base for step in (1, 10, 15, 20)] == pytest.approx([1, 1, 0.5, 0])


def pair(**options):
    """Generator and discriminator with these options, all weights drawn alike."""
    config = model_config(BigGANConfig, **(TINY | {"num_classes": 3} | options))
    config.check()
    return registry.build_networks(config, torch.Generator().manual_seed(0))


def layers(network: nn.Module, kind: type) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def test_class_embeddings():
    shared, _ = pair()
    assert isinstance(shared.embedding, SharedEmbedding)
    assert not layers(shared, ClassConditionalTable)
    tables, _ = pair(class_embedding="per-class", latent_injection="input")
    assert isinstance(tables.embedding, OneHot)
    assert len(layers(tables, ClassConditionalTable)) == 2 * len(layers(tables, ConditionalNorm)) == 12
    assert all(table.weight.shape == (3, 16) for table in layers(tables, ClassConditionalTable))
    y = torch.tensor([2, 0])
    assert torch.equal(tables.embed(y), F.one_hot(y, 3).float())


def test_a_table_of_both_networks_is_trained_by_both(digits):
    config = dataclasses.replace(tiny_config(discriminator_steps=1), model=OPTIONS["embedding shared by G and D"])
    state = train_20_steps(config, digits)
    g, d = state.generator.network, state.discriminator.network
    assert isinstance(d.head.embedding, ProjectedEmbedding)
    assert d.head.embedding.table.weight is g.embedding.weight
    for trainer in (state.generator, state.discriminator):
        state = trainer.optimizer.state[g.embedding.weight]
        assert state["step"] == 20
        assert state["exp_avg_sq"].any()


def test_latent_injection():
    whole, _ = pair(latent_injection="whole", latent_dim=20)
    z, e = torch.randn(2, 20), torch.randn(2, 8)
    first, conditions = whole.injection.distribute(z, e)
    assert torch.equal(first, torch.cat([e, z], 1))
    assert len(conditions) == 3
    assert all(torch.equal(condition, first) for condition in conditions)
    alone, _ = pair(latent_injection="input", latent_dim=20)
    first, conditions = alone.injection.distribute(z, e)
    assert torch.equal(first, z)
    assert all(torch.equal(condition, e) for condition in conditions)
    chunks, _ = pair(latent_injection="chunks", latent_dim=20, extra_blocks=1)
    first, conditions = chunks.injection.distribute(z, e)
    assert torch.equal(first, z[:, :5])
    expected = [torch.cat([e, z[:, start : start + 5]], 1) for start in (5, 5, 10, 10, 15, 15)]
    assert all(map(torch.equal, conditions, expected))


def test_extra_blocks_keep_size_and_width():
    g, d = pair(extra_blocks=2)
    assert [block.resize is identity for block in g.blocks] == [False, True, True] * 3
    assert [block.resize is identity for block in d.blocks] == [False, True, True] * 2 + [True, True]
    x = torch.randn(2, 16, 8, 8)
    assert g.blocks[1](x, affines_of_blocks([g.blocks[1]], [torch.randn(2, 28)])[0]).shape == x.shape
    assert d.blocks[1](x, [None, None]).shape == x.shape


@pytest.mark.parametrize(("side", "index"), [("generator", 0), ("discriminator", 1)])
def test_kernels_and_dilation(side, index):
    for kernel in (3, 5, 7):
        networks = pair(**{f"{side}__kernel_size": kernel})
        spatial = [[conv.weight.shape[-1] for conv in layers(n, Conv2d) if conv.weight.shape[-1] > 1] for n in networks]
        assert set(spatial[index]) == {kernel}
        assert set(spatial[1 - index]) == {3}
    networks = pair(**{f"{side}__dilation": 2})
    dilations = [{conv.dilation for conv in layers(n, Conv2d) if conv.weight.shape[-1] > 1} for n in networks]
    assert dilations[index] == {2}
    assert dilations[1 - index] == {1}


def test_bilinear_upsampling_is_what_the_block_does():
    """The block written out: upsample first, as the papers draw it, in main path and skip."""
    g, _ = pair(generator__upsampling="bilinear")
    block = g.blocks[0].eval()
    x, condition = torch.randn(2, 16, 4, 4), torch.randn(2, 28)
    up = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")  # noqa: E731
    conv = lambda layer, x: F.conv2d(x, layer.effective_weight(), layer.bias, padding=layer.padding)  # noqa: E731
    (affines,) = affines_of_blocks([block], [condition])
    h = conv(block.conv_1, up(F.relu(block.norm_1(x, affines[0]))))
    h = conv(block.conv_2, F.relu(block.norm_2(h, affines[1])))
    assert torch.allclose(block(x, affines), h + conv(block.skip, up(x)), atol=1e-5)


def test_reparametrizations_and_norms_of_the_generator():
    for name, reparametrization in (("spectral", "SpectralNorm"), ("weight-norm", "WeightNorm"), ("plain", "Identity")):
        g, d = pair(generator__reparametrization=name)
        assert {type(layer.reparametrization).__name__ for layer in layers(g, ReparametrizedLayer)} == {reparametrization}
        assert {type(layer.reparametrization).__name__ for layer in layers(d, ReparametrizedLayer)} == {"SpectralNorm"}
    assert len(layers(pair()[0], BatchNorm)) == 7
    bare, _ = pair(generator__norm="none")
    assert not layers(bare, BatchNorm)
    assert len(layers(bare, ConditionalNorm)) == 6, "gains and biases stay"


def test_norms_of_the_discriminator():
    assert not layers(pair()[1], BatchNorm)
    assert len(layers(pair()[1], NoNorm)) == 7
    _, plain = pair(discriminator__norm="batch")
    assert len(layers(plain, AffineNorm)) == len(layers(plain, BatchNorm)) == 7
    _, conditional = pair(discriminator__norm="conditional-batch")
    assert len(layers(conditional, ConditionalNorm)) == 7
    x = torch.randn(4, 3, 32, 32)
    y = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        before = conditional(x, y).features
        conditional.blocks[3].norm_1.bias.weight[1] += 1
        after = conditional(x, y).features
    assert not torch.allclose(after[1], before[1])


def test_hidden_widths_of_the_discriminator():
    widths = {}
    for name in ("outputs", "inputs"):
        _, d = pair(resolution=64, discriminator__hidden_width=name, generator__attention=(), discriminator__attention=())
        widths[name] = [block.conv_1.weight.shape[0] for block in d.blocks]
    assert widths == {"outputs": [4, 8, 16, 32, 64], "inputs": [4, 4, 8, 16, 32]}


def test_attention_where_it_is_asked_for():
    for network in pair(generator__attention=(8, 16), discriminator__attention=(8, 16)):
        assert sorted(network.attention, key=int) == ["8", "16"]
        assert [type(layer).__name__ for layer in network.attention.values()] == ["SelfAttention"] * 2
    usual, _ = pair()
    assert not usual.attention


def test_perceptron_conditioning():
    g, _ = pair(conditioning="mlp")
    assert len(layers(g, MLPMap)) == 12


def test_dropout_stands_before_the_last_layer_and_only_in_training():
    _, d = pair(discriminator__dropout=0.5)
    x, y = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    kept = (d(x, y).features != 0).float().mean() / (d.eval()(x, y).features != 0).float().mean()
    assert kept.item() == pytest.approx(0.5, abs=0.05)
    output = d(x, y)
    expected = d.head.linear(output.features).squeeze(1) + (d.head.embedding(y) * output.features).sum(1)
    assert torch.allclose(output.logits, expected)


def test_output_channels_beyond_three_are_only_kept_as_parameters():
    three, _ = pair(generator__output_channels=3)
    wide, _ = pair(generator__output_channels=None, width=8)
    assert three.output_conv.weight.shape[0] == 3
    assert wide.output_conv.weight.shape[0] == 8
    assert wide(torch.randn(2, 80), torch.tensor([0, 1])).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("name", "std"), [("normal", 0.02), ("glorot", math.sqrt(2 / ((16 + 16) * 9)))])
def test_initialization_reaches_the_layers(name, std):
    for network in pair(initialization=name):
        assert network.blocks[1].conv_2.weight.detach().std().item() == pytest.approx(std, rel=0.1)
    g, _ = pair(initialization="orthogonal")
    rows = g.blocks[1].conv_2.weight.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(16), atol=1e-5)
