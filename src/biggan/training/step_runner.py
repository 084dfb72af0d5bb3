"""How the operations of an optimizer step reach the device: eagerly, on inputs in static buffers, or as one CUDA graph.

A step of a small network on a GPU is some thousand operations of a few microseconds each, and the host cannot launch them as
fast as the device does them. A CUDA graph launches all of them at once. It needs inputs at fixed places, and the same
operations each time: there is one graph for each network and each choice of lazy penalties.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.training.step_inputs import StepInputs

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3
"""Optimizer steps of one key that run eagerly before the next one is captured: optimizer state, caches and libraries are
then in place."""


class Scalars(NamedTuple):
    """Named scalars of one optimizer step: values (K,) float32 on the device, in the order of the names."""

    names: tuple[str, ...]
    values: Tensor


Update = Callable[[StepInputs], Scalars]


class StepRunner:
    """Runs each step eagerly."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def run(self, key: tuple[object, ...], update: Update, inputs: StepInputs) -> Scalars:
        """The result of `update` for the inputs, which may be on the CPU. `key`: what the operations depend on, apart from
        values on the device."""
        return update(inputs.map(self.on_device))

    def on_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; its copy waits for nothing where it is in pinned memory."""
        return tensor.to(self.device, non_blocking=True)


class StaticRunner(StepRunner):
    """Runs each step on inputs that are copied to fixed places first."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.static: dict[tuple[object, ...], StepInputs] = {}

    def run(self, key: tuple[object, ...], update: Update, inputs: StepInputs) -> Scalars:
        """As StepRunner; the scalars are overwritten by the next run with this key."""
        if key not in self.static:
            self.static[key] = inputs.map(lambda tensor: torch.empty_like(tensor, device=self.device, pin_memory=False))
        for place, tensor in zip(self.static[key].tensors(), inputs.tensors(), strict=True):
            place.copy_(tensor, non_blocking=True)
        return self.execute(key, update, self.static[key])

    def execute(self, key: tuple[object, ...], update: Update, inputs: StepInputs) -> Scalars:
        """One step on the static inputs."""
        return update(inputs)


class GraphRunner(StaticRunner):
    """Captures the step of each key as a CUDA graph after a few have run eagerly, and replays it from then on.

    `after_replay` is called after each replay: with what the host has to know about a step that it did not run."""

    def __init__(self, device: torch.device, after_replay: Callable[[], None]) -> None:
        super().__init__(device)
        self.after_replay = after_replay
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.counts: dict[tuple[object, ...], int] = {}
        self.graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Scalars]] = {}

    def execute(self, key: tuple[object, ...], update: Update, inputs: StepInputs) -> Scalars:
        """One step: eagerly on the stream of the capture, or as a graph."""
        if key in self.graphs:
            graph, scalars = self.graphs[key]
            graph.replay()
            self.after_replay()
            return scalars
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] > WARMUP_STEPS:
            self.graphs[key] = self.capture(update, inputs)
            return self.execute(key, update, inputs)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            scalars = update(inputs)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return scalars

    def capture(self, update: Update, inputs: StepInputs) -> tuple[torch.cuda.CUDAGraph, Scalars]:
        """The graph of one step, which is recorded and not executed."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            scalars = update(inputs)
        return graph, scalars
