"""Device, precision and memory layout of networks, and numerics of the process, applied from outside by training, sampling
and benchmarks.

bf16 means autocast: weights, optimizer state, spectral norms and batch statistics stay float32. By torch's own defaults
convolutions of float32 numbers use TF32 on a GPU, which keeps 10 of the 23 bits of the mantissa; here only where the config
says so.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from biggan.runtime.environment import environment_world
from biggan.runtime.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]

PrecisionName = Literal["auto", "bf16", "fp32"]

MemoryFormatName = Literal["channels-last", "contiguous"]

MEMORY_FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Precision:
    """Device, floating-point precision (bf16 autocast or float32) and memory format of a run."""

    device: torch.device
    """Of CUDA always with its index."""
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
        for tensor in (*network.parameters(), *network.buffers()):  # Module.to cannot move tensors without data
            moved = tensor.data.to(self.device)
            tensor.data = moved.to(memory_format=self.memory_format) if moved.dim() == 4 else moved
        return network

    @property
    def numerics(self) -> dict[str, Any]:
        """As `describe_numerics`, for recipes of scores and keys of caches."""
        return describe_numerics(self.device, self.arithmetic)


CPU_FLOAT32 = Precision(torch.device("cpu"), False, torch.contiguous_format)


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """How the process computes on CUDA where speed and exactness part; on a CPU nothing of it changes a result. The defaults
    are those of sampling and measuring."""

    tf32: bool = False
    """Whether matrix products and convolutions of float32 numbers may use TF32."""
    cudnn_benchmark: bool = False
    """Whether cuDNN times its convolution algorithms for each new shape, and takes the fastest."""
    deterministic: bool = False
    """Whether every operation must give the same bits each time; one that cannot is an error. Turns cudnn_benchmark off."""


def apply_numerics(numerics: Numerics) -> None:
    """Make torch compute so from now on; mutates its global settings. `deterministic` must come before the first matrix
    product on CUDA, since cuBLAS reads its environment variable then."""
    if numerics.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(numerics.deterministic)
    torch.backends.cudnn.deterministic = numerics.deterministic
    torch.backends.cudnn.benchmark = numerics.cudnn_benchmark and not numerics.deterministic
    set_tf32(numerics.tf32, numerics.tf32)


def set_tf32(products: bool, convolutions: bool) -> None:
    """Whether float32 matrix products and convolutions on CUDA may use TF32; mutates torch's global settings."""
    with warnings.catch_warnings():  # some versions advise their newer names, with which torch.compile of torch 2.10 fails
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def get_tf32() -> tuple[bool, bool]:
    """Whether float32 matrix products and convolutions on CUDA may use TF32 now."""
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul.fp32_precision == "tf32", cudnn.conv.fp32_precision == "tf32"


@contextmanager
def without_tf32() -> Iterator[None]:
    """A context in which float32 products and convolutions on CUDA do not use TF32, whatever the process does otherwise."""
    before = get_tf32()
    set_tf32(False, False)
    try:
        yield
    finally:
        set_tf32(*before)


@contextmanager
def tf32_products(device: torch.device, enabled: bool) -> Iterator[None]:
    """A context in which float32 matrix products on a CUDA device may use TF32, if `enabled`; else it changes nothing."""
    if device.type != "cuda" or not enabled:
        yield
        return
    before = get_tf32()
    set_tf32(True, before[1])
    try:
        yield
    finally:
        set_tf32(*before)


def describe_numerics(device: torch.device, arithmetic: str) -> dict[str, Any]:
    """What decides how numbers are rounded, as the process computes now: type of the device, data type, whether TF32 is used
    in place of float32, whether operations are deterministic."""
    return {
        "device": device.type,
        "arithmetic": arithmetic,
        "tf32": device.type == "cuda" and any(get_tf32()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def choose_precision(device: DeviceName, precision: PrecisionName, memory_format: MemoryFormatName) -> Precision:
    """Resolve "auto": the device as `choose_device`; bf16 if the device multiplies it in hardware.

    Raises ConfigError on another name, and as `choose_device`.
    """
    resolved = choose_device(device)
    check_name("precision", precision, PrecisionName)
    bf16 = has_fast_bf16(resolved) if precision == "auto" else precision == "bf16"
    return Precision(resolved, bf16, MEMORY_FORMATS[memory_format])


def choose_device(device: DeviceName) -> torch.device:
    """The device of this process: "auto" is CUDA if available. A CUDA device has an index: that of the rank on its machine
    where several ranks were started, also before their process group sets the current device, else the current one.

    Raises ConfigError on another name, if CUDA is requested but not available, and if there is no GPU for the rank.
    """
    check_name("device", device, DeviceName)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device here: use device cpu, or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    world = environment_world()
    if world.size == 1:
        return torch.device("cuda", torch.cuda.current_device())
    if world.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"LOCAL_RANK={world.local_rank}: this machine shows {torch.cuda.device_count()} GPUs: start fewer ranks"
        )
    return torch.device("cuda", world.local_rank)


def check_name(what: str, value: str, known: Any) -> None:
    """Raises ConfigError where `value` is none of the words of the Literal type `known`."""
    if value not in get_args(known):
        raise ConfigError(f"{what} {value!r:.60}: use {', '.join(get_args(known))}")


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
