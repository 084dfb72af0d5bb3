"""What a run needs, counted on shapes alone: parameters and FLOP. Memory is in training/memory_estimate.

A multiply-add is 2 FLOP. Only the arithmetic of the networks counts: not what is computed again to save memory, and nothing
that is saved. How fast it is, is measured in profiling/benchmark, and while a run trains in training/run_log.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from biggan.configs.overrides import replace_fields
from biggan.configs.run import RunConfig
from biggan.models import registry
from biggan.nn.attention import SelfAttention
from biggan.training.setup import plan_batch


class Footprint(NamedTuple):
    """What one run needs: parameters, FLOP per generator step."""

    generator_parameters: int
    discriminator_parameters: int
    flop_per_step: float


@functools.lru_cache(maxsize=8)
def footprint(config: RunConfig) -> Footprint:
    """Counted on shapes alone (torch's meta device): nothing is allocated or computed. `config` is resolved. A second
    call for the same config costs nothing: the first takes about a second."""
    plan, probe = plan_batch(config.train), 2
    with torch.device("meta"):
        family, model = registry.FAMILIES[config.model.family], config.model
        reference = 0.0  # images of a reference batch for each of the batch, counted apart from the few of the probe
        if model.generator.norm == "virtual":
            reference = model.generator.reference_batch_size / plan.micro_batch
            model = replace_fields(model, {"generator.norm": "batch"})
        generator, discriminator = uncomputed(family.generator(model)), uncomputed(family.discriminator(model))
        z, y = torch.empty(probe, config.model.z_dim), torch.empty(probe, dtype=torch.int64)
        with FlopCounterMode(display=False) as forward_g, torch.no_grad():
            fake = generator(z, y)
        with FlopCounterMode(display=False) as d_flops:
            discriminator(fake, y).logits.sum().backward()
        discriminator.requires_grad_(False)
        with FlopCounterMode(display=False) as g_flops:
            discriminator(generator(z, y), y).logits.sum().backward()
    groups = 2 if config.data.labels_per_class is None else 3  # generated, real, labeled
    per_image_d = ((1 + reference) * forward_g.get_total_flops() + groups * d_flops.get_total_flops()) / probe
    per_image_g = (g_flops.get_total_flops() + 3 * reference * forward_g.get_total_flops()) / probe
    generated = plan.generator_steps * plan.generator_batch_multiplier
    return Footprint(
        generator_parameters=count_parameters(generator),
        discriminator_parameters=count_parameters(discriminator),
        flop_per_step=plan.batch * (plan.discriminator_steps * per_image_d + generated * per_image_g),
    )


def count_parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def uncomputed(network: nn.Module) -> nn.Module:
    """The network, on the meta device, with attention as the device does it: nothing kept but its inputs. Mutates it."""
    for layer in network.modules():
        if isinstance(layer, SelfAttention):
            layer.attend = Attention.apply
    return network


class Attention(torch.autograd.Function):
    """The products of nn.attention.attend and of its gradients, for counting on the meta device; no values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return query @ key.transpose(2, 3) @ value  # (N, 1, Q, V)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        table_gradient = gradient @ value.transpose(2, 3)  # (N, 1, Q, K)
        table = torch.empty_like(table_gradient)
        return table_gradient @ key, table_gradient.transpose(2, 3) @ query, table.transpose(2, 3) @ gradient
