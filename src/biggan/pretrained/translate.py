"""Carrying tensors from names of another implementation to ours: every source tensor is used exactly once or is on a short
list of exceptions, every shape is checked, nothing may be missing. Reading of foreign files, without unpickling code.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from biggan.checkpoint import Tensors
from biggan.errors import CheckpointError, first_line
from biggan.latents import LatentConfig
from biggan.models import ModelConfig


class Foreign(NamedTuple):
    """A model of another implementation in our names: "generator", and perhaps "training_generator", "discriminator" and
    "statistics" (for the truncations `statistics_at`)."""

    model: ModelConfig
    latent: LatentConfig
    parts: dict[str, Tensors]
    statistics_at: tuple[float, ...]
    source: str


Rename = Callable[[str, Tensor], tuple[str, Tensor]]  # their name and tensor -> ours


def translate(source: Tensors, network: nn.Module, rename: Rename, *, exceptions: Sequence[str], what: str) -> Tensors:
    """The state of `network` from foreign tensors. `exceptions`: patterns of names that have no counterpart.

    Raises CheckpointError naming the tensor that is surplus, missing, given twice, or of another shape.
    """
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: Tensors = {}
    for theirs, tensor in source.items():
        if any(re.fullmatch(pattern, theirs) for pattern in exceptions):
            continue
        ours, value = rename(theirs, tensor)
        if ours not in expected:
            raise CheckpointError(f"{what}: {theirs} has no place in a {network.config.family} of this size")
        if ours in state:
            raise CheckpointError(f"{what}: {theirs} is a second tensor for {ours}")
        if value.shape != expected[ours]:
            raise CheckpointError(f"{what}: {theirs} is {tuple(value.shape)}, {ours} is {tuple(expected[ours])}")
        if not value.isfinite().all():
            raise CheckpointError(f"{what}: {theirs} holds numbers that are not finite: the file is damaged")
        state[ours] = value.float().contiguous()
    missing = [name for name in expected if name not in state]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{what}: nothing for {missing[0]}{more}: the file is incomplete, or of another network")
    return state


def read_tensors(file: Path) -> Tensors:
    """A dictionary of tensors from a safetensors file or a PyTorch file, whose code is never run.

    Raises CheckpointError where that is not what the file holds."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):  # torch does not look
            raise CheckpointError(f"{file} is damaged at {damaged}: fetch it again")
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {file}") from error
    except UnpicklingError as error:  # torch's own text would advise to trust the file
        raise CheckpointError(
            f"{file} cannot be read as tensors: it is damaged, or holds more than plain tensors, which is not trusted; "
            "give the file with the weights of one network"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as tensors ({first_line(error)}): fetch it again") from error
    if not isinstance(tensors, dict) or not all(is_plain(tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors: give the file with the weights of one network")
    return dict(tensors)


def is_plain(value: object) -> bool:
    """Whether it is a dense tensor of real numbers."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()


def needed(source: Tensors, name: str, dimensions: int, what: str) -> Tensor:
    """A tensor that the config is read from. Raises CheckpointError where it is absent, or has other dimensions."""
    if name not in source:
        raise CheckpointError(f"{what}: no tensor {name!r}: not the file of such a network")
    if source[name].dim() != dimensions:
        raise CheckpointError(f"{what}: {name} has {source[name].dim()} dimensions, not {dimensions}")
    return source[name]


def divided(number: int, by: int, name: str, what: str) -> int:
    """number / by. Raises CheckpointError where that leaves a remainder."""
    if number % by or number < by:
        raise CheckpointError(f"{what}: {name} has {number} rows, which is no multiple of {by}")
    return number // by
