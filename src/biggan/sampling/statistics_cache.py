"""The cache of standing statistics that were collected for sampling at a truncation: one small file for each set.

A file holds the sha256 of its content and safetensors; its name is a hash of all that decides the numbers, so that images
drawn on a CPU are the same to the bit with and without it. A file that is damaged, or cannot be written, is as good as none.
"""

import hashlib
import logging
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from biggan.runtime.atomic_io import write_file
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.precision import Precision
from biggan.runtime.tensor_files import tensors_sha256

logger = logging.getLogger(__name__)

FORMAT = 1

DIGEST = 64  # letters of a hexadecimal sha256


def standing_buffers(generator: nn.Module) -> dict[str, Tensor]:
    """The buffers of a generator that hold standing statistics, by name."""
    return {name: value for name, value in generator.named_buffers() if name.split(".")[-1].startswith("standing")}


def statistics_key(generator: nn.Module, precision: Precision, *facts: object) -> str:
    """Hexadecimal sha256 of a generator's config and weights, of what decides how its numbers are rounded (device, data
    type, TF32, memory layout, threads, version of torch), and of further facts with a stable repr."""
    device = precision.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    numerics = [
        sorted(precision.numerics.items()),
        name,
        precision.memory_format,
        torch.get_num_threads(),
        torch.__version__,
    ]
    digest = hashlib.sha256(repr((FORMAT, generator.config, numerics, facts)).encode())
    standing = standing_buffers(generator)
    weights = {key: value for key, value in generator.state_dict().items() if key not in standing}
    digest.update(tensors_sha256(weights).encode())
    return digest.hexdigest()


@torch.no_grad()
def load_statistics(folder: Path, key: str, generator: nn.Module) -> bool:
    """Set the standing statistics to those in the cache; False where there are none, or none that fit. Mutates buffers."""
    try:
        data = read_file(folder / f"{key}.statistics", SMALL_FILE)
        if hashlib.sha256(data[DIGEST:]).hexdigest().encode() != data[:DIGEST]:
            raise ValueError("its sha256 is another one")
        tensors = safetensors.torch.load(data[DIGEST:])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, SafetensorError) as error:
        logger.warning("statistics %s cannot be used (%s): they are collected again", folder / f"{key}.statistics", error)
        return False
    buffers = standing_buffers(generator)
    if {name: value.shape for name, value in buffers.items()} != {name: value.shape for name, value in tensors.items()}:
        return False
    if not all(value.dtype == torch.float32 and value.isfinite().all() for value in tensors.values()):
        return False
    for name, value in buffers.items():
        value.copy_(tensors[name])
    return True


def save_statistics(folder: Path, key: str, generator: nn.Module) -> None:
    """Write the standing statistics into the cache; where that cannot be done, say so."""
    data = safetensors.torch.save({name: value.cpu().contiguous() for name, value in standing_buffers(generator).items()})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{key}.statistics", hashlib.sha256(data).hexdigest().encode() + data)
    except OSError as error:
        logger.warning("statistics are not kept for the next command: %s cannot be written (%s)", folder, error)
