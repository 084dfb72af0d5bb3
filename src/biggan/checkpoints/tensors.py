"""Tensors on disk: checkpoints, verified by their checksum, and safetensors files."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from biggan.configs.migrations import migrate_tensors
from biggan.runtime.bounded_io import RefusedFile, read_file
from biggan.runtime.errors import CheckpointError, reason_for, remedy_for
from biggan.runtime.json_text import read_json
from biggan.runtime.metric_logger import is_number, is_step
from biggan.runtime.tensor_files import WEIGHT_DTYPES
from biggan.runtime.tensor_stream import hashing, stream_tensors
from biggan.runtime.text import printable, shorten

Tensors = dict[str, Tensor]

MANIFEST_FORMAT = 2
"""Of checkpoints; the first, of version 0.1, has no number in its manifest."""


class Checkpoint(NamedTuple):
    """The tensors and counters of a training state after `step` generator steps."""

    step: int
    tensors: Tensors
    counters: dict[str, Any]
    path: Path


class CorruptCheckpoint(CheckpointError):
    """What is on disk is not what was written."""


def checkpoint_files(step: int, tensors: Tensors, counters: dict[str, float]) -> dict[str, Iterable[bytes | memoryview]]:
    """The files of a checkpoint folder in the order of writing: tensors.safetensors, and manifest.json with a checksum over
    both. Their content is made while they are written, without another copy of the tensors."""
    stream = stream_tensors(tensors)
    manifest = {"format": MANIFEST_FORMAT, "step": step, "bytes": stream.size, "counters": counters}
    digest = begin_checksum(manifest)

    def last() -> Iterator[bytes]:  # when the tensors are written, and their checksum so known
        yield json.dumps(manifest | {"sha256": digest.hexdigest()}, indent=2).encode()

    return {"tensors.safetensors": hashing(stream.blocks(), digest), "manifest.json": last()}


def begin_checksum(manifest: dict[str, Any]) -> "hashlib._Hash":
    """The sha256 over the facts of a manifest, all but the checksum itself, to which the tensors are to be added. In the
    first format, of version 0.1, which has no number, it is over the tensors alone."""
    facts = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode() if "format" in manifest else b"")


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint folder, verified. Raises CorruptCheckpoint where it is not what was written, or CheckpointError when the
    system does not let it be read."""
    try:
        manifest = read_json(path / "manifest.json")
        check_manifest(manifest)
        named = path.name.removeprefix("step-")
        if path.name.startswith("step-") and named.isdecimal() and int(named) != manifest["step"]:
            raise ValueError(f"it is of step {manifest['step']}, not of that in its name")
        data = read_file(path / "tensors.safetensors", manifest["bytes"])
        digest = begin_checksum(manifest)
        digest.update(data)
        if digest.hexdigest() != manifest["sha256"]:
            raise CorruptCheckpoint(f"checkpoint {path} is damaged: its checksum is wrong")
        return Checkpoint(manifest["step"], migrate_tensors(safetensors.torch.load(data)), manifest["counters"], path)
    except (FileNotFoundError, NotADirectoryError, RefusedFile, ValueError, SafetensorError) as error:
        raise CorruptCheckpoint(f"checkpoint {path} is damaged ({reason_for(error)})") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({reason_for(error)}): {remedy_for(error)}") from error


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raises ValueError where a manifest lacks something, or has it in another type."""
    if manifest.get("format", MANIFEST_FORMAT) != MANIFEST_FORMAT:
        raise ValueError(f"its format is {str(manifest['format'])[:20]}, not {MANIFEST_FORMAT}")
    counters = manifest.get("counters")
    if not is_step(manifest.get("step")):
        raise ValueError("its manifest names no step")
    if not (isinstance(counters, dict) and all(is_number(value) and math.isfinite(value) for value in counters.values())):
        raise ValueError("its manifest has no counters")
    if type(manifest.get("bytes")) is not int or not isinstance(manifest.get("sha256"), str):
        raise ValueError("its manifest has no size and checksum")


@contextmanager
def loading_checkpoint(path: Path) -> Iterator[None]:
    """Around loading the tensors of a checkpoint into networks and optimizers: where one is missing or does not fit, raises
    CheckpointError in one line."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint {path} does not fit this version of the networks: {printable(reason)[:200]}"
        ) from error


def check_fits(tensors: Tensors, state: Tensors, what: str) -> None:
    """Raises CheckpointError, which begins with `what`, unless the tensors have the names, shapes and kinds of numbers of a
    network's `state`. Floating-point numbers may be of another precision."""
    for names, problem in ((state.keys() - tensors.keys(), "is missing"), (tensors.keys() - state.keys(), "is unknown")):
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CheckpointError(f"{what}: {shorten(printable(min(names)), 100)} {problem}{others}")
    for name, tensor in tensors.items():
        expected = state[name]
        if tensor.shape != expected.shape:
            raise CheckpointError(
                f"{what}: {shorten(printable(name), 100)} is {tuple(tensor.shape)}, not {tuple(expected.shape)}"
            )
        allowed = WEIGHT_DTYPES if expected.is_floating_point() else (expected.dtype,)
        if tensor.dtype not in allowed:
            kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{what}: {shorten(printable(name), 100)} holds numbers of type {kind}, not {kinds}")


def split_by_prefix(tensors: Tensors) -> dict[str, Tensors]:
    """{"part/name": tensor} as {"part": {"name": tensor}}."""
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = tensor
    return parts
