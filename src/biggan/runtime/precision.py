"""Device, precision and memory layout of networks, applied from outside by training, sampling and benchmarks.

bf16 means autocast: weights, optimizer state, spectral norms and batch statistics stay float32.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from biggan.runtime.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]

PrecisionName = Literal["auto", "bf16", "fp32"]

MemoryFormatName = Literal["channels-last", "contiguous"]

MEMORY_FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Precision:
    """Device, floating-point precision (bf16 autocast or float32) and memory format of a run."""

    device: torch.device
    bf16: bool
    memory_format: torch.memory_format

    @property
    def dtype(self) -> torch.dtype:
        """Data type of activations, and of weights that are prepared for inference."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def arithmetic(self) -> str:
        """Name of the data type, for recipes of scores and reports."""
        return "bf16" if self.bf16 else "float32"

    def autocast(self) -> AbstractContextManager:
        """The context of every forward pass. Casts are not cached, because normalized weights are new in each pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def place(self, network: nn.Module) -> nn.Module:
        """Move the network to the device and its convolution weights to the memory format; mutates and returns it."""
        return network.to(device=self.device).to(memory_format=self.memory_format)


CPU_FLOAT32 = Precision(torch.device("cpu"), False, torch.contiguous_format)


def choose_precision(device: DeviceName, precision: PrecisionName, memory_format: MemoryFormatName) -> Precision:
    """Resolve "auto": CUDA if available; bf16 if the device multiplies it in hardware.

    Raises ConfigError on another name, and if CUDA is requested but not available.
    """
    for name, value, known in (("device", device, DeviceName), ("precision", precision, PrecisionName)):
        if value not in get_args(known):
            raise ConfigError(f"{name} {value!r:.60}: use {', '.join(get_args(known))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device here: use device cpu, or auto")
    resolved = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    bf16 = has_fast_bf16(resolved) if precision == "auto" else precision == "bf16"
    return Precision(resolved, bf16, MEMORY_FORMATS[memory_format])


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware (AMX or AVX-512 on a CPU, Ampere or later on CUDA)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor to the device without waiting for the device's pending work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def uint8_to_float(images_uint8: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """Images as networks see them: uint8 0..255 -> float32 in [-1, 1]."""
    return images_uint8.to(torch.float32, memory_format=memory_format).div_(127.5).sub_(1)
