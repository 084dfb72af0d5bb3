"""What a training step launches and moves, counted on tensors without data: operations, passes over weights, and that the
host waits for nothing.

An operation here is a call into PyTorch that launches kernels: not a view, an allocation, or what the host draws. Images
come 251 at a time, a prime that divides no dimension of the weights, so that tensors of images and of weights are told
apart.
"""

import collections
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from biggan.configs.overrides import replace_fields
from biggan.configs.presets import preset
from biggan.training.memory_estimate import fake_tensors
from biggan.training.setup import build_train_state
from biggan.training.step import discriminator_step, train_step
from biggan.training.step_inputs import DISCRIMINATOR_DRAW, GENERATOR_DRAW

IMAGES = 251
NO_KERNELS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "select", "slice", "split", "split_with_sizes"),
    *("unbind", "detach", "alias", "as_strided", "squeeze", "unsqueeze", "diagonal", "empty", "empty_like", "empty_strided"),
    *("new_empty", "new_empty_strided", "_record_function_enter_new", "_record_function_exit", "promote_types", "device"),
    *("is_pinned", "sym_size", "sym_stride", "layout", "is_contiguous"),
}


class Operations(TorchDispatchMode):
    """Counts operations by name, and the bytes of weights that they read and write."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()
        self.weight_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name not in NO_KERNELS:
            self.names[name] += 1
            tensors = [value for value in tree_iter((args, kwargs, out)) if isinstance(value, torch.Tensor)]
            self.weight_bytes += sum(tensor.nbytes for tensor in tensors if tensor.numel() % IMAGES)
        return out


def counted(preset_name, classes, steps):
    """Operations of `steps(state, reals)` once the optimizers have their moments, and the state."""
    changes = {"train.batch": IMAGES, "train.device": "cpu", "train.precision": "bf16", "model.num_classes": classes}
    config = replace_fields(preset(preset_name), changes)
    with fake_tensors():
        state = build_train_state(config)
        size = config.model.resolution
        images = torch.zeros(IMAGES, 3, size, size, dtype=torch.uint8)
        reals = itertools.repeat((images, torch.zeros(IMAGES, dtype=torch.int64)))
        train_step(state, 1, reals)
        draws = {purpose: state.latents.packed(2, purpose, 0) for purpose in (DISCRIMINATOR_DRAW, GENERATOR_DRAW)}
        state.latents.get = lambda step, purpose, index: draws[purpose]  # what the host draws is not counted
        with Operations() as operations:  # a number read by the host would be an error: there are none
            steps(state, reals)
    return operations, state


@pytest.mark.parametrize(
    ("preset_name", "classes", "budget"),
    [("cifar10-gpu", 10, 1300), ("biggan-128", 1000, 2400)],
)
def test_operations_of_a_generator_step(preset_name, classes, budget):
    operations, _ = counted(preset_name, classes, lambda state, reals: train_step(state, 2, reals))
    assert 500 < operations.names.total() <= budget, operations.names.most_common(20)
    assert operations.names["_local_scalar_dense"] == 0


def test_passes_over_the_weights_of_a_discriminator_step():
    """Read or written once is a pass, in float32: preparation of both networks, their gradients, Adam (7 passes: it reads
    weights, gradients and two moments and writes all but the gradients). It was about 44 for D alone."""
    run = lambda state, reals: discriminator_step(state, 2, 0, [next(reals)])  # noqa: E731
    operations, state = counted("biggan-128", 1000, run)
    both = sum(p.nbytes for trainer in state.trainers for p in trainer.network.parameters())
    discriminator = sum(p.nbytes for p in state.discriminator.network.parameters())
    passes = operations.weight_bytes / discriminator
    assert both > 1.5 * discriminator
    assert 15 < passes < 34
