"""Activation checkpointing: of each block only the inputs are kept, the rest is computed again in the backward pass.

Less memory for about a third more work (Chen et al. 2016, "Training deep nets with sublinear memory cost"), for 256 and 512
pixels. The gradients are the same: the power iterations of spectral normalisation are made again from the vectors that the
first pass found, and are not kept.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from biggan.nn.spectral_norm import SpectralNorm


def checkpoint_activations(network: nn.Module) -> nn.Module:
    """The network with its blocks checkpointed; names and values of its state stay as they are. Mutates and returns it."""
    for block in network.blocks:
        block.forward = partial(checkpointed_forward, block, block.forward)
    return network


def checkpointed_forward(block: nn.Module, forward: Any, *inputs: Tensor | None) -> Tensor:
    """One pass of a block, checkpointed where there will be a backward pass."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    rules = [layer for layer in block.modules() if isinstance(layer, SpectralNorm)]
    found = [rule.u.clone() for rule in rules]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """Around the first pass, and around the one in the backward pass."""
        return nullcontext(), RestoredVectors(rules, found)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


class RestoredVectors:
    """Inside, the left vectors are as they were found; afterwards again what they were. Mutates them for the time. Entered
    anew for each backward pass: a penalty on a gradient makes two."""

    def __init__(self, rules: list[SpectralNorm], found: list[Tensor]) -> None:
        self.rules, self.found = rules, found

    def __enter__(self) -> None:
        self.now = [rule.u.clone() for rule in self.rules]
        put(self.rules, self.found)

    def __exit__(self, *exception: object) -> None:
        put(self.rules, self.now)


@torch.no_grad()
def put(rules: list[SpectralNorm], vectors: list[Tensor]) -> None:
    """Set the left vectors; mutates them."""
    for rule, vector in zip(rules, vectors, strict=True):
        rule.u.copy_(vector)
