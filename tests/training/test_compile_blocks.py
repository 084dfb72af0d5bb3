"""Compiled networks: traced whole, without a break, and computing what they compute otherwise."""

import copy
import dataclasses
import itertools

import pytest
import torch
from conftest import tiny_config

from biggan.configs.overrides import replace_fields
from biggan.configs.presets import PRESETS, preset
from biggan.models import registry
from biggan.models.biggan import BigGANConfig, SAGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.nn.prepared_weights import PreparedWeights
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError
from biggan.training import setup
from biggan.training.compile_blocks import compile_blocks, should_compile
from biggan.training.rollbacks import Rollbacks
from biggan.training.setup import build_train_state
from biggan.training.step import train_step

CONFIGS = {
    "biggan": BigGANConfig(resolution=64, num_classes=5, width=8),
    "deep": BigGANDeepConfig(resolution=32, num_classes=5, width=16),
    "sagan": SAGANConfig(resolution=32, num_classes=5, width=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_networks_are_traced_without_a_break(name, whole, generator):
    """Block by block as training does it, and whole; by dynamo alone, which is what breaks."""
    config = CONFIGS[name]
    inputs = {
        "generator": (torch.randn(4, config.z_dim, generator=generator), torch.tensor([0, 3, 1, 2])),
        "discriminator": (
            torch.randn(4, 3, config.resolution, config.resolution, generator=generator),
            torch.tensor([0, 3, 1, 2]),
        ),
    }
    for network, arguments in zip(registry.build_networks(config, generator), inputs.values(), strict=True):
        plain = copy.deepcopy(network)
        results = []
        for compiled in (plain, network):
            weights = PreparedWeights(compiled, torch.float32)
            run = compiled
            if compiled is network and whole:
                run = torch.compile(network, fullgraph=True, dynamic=False, backend="eager")
            elif compiled is network:
                compile_blocks(network, backend="eager")
            weights.prepare()
            weights.attach()
            output = run(*arguments)
            output = output if isinstance(output, torch.Tensor) else output.logits
            output.square().sum().backward()
            weights.detach()
            results.append([output.detach(), *(p.grad for p in compiled.parameters() if p.grad is not None)])
        for first, second in zip(*results, strict=True):
            assert torch.allclose(first, second, atol=1e-5)


def compiled_eagerly(monkeypatch):
    """Let dynamo trace what a run compiles, without a compiler behind it."""
    monkeypatch.setattr(setup, "compile_blocks", lambda network: compile_blocks(network, backend="eager"))


def ten_classes(**train):
    config = tiny_config(**train)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))


def test_averages_of_compiled_networks_compute_with_their_own_weights(monkeypatch, generator):
    compiled_eagerly(monkeypatch)
    state = build_train_state(ten_classes(compile="on", discriminator_ema_decay=0.5))
    latent, labels = torch.randn(2, state.latent_dim, generator=generator), torch.tensor([0, 3])
    copied = copy.deepcopy(state.generator.network)
    for network in (state.ema.average, state.discriminator_ema.average, copied):
        for name, parameter in network.named_parameters():
            if name.startswith(("blocks", "output")):
                parameter.data.fill_(torch.nan)
    images = state.generator.network(latent, labels)
    assert images.isfinite().all()
    assert state.ema.average(latent, labels).isnan().all()
    assert copied(latent, labels).isnan().all()
    assert state.discriminator.network(images, labels).logits.isfinite().all()
    assert state.discriminator_ema.average(images, labels).logits.isnan().all()


def test_a_run_that_went_back_after_a_collapse_compiles_what_r1_allows(monkeypatch):
    compiled_eagerly(monkeypatch)
    config = ten_classes(compile="auto", batch=4)
    monkeypatch.setattr(
        setup, "should_compile", lambda wanted, _, *rest: should_compile(wanted, torch.device("cuda"), *rest)
    )
    plain, back = (build_train_state(config, rollbacks=Rollbacks(collapsed=count)) for count in (0, 1))
    compiled = [[is_compiled(trainer.network) for trainer in state.trainers] for state in (plain, back)]
    assert compiled == [[True, True], [True, False]]
    (r1,) = back.discriminator.regularizers[len(plain.discriminator.regularizers) :]
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    metrics = train_step(back, r1.interval, itertools.repeat((images, torch.arange(4))), None)
    assert metrics["D/r1"] > 0
    assert back.generator.learning_rate.base == config.train.generator_lr * config.monitor.rollback_lr_factor


def is_compiled(network):
    return all(block._compiled_call_impl is not None for block in network.blocks)


@pytest.mark.parametrize("name", PRESETS)
def test_auto_compiles_the_biggan_families_alone(name):
    config = dataclasses.replace(preset(name).model, num_classes=10)
    with torch.device("meta"):
        networks = registry.FAMILIES[config.family].generator(config), registry.FAMILIES[config.family].discriminator(config)
    for network in networks:
        for ranks in (1, 2):
            compiled = should_compile("auto", torch.device("cuda"), network, (), False, World(0, ranks, 0))
            assert compiled == (ranks == 1 and not name.startswith("improved"))
            assert not should_compile("auto", torch.device("cpu"), network, (), False, World(0, ranks, 0))


def test_what_cannot_be_compiled_is_said():
    config = ten_classes(compile="on")
    with pytest.raises(ConfigError, match="r1 needs second derivatives"):
        build_train_state(replace_fields(config, {"regularization.discriminator.r1": 1.0}))
    with pytest.raises(ConfigError, match="computed again"):
        build_train_state(replace_fields(config, {"train.activation_checkpointing": True}))
