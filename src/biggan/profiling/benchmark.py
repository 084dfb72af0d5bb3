"""How fast, how large: images per second, FLOP per image, share of the measured peak, memory, and where the time goes.

Settings are run alternately and compared by medians; a figure counts only as a ratio of two things run in one process.
FLOP are those of training/flops.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from biggan.configs.run import RunConfig
from biggan.data.dataset import open_data
from biggan.metrics.features import open_extractor
from biggan.models import registry
from biggan.nn.inference import for_inference
from biggan.runtime.atomic_io import metrics_cache
from biggan.runtime.environment import SINGLE_PROCESS, World
from biggan.runtime.memory import gibibytes, peak_memory
from biggan.runtime.precision import apply_numerics, choose_precision
from biggan.runtime.speed import peak_flops, time_calls
from biggan.sampling.compiled import CompiledGenerator
from biggan.training.flops import footprint, uncomputed
from biggan.training.memory_estimate import estimate_memory, largest_micro_batch, usable_memory
from biggan.training.out_of_memory import less_memory
from biggan.training.setup import build_train_state, plan_batch
from biggan.training.step import discriminator_step, generator_step, train_step
from biggan.training.train_state import TrainState

CLASSES_FOR_BENCH = 10


def describe(config: RunConfig, *, measure: bool = True, world: World = SINGLE_PROCESS) -> str:
    """The run's arithmetic for a person: batch, parameters, and with `measure` an estimate of memory and time.

    The time is FLOP over half the rate of a convolution measured here for a second: an order of magnitude.
    """
    plan, need = plan_batch(config.train, world), footprint(config)
    precision = choose_precision(config.train.device, config.train.precision, config.train.memory_format)
    arithmetic = precision.arithmetic
    lines = [
        f"device: {precision.device}, {arithmetic}, {config.train.memory_format}",
        f"batch: {plan.batch} = {plan.micro_batch} per pass x {plan.accumulation} accumulated; {world.size} rank(s) of "
        f"{plan.micro_batch // world.size}; "
        f"{plan.discriminator_steps} D step(s) for {plan.generator_steps} G step(s), {plan.real_images} real images",
        f"parameters: G {need.generator_parameters:,}, D {need.discriminator_parameters:,}; latent {config.model.z_dim}",
    ]
    if plan.accumulation > 1:
        lines.append(f"note: G's batch statistics are those of {plan.micro_batch} images, the paper's of the whole batch")
    if measure:
        rate = 0.5 * peak_flops(precision, seconds=1.0)
        total = need.flop_per_step / rate
        lines += [
            *describe_memory(config, world),
            f"time: {total:.2g} s per step or more, {total * config.train.steps / 3600:.3g} h for "
            f"{config.train.steps:,} steps ({need.flop_per_step / 1e12:.3g} TFLOP per step at {rate / 1e12:.3g} TFLOP/s)",
        ]
        if config.train.minutes is not None:
            lines.append(f"      stops after {config.train.minutes:g} minutes if that comes first")
    return "\n".join(lines) + "\n"


def describe_memory(config: RunConfig, world: World) -> list[str]:
    """What a step needs of each rank, and the largest micro-batch for the memory of the device."""
    plan, need = plan_batch(config.train, world), estimate_memory(config, world)
    images = plan.micro_batch // world.size
    peak, per_image = need.peak(images, plan.accumulation), need.peak(images + 1, plan.accumulation)
    lines = [
        f"memory: {gibibytes(peak)} at the peak of a step ({gibibytes(need.state)} weights, moments and averages; "
        f"{(per_image - peak) / 2**20:.3g} MiB more for each image of a pass)"
    ]
    memory = usable_memory(choose_precision(config.train.device, "fp32", "contiguous").device)
    if memory is None:
        return lines
    largest = largest_micro_batch(need, plan.batch, world.size, memory)
    if largest is None:
        return [*lines, f"        of {gibibytes(memory)} here: no micro-batch fits; {less_memory(config)}"]
    option = "" if largest == plan.micro_batch else f": --train.micro-batch {largest}"
    fits = (
        f"of {gibibytes(memory)} here: the largest micro-batch that fits is {largest}, {plan.batch // largest} accumulated"
    )
    return [*lines, f"        {fits}{option}"]


def bench_train(settings: dict[str, RunConfig], *, rounds: int, seconds: float) -> str:
    """A table of the settings' training speed on random images, run alternately, and the ratio of the first two."""
    arms = {}
    for name, config in settings.items():
        arms[name] = BenchmarkArm(with_classes(config))
    timings: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            timings[name].append(arm.images_per_second(seconds))
    lines = []
    for name, arm in arms.items():
        lines += [name, *arm.report(statistics.median(timings[name]), timings[name]), ""]
    if len(arms) == 2:
        first, second = (statistics.median(values) for values in timings.values())
        lines.append(f"ratio  {first / second:.2f}  (first over second, medians of {rounds} alternating timings)")
    return "\n".join(lines) + "\n"


class BenchmarkArm:
    """One setting, ready to be timed."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.state: TrainState = build_train_state(config)
        plan, size = self.state.plan, config.model.resolution
        images = torch.randint(256, (plan.micro_batch, 3, size, size), dtype=torch.uint8)
        labels = torch.randint(config.model.num_classes, (plan.micro_batch,))
        device = self.state.precision.device
        self.reals = itertools.repeat((images.to(device), labels.to(device)))
        self.labeled = None if config.data.labels_per_class is None else self.reals
        self.step = 0

    def images_per_second(self, seconds: float) -> float:
        """Real images per second over whole steps."""
        apply_numerics(self.config.train.numerics)
        calls, elapsed = time_calls(self.train_step, seconds, self.state.precision.device)
        return calls * self.state.plan.real_images / elapsed

    def train_step(self) -> None:
        """The next generator step, with its discriminator steps."""
        self.step += 1
        train_step(self.state, self.step, self.reals, self.labeled)

    def report(self, rate: float, rates: Sequence[float]) -> list[str]:
        """What there is to say of this setting."""
        plan, precision = self.state.plan, self.state.precision
        need = footprint(self.config)
        flop_per_image = need.flop_per_step / plan.real_images
        peak, memory = peak_flops(precision, seconds=2.0), peak_memory(precision.device)
        batches = list(itertools.islice(self.reals, plan.accumulation))
        d_step = lambda: discriminator_step(self.state, 1, 0, batches, self.labeled)  # noqa: E731
        g_step = lambda: generator_step(self.state, 1, 0, batches)  # noqa: E731
        times = [elapsed / calls for calls, elapsed in (time_calls(s, 2.0, precision.device) for s in (d_step, g_step))]
        seconds_d, seconds_g = plan.discriminator_steps * times[0], plan.generator_steps * times[1]
        share_d = seconds_d / (seconds_d + seconds_g)
        arithmetic = precision.arithmetic
        return [
            f"  device         {precision.device}, {arithmetic}, {self.config.train.memory_format}",
            f"  images/s       {rate:.1f}  ({min(rates):.1f} to {max(rates):.1f})",
            f"  FLOP per image {flop_per_image / 1e9:.3g} G",
            f"  achieved       {rate * flop_per_image / 1e12:.3g} TFLOP/s, "
            f"{rate * flop_per_image / peak:.0%} of the {peak / 1e12:.3g} measured here",
            f"  time           D steps {share_d:.0%}, G steps {1 - share_d:.0%}",
            f"  peak memory    {'not known here' if memory is None else gibibytes(memory)}",
        ]


def bench_sample(config: RunConfig, *, batch: int, rounds: int, seconds: float, compiled: bool = False) -> str:
    """Images per second of the sampling path (nn/inference, in the precision of the config, and `compiled` too if asked for)
    and of the generator as it is, in float32, run alternately on one batch. The weights are random; standing statistics are
    not collected."""
    config = with_classes(config)
    apply_numerics(config.train.numerics)
    fast = choose_precision(config.train.device, config.train.precision, config.train.memory_format)
    plain = dataclasses.replace(fast, bf16=False, memory_format=torch.contiguous_format)
    generator, _ = registry.build_networks(config.model, torch.Generator().manual_seed(0))
    generator = plain.place(generator).eval().requires_grad_(False)
    copy = for_inference(generator, fast.dtype, fast.memory_format)
    z = config.latent.build().draw((batch, config.model.z_dim), torch.Generator().manual_seed(0)).to(fast.device)
    y = torch.arange(batch, device=fast.device) % config.model.num_classes
    arms = {f"frozen, {fast.dtype}": lambda: copy(z, y), "as it is, float32": lambda: generator(z, y)}
    if compiled:
        quick = CompiledGenerator(copy, fast.device)
        arms = {f"compiled, {fast.dtype}": lambda: quick(z, y)} | arms
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, draw in arms.items():
            with torch.no_grad():
                calls, elapsed = time_calls(draw, seconds, fast.device)
            rates[name].append(batch * calls / elapsed)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
        meta = uncomputed(registry.FAMILIES[config.model.family].generator(config.model)).eval()
        meta(torch.empty(1, config.model.z_dim), torch.empty(1, dtype=torch.int64))
    peak, flop = peak_flops(fast, seconds=2.0), counted.get_total_flops()
    lines = [f"{fast.device}, batch {batch}, {flop / 1e9:.3g} GFLOP per image, peak {peak / 1e12:.3g} TFLOP/s measured here"]
    medians = [statistics.median(values) for values in rates.values()]
    for (name, values), median in zip(rates.items(), medians, strict=True):
        share = median * flop / peak
        lines.append(f"{name:22} {median:8.1f} images/s ({min(values):.1f} to {max(values):.1f}), {share:.0%} of that peak")
    lines.append(f"ratio  {medians[0] / medians[-1]:.2f}  (first over last, medians of {rounds} alternating timings)")
    return "\n".join(lines) + "\n"


def with_classes(config: RunConfig) -> RunConfig:
    """The config with a number of classes, where it has none."""
    classes = config.model.num_classes or CLASSES_FOR_BENCH
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=classes))


def bench_data(config: RunConfig, *, seconds: float) -> str:
    """Images per second of reading a data set: opening it, which decodes it if it is not prepared, opening it a second time,
    and streaming it into batches. It is decoded into a cache folder of its own, which is removed."""
    size = config.model.resolution
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        count = open_data(config.data, size, cache=Path(cache)).count
        first = time.perf_counter() - started
        started = time.perf_counter()
        source = open_data(config.data, size, cache=Path(cache))
        opening = time.perf_counter() - started
        stream = source.stream(config.train.batch, seed=0)
        calls, elapsed = time_calls(lambda: next(stream), seconds, torch.device("cpu"))
    return (
        f"{count} images at {size} px\n"
        f"first start   {first:10.2f} s ({count / first:.0f} images/s)\n"
        f"second start  {opening:10.2f} s\n"
        f"streaming     {config.train.batch * calls / elapsed:10.0f} images/s in batches of {config.train.batch}\n"
    )


def bench_evaluate(config: RunConfig, *, batch: int, rounds: int, seconds: float, trust_extractor: bool = False) -> str:
    """Images per second of the config's extractor on random images of the model's size, in bf16 and in float32, run
    alternately. What the scores themselves take is in recipes/score_speed.py."""
    precision = choose_precision(config.train.device, config.train.precision, config.train.memory_format)
    cache = metrics_cache(config.data.cache)
    size = config.model.resolution
    options = {"weights": config.eval.extractor_weights, "cache": cache, "trusted": trust_extractor}
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    arms = {
        name: open_extractor(config.eval.extractor, device=precision.device, bf16=bf16, **options)
        for name, bf16 in (("bf16", True), ("float32", False))
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for name, extractor in [*arms.items()] * rounds:
        calls, elapsed = time_calls(partial(extractor, images), seconds, precision.device)
        rates[name].append(batch * calls / elapsed)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"{config.eval.extractor} on {precision.device}, batch {batch} at {size} px"]
    for name, values in rates.items():
        lines.append(f"{name:8} {medians[name]:8.1f} images/s ({min(values):.1f} to {max(values):.1f})")
    lines.append(f"ratio  {medians['bf16'] / medians['float32']:.2f}  (medians of {rounds} alternating timings)")
    return "\n".join(lines) + "\n"
