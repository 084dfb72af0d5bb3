"""What a run needs, counted on shapes alone: parameters, FLOP, memory.

A multiply-add is 2 FLOP. Only the arithmetic of the networks counts: not what is computed again to save memory, and nothing
that is saved. How fast it is, is measured in profiling/benchmark.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from biggan.configs.overrides import replace_fields
from biggan.configs.run import RunConfig
from biggan.models import registry
from biggan.nn.attention import SelfAttention
from biggan.runtime.precision import choose_precision
from biggan.training.setup import plan_batch


class Footprint(NamedTuple):
    """What one run needs: parameters, FLOP per generator step, bytes of state and of activations."""

    generator_parameters: int
    discriminator_parameters: int
    flop_per_step: float
    state_bytes: int
    activation_bytes: int


def footprint(config: RunConfig) -> Footprint:
    """Counted on shapes alone (torch's meta device): nothing is allocated or computed. `config` is resolved."""
    plan, probe = plan_batch(config.train), 2
    bf16 = choose_precision(config.train.device, config.train.precision, config.train.memory_format).bf16
    with torch.device("meta"):
        family, model = registry.FAMILIES[config.model.family], config.model
        reference = 0.0  # images of a reference batch for each of the batch, counted apart from the few of the probe
        if model.generator.norm == "virtual":
            reference = model.generator.reference_batch_size / plan.micro_batch
            model = replace_fields(model, {"generator.norm": "batch"})
        generator, discriminator = uncomputed(family.generator(model)), uncomputed(family.discriminator(model))
        z, y = torch.empty(probe, config.model.z_dim), torch.empty(probe, dtype=torch.int64)
        blocks: list[Any] = [*generator.blocks.children(), *discriminator.blocks.children()]
        saved = SavedBytes(blocks if config.train.activation_checkpointing else [])
        with FlopCounterMode(display=False) as forward_g, torch.no_grad():
            fake = generator(z, y)
        with FlopCounterMode(display=False) as d_flops, saved.counting():
            discriminator(fake, y).logits.sum().backward()
        discriminator.requires_grad_(False)
        with FlopCounterMode(display=False) as g_flops, saved.counting():
            discriminator(generator(z, y), y).logits.sum().backward()
    groups = 2 if config.data.labels_per_class is None else 3  # generated, real, labeled
    per_image_d = ((1 + reference) * forward_g.get_total_flops() + groups * d_flops.get_total_flops()) / probe
    per_image_g = (g_flops.get_total_flops() + 3 * reference * forward_g.get_total_flops()) / probe
    generated = plan.generator_steps * plan.generator_batch_multiplier
    kept = max(groups * saved.sums[0], plan.generator_batch_multiplier * (1 + reference) * saved.sums[1])
    counts = count_parameters(generator), count_parameters(discriminator)
    itemsize = 0.5 if bf16 else 1.0  # the meta pass is float32
    return Footprint(
        generator_parameters=counts[0],
        discriminator_parameters=counts[1],
        flop_per_step=plan.batch * (plan.discriminator_steps * per_image_d + generated * per_image_g),
        state_bytes=4 * sum(count * kinds for count, kinds in zip(counts, kept_with_weights(config), strict=True)),
        activation_bytes=round(itemsize * kept / probe * plan.micro_batch),
    )


def count_parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def kept_with_weights(config: RunConfig) -> tuple[int, int]:
    """How many numbers there are for each weight of G, and of D: itself, its gradient, two moments, averages."""
    averages = (True, config.train.discriminator_ema_decay is not None)
    means = (
        side.historical_averaging is not None
        for side in (config.regularization.generator, config.regularization.discriminator)
    )
    generator, discriminator = (4 + average + mean for average, mean in zip(averages, means, strict=True))
    return generator, discriminator


class SavedBytes:
    """Bytes that autograd keeps for the backward pass, counted per region; of the `recomputed` blocks their inputs, and all
    of the largest."""

    def __init__(self, recomputed: Sequence[nn.Module]) -> None:
        self.sums: list[int] = []
        self.largest = 0
        for block in recomputed:
            block.register_forward_pre_hook(self.enter)
            block.register_forward_hook(self.leave)

    def enter(self, block: nn.Module, inputs: Sequence[Tensor | None]) -> None:
        self.before = self.sums[-1] + inputs[0].nbytes if self.sums else 0

    def leave(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.sums:
            inside = self.sums[-1] - self.before
            self.sums[-1] = self.before + max(0, inside - self.largest)
            self.largest = max(self.largest, inside)

    def counting(self) -> Any:
        """A context manager: one region."""
        self.sums.append(0)
        self.largest = 0
        seen: set[int] = set()

        def pack(tensor: Tensor) -> Tensor:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                self.sums[-1] += tensor.numel() * tensor.element_size()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


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
