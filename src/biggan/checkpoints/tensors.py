"""Tensors on disk: checkpoints, verified by their checksum, and safetensors files."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from biggan.configs.migrations import migrate_tensors
from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import WEIGHT_DTYPES
from biggan.runtime.text import printable

Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """The tensors and counters of a training state after `step` generator steps."""

    step: int
    tensors: Tensors
    counters: dict[str, Any]
    path: Path


class CorruptCheckpoint(CheckpointError):
    """What is on disk is not what was written."""


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint folder, verified. Raises CorruptCheckpoint, or CheckpointError when the system refuses to read it."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        data = (path / "tensors.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise CorruptCheckpoint(f"checkpoint {path} is damaged: its checksum is wrong")
        return Checkpoint(manifest["step"], migrate_tensors(safetensors.torch.load(data)), manifest["counters"], path)
    except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptCheckpoint(f"checkpoint {path} is damaged ({error})") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}): try again, or look at the disk") from error


def check_fits(tensors: Tensors, state: Tensors, what: str) -> None:
    """Raises CheckpointError, which begins with `what`, unless the tensors have the names, shapes and kinds of numbers of a
    network's `state`. Floating-point numbers may be of another precision."""
    for names, problem in ((state.keys() - tensors.keys(), "is missing"), (tensors.keys() - state.keys(), "is unknown")):
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CheckpointError(f"{what}: {short_name(min(names))} {problem}{others}")
    for name, tensor in tensors.items():
        expected = state[name]
        if tensor.shape != expected.shape:
            raise CheckpointError(f"{what}: {short_name(name)} is {tuple(tensor.shape)}, not {tuple(expected.shape)}")
        allowed = WEIGHT_DTYPES if expected.is_floating_point() else (expected.dtype,)
        if tensor.dtype not in allowed:
            kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{what}: {short_name(name)} holds numbers of type {kind}, not {kinds}")


def short_name(name: str) -> str:
    """The name of a tensor of others for a message: printable, of at most 100 characters."""
    return printable(name)[:100]


def split_by_prefix(tensors: Tensors) -> dict[str, Tensors]:
    """{"part/name": tensor} as {"part": {"name": tensor}}."""
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = tensor
    return parts


def serialize_tensors(tensors: Tensors) -> bytes:
    """Tensors, from any device and in any layout, as the bytes of a safetensors file; two names may share one tensor."""
    seen: set[int] = set()
    copies = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        copies[name] = copy.clone() if copy.data_ptr() in seen else copy
        seen.add(copy.data_ptr())
    return safetensors.torch.save(copies)
