"""Compiled networks: traced whole, without a break, and computing what they compute otherwise."""

import copy
import dataclasses

import pytest
import torch
from conftest import tiny_config

from biggan.configs.overrides import replace_fields
from biggan.models import registry
from biggan.models.biggan import BigGANConfig, SAGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.nn.prepared_weights import PreparedWeights
from biggan.runtime.errors import ConfigError
from biggan.training.compile_blocks import compile_blocks
from biggan.training.setup import build_train_state

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


def test_what_cannot_be_compiled_is_said():
    config = tiny_config(compile="on")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))
    with pytest.raises(ConfigError, match="r1 needs second derivatives"):
        build_train_state(replace_fields(config, {"regularization.discriminator.r1": 1.0}))
    with pytest.raises(ConfigError, match="computed again"):
        build_train_state(replace_fields(config, {"train.activation_checkpointing": True}))
