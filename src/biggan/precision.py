"""How a network is laid out and in which precision it computes: applied from outside, the networks do not know.

bf16 is autocast: weights, optimiser, spectral norms and batch statistics stay float32. Training, sampling and benchmarks
all choose here. So is torch.compile, for sampling.
"""

import ctypes
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from biggan.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "bf16", "fp32"]
MemoryFormatName = Literal["channels-last", "contiguous"]
MEMORY_FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Precision:
    """Device, arithmetic and memory layout of a run."""

    device: torch.device
    bf16: bool
    memory_format: torch.memory_format

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, and of weights that will not change."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def autocast(self) -> AbstractContextManager:
        """Around each forward pass. Casts are not cached: normalised weights are new in every pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, convolution weights in the memory format; mutates and returns it."""
        return network.to(device=self.device, memory_format=self.memory_format)


PLAIN = Precision(torch.device("cpu"), False, torch.contiguous_format)


def choose_precision(device: DeviceName, precision: PrecisionName, memory_format: MemoryFormatName) -> Precision:
    """Resolves "auto": the GPU where there is one; bf16 where the processor multiplies it in hardware.

    Raises ConfigError for "cuda" on a machine without it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda but torch sees no CUDA device here: use --train.device cpu")
    place = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    bf16 = has_fast_bf16(place) if precision == "auto" else precision == "bf16"
    return Precision(place, bf16, MEMORY_FORMATS[memory_format])


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware (AMX or AVX-512 on a CPU, Ampere or later on CUDA)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, without waiting for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Compiled:
    """A network that will not change, of (z (N, Z), y (N,)), through torch.compile. Smaller batches are filled up to the
    largest one seen, so that it is compiled once, in the first call: seconds to minutes."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Raises ConfigError where there is no C++ compiler for the CPU."""
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise ConfigError("compiling for the CPU needs a C++ compiler and finds none: install g++, or do without")
        self.network = torch.compile(network, dynamic=False)
        self.batch = 0

    def __call__(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        count = len(z_NZ)
        self.batch = max(self.batch, count)
        places = torch.arange(self.batch, device=z_NZ.device).clamp(max=count - 1)
        return self.network(z_NZ[places], y_N[places])[:count]


def keep_freed_memory() -> bool:
    """Let the C library keep large freed blocks for the next step instead of giving them back to the system, which would
    hand them out again page by page. For training on a CPU, once per process; whether the library can (glibc) is returned.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    kept = set_option(trim_threshold, (1 << 31) - 1)
    mapped = set_option(mmap_threshold, 1 << 30) or set_option(mmap_threshold, 1 << 25)  # older glibc takes at most 32 MiB
    return bool(kept and mapped)
