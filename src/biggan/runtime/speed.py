"""How long calls take, and the peak rate of arithmetic of a device, both measured."""

import time
from collections.abc import Callable
from functools import partial

import torch

from biggan.runtime.precision import Precision

WARM_UP_CALLS = 6
"""Calls before the first that is timed, or as many as fit into the time of a timing."""

BLOCK_SECONDS = 0.1
"""Length of a block of calls, after which the device is waited for."""


TIMINGS = 4
"""Of each operation, of which the best counts: other threads and processes slow some of them down."""


def peak_flops(precision: Precision, *, seconds: float) -> float:
    """The best rate of a 3x3 convolution and a matrix product here, FLOP/s, forward only, measured for about twice
    `seconds`. They are large on a GPU; on a CPU they are as large as is needed to keep its threads busy, since one call must
    not take longer than the measurement. Draws nothing from the global generators of random numbers."""
    device = precision.device
    on_gpu, threads = device.type == "cuda", torch.get_num_threads()
    rows, width = (8192, 8192) if on_gpu else (512 * threads, 512)
    batch, size = (256, 32) if on_gpu else (threads, 16)
    rng = torch.Generator(device).manual_seed(0)
    randn = partial(torch.randn, dtype=precision.dtype, device=device, generator=rng)
    a, b = randn(rows, width), randn(width, width)
    x = randn(batch, 256, size, size).to(memory_format=precision.memory_format)
    w = randn(256, 256, 3, 3).to(memory_format=precision.memory_format)
    rates = []
    for operation, flop in (
        (lambda: a @ b, 2 * rows * width**2),
        (lambda: torch.nn.functional.conv2d(x, w, padding=1), 2 * batch * size**2 * 256 * 256 * 9),
    ):
        for _ in range(TIMINGS):
            calls, elapsed = time_calls(operation, seconds / 2 / TIMINGS, device)
            rates.append(flop * calls / elapsed)
    return max(rates)


def time_calls(operation: Callable[[], object], seconds: float, device: torch.device) -> tuple[int, float]:
    """Call for about that long, after a few warm-up calls, in which libraries choose their algorithms and steps are
    captured; how often, and the seconds it took. The device is waited for after blocks of BLOCK_SECONDS, or of `seconds`
    where that is shorter, not after each call."""
    started, calls = time.perf_counter(), 0
    while calls < 1 or (calls < WARM_UP_CALLS and time.perf_counter() - started < seconds):
        operation()
        calls += 1
    wait(device)
    started = time.perf_counter()
    operation()
    wait(device)
    block = max(1, round(min(BLOCK_SECONDS, seconds) / max(time.perf_counter() - started, 1e-6)))
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(block):
            operation()
        wait(device)
        calls += block
    return calls, time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
