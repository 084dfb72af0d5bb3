"""Activation checkpointing: of each block only the inputs are kept, the rest is computed again in the backward pass.

Less memory for about a third more work (Chen et al. 2016, "Training deep nets with sublinear memory cost"), for 256 and
512 pixels. The gradients are the same: where weights are not prepared (nn/prepared_weights), the power iterations of
spectral normalization are repeated from the vectors before the first pass, and their results are not kept."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from biggan.nn.layers import ReparametrizedLayer
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
    plain = [layer for layer in block.modules() if isinstance(layer, ReparametrizedLayer) and layer.prepared is None]
    layers = [layer.reparametrization for layer in plain if isinstance(layer.reparametrization, SpectralNorm)]
    vectors = [layer.u.clone() for layer in layers]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """Around the first pass, and around the one in the backward pass."""
        return nullcontext(), RestoredVectors(layers, vectors)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


class RestoredVectors:
    """A context in which the vectors u of spectral norms are those before the first pass; afterwards they are again what
    they were on entering. Entered anew for each backward pass: a penalty on a gradient makes two."""

    def __init__(self, layers: list[SpectralNorm], vectors: list[Tensor]) -> None:
        self.layers, self.vectors = layers, vectors

    def __enter__(self) -> None:
        self.current = [layer.u.clone() for layer in self.layers]
        set_vectors(self.layers, self.vectors)

    def __exit__(self, *exception: object) -> None:
        set_vectors(self.layers, self.current)


@torch.no_grad()
def set_vectors(layers: list[SpectralNorm], vectors: list[Tensor]) -> None:
    """Set u of each layer; mutates them."""
    for layer, vector in zip(layers, vectors, strict=True):
        layer.u.copy_(vector)
