"""What a GPU does with this code, in parts of a few minutes each: captured and compiled steps against eager ones, forms of
upsampling convolutions, predicted against measured memory, a table of kernels, training.

    python recipes/gpu_hour.py OUT all|PART [PART ...] [--miniature]

Each part writes OUT/PART.json, or OUT/PART.error.txt, and prints its figures; parts that have a result already are left out,
so that an interrupted call is repeated as it was. `--miniature` takes tiny sizes, for a trial without a GPU. For `train`:
DATA (--data of biggan train), OPTIONS (further ones), MINUTES, RUN, in the environment.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from biggan.configs.overrides import replace_fields
from biggan.configs.presets import PRESETS
from biggan.configs.run import RunConfig
from biggan.nn.layers import box_sum
from biggan.runtime.precision import apply_numerics, choose_precision
from biggan.runtime.speed import peak_flops
from biggan.training.flops import footprint
from biggan.training.memory_estimate import estimate_memory
from biggan.training.setup import build_train_state
from biggan.training.step import discriminator_step, generator_step, train_step
from biggan.training.train_state import TrainState

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
MINIATURE = False

Figures = dict[str, Any]


def config(preset: str, **changes: Any) -> RunConfig:
    """A preset with classes, and with changes by dotted names whose dots are written `__`."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    classes = {"model.num_classes": 10 if "cifar" in preset else 1000}
    small = {"model.width": 8, "train.batch": 4, "train.micro_batch": None} if MINIATURE else {}
    return replace_fields(PRESETS[preset](), classes | named | small)


def real_images(state: TrainState, resolution: int, classes: int) -> Any:
    """An endless stream of one random batch on the device."""
    size = state.plan.micro_batch
    images = torch.randint(256, (size, 3, resolution, resolution), dtype=torch.uint8, device=DEVICE)
    return itertools.repeat((images, torch.randint(classes, (size,), device=DEVICE)))


def ready(setting: RunConfig) -> tuple[TrainState, Callable[[int], Any]]:
    """A training state and its step."""
    apply_numerics(setting.train.numerics)
    torch.manual_seed(0)
    state = build_train_state(setting)
    reals = real_images(state, setting.model.resolution, setting.model.num_classes)
    return state, lambda step: train_step(state, step, reals)


def wait() -> None:
    """Until the device is idle."""
    if CUDA:
        torch.cuda.synchronize()


def rate(state: TrainState, step: Callable[[int], Any], seconds: float) -> Figures:
    """Real images per second: warm-up until captured, then the median of blocks of steps, one synchronization for each."""
    started = time.perf_counter()
    for number in range(1, 7):
        step(number)
    wait()
    warm, blocks, number = time.perf_counter() - started, [], 7
    probe = time.perf_counter()
    step(number)
    wait()
    count = max(1, round(seconds / 5 / max(time.perf_counter() - probe, 1e-4)))
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            number += 1
            step(number)
        wait()
        blocks.append((time.perf_counter() - began) / count)
    median = statistics.median(blocks)
    return {
        "images_per_second": state.plan.real_images / median,
        "milliseconds": 1e3 * median,
        "spread": [1e3 * min(blocks), 1e3 * max(blocks)],
        "warm_up_seconds": warm,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if CUDA else None,
    }


def facts() -> Figures:
    """The device, its rates, the versions."""
    found: Figures = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if CUDA else "cpu"}
    precision = choose_precision("auto", "auto", "channels-last")
    found["bf16_tflops"] = peak_flops(precision, seconds=2.0 if CUDA else 0.2) / 1e12
    a = torch.empty(2**28 if CUDA else 2**20, device=DEVICE)
    b = torch.empty_like(a)
    seconds = time_operation(lambda: b.copy_(a))
    found["copy_gigabytes_per_second"] = 2 * a.nbytes / seconds / 1e9
    return found


def time_operation(operation: Callable[[], Any]) -> float:
    """Median seconds of one call over blocks of calls."""
    for _ in range(3):
        operation()
    wait()
    began = time.perf_counter()
    operation()
    wait()
    count, times = max(1, min(200, round(0.05 / max(time.perf_counter() - began, 1e-6)))), []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            operation()
        wait()
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def no_synchronization() -> Figures:
    """Eager steps with torch's own alarm for synchronizations: an error names the operation."""
    _, step = ready(config("cifar10-gpu", train__capture="off", train__compile="off"))
    for number in (1, 2):
        step(number)
    wait()
    if CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (3, 4):
            step(number)
    finally:
        if CUDA:
            torch.cuda.set_sync_debug_mode("default")
    return {"synchronizations": 0}


def equality() -> Figures:
    """Weights after 20 captured steps against eager ones, with augmentation, dropout and penalties at intervals."""
    found: Figures = {}
    options = {
        "plain": {},
        "float32": {"train.precision": "fp32"},
        "penalties": {
            "regularization.discriminator.r1": 1.0,
            "regularization.discriminator.r1_interval": 4,
            "regularization.discriminator.lecam": 0.1,
            "augment.policy": ("color", "translation", "cutout"),
            "model.discriminator.dropout": 0.2,
            "train.lr_decay_start": 0,
        },
    }
    for name, changes in options.items():
        weights, losses = [], []
        for capture in ("off", "on", "off"):
            base = config("cifar10-gpu", train__capture=capture, train__compile="off", model__width=16)
            state, step = ready(replace_fields(base, changes))
            scalars = [step(number) for number in range(1, 21)]
            losses.append(torch.stack([torch.stack(list(values.values())).sum() for values in scalars]))
            weights.append(torch.cat([p.detach().flatten() for p in state.generator.network.parameters()]))
        change = lambda other: ((other - weights[0]).norm() / weights[0].norm()).item()  # noqa: E731, B023
        found[name] = {
            "captured_against_eager": change(weights[1]),
            "eager_against_eager": change(weights[2]),
            "scalars_captured": (losses[1] - losses[0]).abs().max().item(),
            "scalars_eager": (losses[2] - losses[0]).abs().max().item(),
        }
    return found


MODES = {
    "eager": {"train__capture": "off", "train__compile": "off"},
    "captured": {"train__capture": "auto", "train__compile": "off"},
    "captured, compiled": {"train__capture": "auto", "train__compile": "on"},
}


def speed(preset: str, modes: tuple[str, ...], seconds: float, **changes: Any) -> Figures:
    """Images per second of a preset in several modes, and its share of the peak."""
    found: Figures = {}
    precision = choose_precision("auto", "auto", "channels-last")
    peak = peak_flops(precision, seconds=1.0 if CUDA else 0.2)
    for mode in modes:
        setting = config(preset, **changes, **MODES[mode])
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            state, step = ready(setting)
            figures = rate(state, step, seconds)
            flop = footprint(setting).flop_per_step / state.plan.real_images
            figures |= {"share_of_peak": figures["images_per_second"] * flop / peak}
        except (RuntimeError, torch.OutOfMemoryError) as error:
            figures = {"error": traceback.format_exc()[-3000:], "kind": type(error).__name__}
        found[mode] = figures
        print(preset, changes, mode, {k: v for k, v in figures.items() if k != "error"}, flush=True)
        state = step = None
    return found


def cifar_speed() -> Figures:
    """cifar10-gpu, eager and captured."""
    return speed("cifar10-gpu", ("eager", "captured"), 5.0)


def cifar_compiled() -> Figures:
    """cifar10-gpu with compiled blocks."""
    return speed("cifar10-gpu", ("captured, compiled",), 5.0)


def large_speed() -> Figures:
    """BigGAN-128 at 128 images, eager and captured."""
    return speed("biggan-128", ("eager", "captured"), 5.0, train__batch=128, train__micro_batch=128)


def large_compiled() -> Figures:
    """BigGAN-128 at 128 images, with compiled blocks."""
    return speed("biggan-128", ("captured, compiled",), 5.0, train__batch=128, train__micro_batch=128)


def larger_batch() -> Figures:
    """BigGAN-128 at 256 images, compiled."""
    return speed("biggan-128", ("captured, compiled",), 8.0, train__batch=256, train__micro_batch=256)


def deep_speed() -> Figures:
    """BigGAN-deep-128 at 128 images."""
    return speed("biggan-deep-128", ("captured",), 8.0, train__batch=128, train__micro_batch=128)


def upsampling() -> Figures:
    """Forward and backward milliseconds of three forms of nearest upsampling and a 3x3 convolution, bf16, channels-last."""
    shapes = [(50, 256, 256, 8), (50, 256, 256, 16)]
    shapes += [(128, 1536, 1536, 4), (128, 1536, 768, 8), (128, 768, 384, 16), (128, 384, 192, 32), (128, 192, 96, 64)]
    found: Figures = {}
    for batch, inputs, outputs, size in [(2, 8, 8, 4)] if MINIATURE else shapes:
        x = torch.randn(batch, inputs, size, size, device=DEVICE, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        weight = torch.randn(outputs, inputs, 3, 3, device=DEVICE) / (3 * inputs**0.5)
        plain = weight.bfloat16().to(memory_format=torch.channels_last).requires_grad_()
        folded = box_sum(weight.flip(2, 3)).transpose(0, 1)
        transposed = folded.bfloat16().to(memory_format=torch.channels_last).requires_grad_()
        phases = phase_kernels(weight).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
        forms = {
            "transposed 4x4": (lambda: F.conv_transpose2d(x, transposed, stride=2, padding=1), transposed),  # noqa: B023
            "nearest and 3x3": (lambda: F.conv2d(F.interpolate(x, scale_factor=2), plain, padding=1), plain),  # noqa: B023
            "3x3 at low resolution, 4 phases": (lambda: F.pixel_shuffle(F.conv2d(x, phases, padding=1), 2), phases),  # noqa: B023
        }
        x.requires_grad_()
        reference, times = forms["nearest and 3x3"][0]().detach().float(), {}
        gradient = torch.randn_like(reference).bfloat16().to(memory_format=torch.channels_last)
        for name, (form, kernel) in forms.items():
            error = ((form().detach().float() - reference).norm() / reference.norm()).item()
            both = lambda: torch.autograd.grad(form(), (x, kernel), gradient)  # noqa: E731, B023
            times[name] = {
                "forward": 1e3 * time_operation(lambda: form().detach()),  # noqa: B023
                "both": 1e3 * time_operation(both),
                "error": error,
            }
        found[f"{batch}x{inputs}x{size}x{size} to {outputs}"] = times
        print(batch, inputs, outputs, size, {k: round(v["both"], 3) for k, v in times.items()}, flush=True)
    return found


def phase_kernels(weight: torch.Tensor) -> torch.Tensor:
    """A 3x3 kernel (O, I, 3, 3) on an upsampled image as one (4 O, I, 3, 3) at low resolution: each of the four phases is
    the 2x2 kernel of its sums of rows and columns, in a 3x3 frame. Outputs are ordered as pixel_shuffle wants."""
    rows = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0.0, 0, 0], [1, 1, 0], [0, 0, 1]]], device=weight.device)
    phases = torch.einsum("pak,qbl,oikl->opqiab", rows, rows, weight)
    return phases.flatten(0, 2)


def kernels() -> Figures:
    """Time by kernel of one eager step of BigGAN-128; COMPILE=on: with compiled blocks."""
    modes = {"train__capture": "off", "train__compile": os.environ.get("COMPILE", "off")}
    setting = config("biggan-128", train__batch=128, train__micro_batch=128, **modes)
    _, step = ready(setting)
    for number in range(1, 4):
        step(number)
    wait()
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * CUDA
    with torch.profiler.profile(activities=activities) as profile:
        step(4)
        wait()
    times: dict[str, list[float]] = {}
    for event in profile.events():
        if CUDA and event.device_type == torch.autograd.DeviceType.CUDA:
            times.setdefault(event.name[:120], []).append(event.device_time_total / 1e3)
    total = sum(map(sum, times.values()))
    table = sorted(((sum(v), len(v), name) for name, v in times.items()), reverse=True)[:45]
    for milliseconds, count, name in table[:25]:
        print(f"{milliseconds:8.2f} ms {count:5} {name}", flush=True)
    return {"total_milliseconds": total, "kernels": table}


def memory() -> Figures:
    """Predicted against allocated peak memory."""
    found: Figures = {}
    for preset, batch in (("cifar10-gpu", 50), ("biggan-128", 64), ("biggan-deep-128", 64)):
        setting = config(preset, train__batch=batch, train__micro_batch=batch, train__capture="off", train__compile="off")
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        state, step = ready(setting)
        for number in (1, 2):
            step(number)
        wait()
        found[preset] = {
            "predicted_gib": estimate_memory(setting).peak(batch) / 2**30,
            "allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if CUDA else None,
        }
        del state, step
    return found


def turns() -> Figures:
    """Milliseconds of one D step and one G step, captured and compiled."""
    found: Figures = {}
    for preset, changes in (("cifar10-gpu", {}), ("biggan-128", {"train__batch": 128, "train__micro_batch": 128})):
        setting = config(preset, **changes, **MODES["captured, compiled" if CUDA else "captured"])
        state, step = ready(setting)
        reals = real_images(state, setting.model.resolution, setting.model.num_classes)
        for number in range(1, 6):
            step(number)
        batches = [next(reals)]
        found[preset] = {
            "discriminator": 1e3 * time_operation(lambda: discriminator_step(state, 6, 0, batches)),  # noqa: B023
            "generator": 1e3 * time_operation(lambda: generator_step(state, 6, 0, batches)),  # noqa: B023
        }
    return found


def train() -> Figures:
    """CIFAR-10 for some minutes by the command line, with scores by the judge."""
    run, minutes = Path(os.environ.get("RUN", "runs/gpu-hour")), os.environ.get("MINUTES", "4")
    command = ["train", "cifar10-gpu", "--data", os.environ["DATA"], "--run", str(run), "--train.minutes", minutes]
    command += os.environ.get("OPTIONS", "").split()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "biggan", *command], check=True)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return {"seconds": seconds, "last": lines[-1], "first": lines[0], "steps": lines[-1]["step"]}


ALL = (facts, no_synchronization, cifar_speed, equality, large_speed, upsampling, kernels, cifar_compiled, large_compiled)
PARTS: dict[str, Callable[[], Figures]] = {
    part.__name__: part for part in (*ALL, memory, turns, larger_batch, deep_speed, train)
}


def main() -> None:
    """Run the parts that are asked for and have no result yet."""
    global MINIATURE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--miniature", action="store_true")
    arguments = parser.parse_args()
    MINIATURE = arguments.miniature
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in PARTS if "all" in arguments.parts else arguments.parts:
        file = arguments.out / f"{name}.json"
        if file.exists():
            continue
        began = time.perf_counter()
        try:
            figures = PARTS[name]()
        except Exception:  # the other parts shall still run
            (arguments.out / f"{name}.error.txt").write_text(traceback.format_exc())
            print(f"== {name} failed\n{traceback.format_exc()[-2500:]}", flush=True)
            continue
        figures["part_seconds"] = time.perf_counter() - began
        file.write_text(json.dumps(figures, indent=1) + "\n")
        shown = json.dumps({key: value for key, value in figures.items() if key != "kernels"})
        print(f"== {name} {shown[:1800]}", flush=True)


if __name__ == "__main__":
    main()
