"""Exponential moving average of a network's weights: the generator's (BigGAN appendix C; docs/papers/biggan.md, "Training
settings"), and those of a discriminator that is to be a classifier (Salimans et al. 2016, published code;
docs/papers/improved_gan.md, "Network and training tables").

The paper's decay is 0.9999. Before `start` the average is a copy of the raw weights. After it the decay used is
min(decay, (1 + n) / (10 + n)), n steps later, so that a short run averages over a fixed share of its length.
DEVIATION from BigGAN appendix C: the paper has no such warm-up, because its runs have 150,000 steps and ours may have 2,000.
DEVIATION from the code of Salimans et al.: its average of D starts from zero, so that early test errors mean nothing.
"""

import copy

import torch
from torch import nn


class EMA:
    """`average` is a frozen copy of the network in evaluation mode, updated in place by `update`."""

    def __init__(self, network: nn.Module, *, decay: float, start: int) -> None:
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.start = start

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After optimizer step number `step` of that network (counted from 1). Power-iteration vectors are copied, not
        averaged; the average keeps its own standing statistics."""
        age = step - self.start
        decay = min(self.decay, (1 + age) / (10 + age)) if age > 0 else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(network.parameters()), 1 - decay)
        buffers = [(name, buffer) for name, buffer in network.named_buffers() if "standing" not in name.rpartition(".")[2]]
        if buffers:
            names, values = zip(*buffers, strict=True)
            torch._foreach_copy_([self.average.get_buffer(name) for name in names], list(values))
