"""Reading dictionaries of tensors from safetensors and PyTorch files of others, without running code from them."""

import hashlib
import io
import os
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from biggan.runtime.bounded_io import open_regular_file, read_file, read_zip_entry
from biggan.runtime.errors import CheckpointError, first_line
from biggan.runtime.json_text import parse_json
from biggan.runtime.pickles import check_pickle
from biggan.runtime.state_dicts import choose_state_dict, strip_wrappers
from biggan.runtime.text import printable

LARGEST_FILE = 1 << 37  # bytes; larger than any file of weights

MAX_EXPANSION = 4
"""Bytes of tensors for each byte of their file: a few weights may share a storage, or be stored as views of each other."""

LEGACY_PICKLES = 5
"""At the beginning of a PyTorch file without zip: a magic number, a version, the system, the content, names of storages."""

LARGEST_HEADER = 1 << 24  # bytes of a safetensors header, and of the description of a PyTorch file

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# What programs save beside the weights, and what is read of it as `SkippedValue`: numbers and arrays of NumPy, options.
SKIPPED = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "argparse.Namespace",
)


class SkippedValue:
    """Stands for a value in a PyTorch file that is no tensor and is not needed. What it was made from is dropped."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Safetensors(NamedTuple):
    """What a safetensors file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    """Of the whole file."""


def read_safetensors(file: Path) -> Safetensors:
    """Read a safetensors file. Raises CheckpointError if it is missing, no regular file or damaged."""
    try:
        metadata = read_safetensors_header(file).get("__metadata__") or {}
        data = read_file(file, LARGEST_FILE)
        tensors = safetensors.torch.load(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {file}") from error
    except Exception as error:  # the library passes on errors of many kinds for a header that makes no sense
        raise CheckpointError(f"{file} cannot be read as tensors ({describe(error)}): fetch or copy it again") from error
    return Safetensors(tensors, metadata, hashlib.sha256(data).hexdigest())


def read_safetensors_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, before all of it is read. Raises ValueError where the file is not as long as the
    header says."""
    with open_regular_file(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = os.fstat(stream.fileno()).st_size
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, more than {LARGEST_HEADER:,}")
        header = parse_json(stream.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if size != 8 + length + max(ends, default=0):
        raise ValueError(f"it has {size:,} bytes, not the {8 + length + max(ends, default=0):,} of its header")
    return header


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hexadecimal sha256 of names, types, shapes and values of dense tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode("utf-8", "backslashreplace"))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_tensors(file: Path, *, network: str | None = None, entry: str | None = None) -> dict[str, Tensor]:
    """Read the weights of one network from a safetensors or PyTorch file; code in the file is never run.

    A checkpoint may hold several networks, and other things beside them. `network` ("generator" or "discriminator") says
    which one is wanted; of a generator and its moving average the average is taken. `entry`: the name of the entry to take
    instead. Prefixes that DistributedDataParallel and torch.compile add to names are removed.

    Raises CheckpointError if the file is missing, damaged, or contains anything that is not plain data, if no network is
    found in it, or if a tensor is not a dense one of real numbers."""
    value = dict(read_safetensors(file).tensors) if file.suffix == ".safetensors" else read_pytorch_file(file)
    tensors = strip_wrappers(choose_state_dict(value, file, network=network, entry=entry))
    total, size = 0, file.stat().st_size
    for name, tensor in tensors.items():
        if not is_dense_real(tensor):
            raise CheckpointError(
                f"{file}: {printable(name)} is no dense tensor of real numbers: give the file of one network"
            )
        total += tensor.numel() * tensor.element_size()
    if total > MAX_EXPANSION * size + (1 << 20):  # views of one small storage can stand for gigabytes
        raise CheckpointError(f"{file} of {size:,} bytes stands for tensors of {total:,} bytes: it is not read")
    return tensors


def read_pytorch_file(file: Path) -> Any:
    """What a PyTorch file holds: tensors, numbers and containers of them. Raises CheckpointError as `read_tensors`."""
    try:
        with open_regular_file(file) as stream:
            if zipfile.is_zipfile(stream):
                check_zip(stream, file)
            else:
                check_old_format(stream, file)
            stream.seek(0)
            with warnings.catch_warnings(), torch.serialization.safe_globals([(SkippedValue, name) for name in SKIPPED]):
                warnings.simplefilter("ignore")  # of PyTorch, about old formats
                return torch.load(stream, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {file}") from error
    except UnpicklingError as error:  # torch's message would advise to trust the file
        raise CheckpointError(
            f"{file} cannot be read as tensors: it is damaged, or holds more than plain tensors, which is not trusted; "
            "give the file with the weights of one network"
        ) from error
    except Exception as error:  # a damaged file ends torch's reader in many kinds of error
        raise CheckpointError(f"{file} cannot be read as tensors ({describe(error)}): fetch it again") from error


def check_zip(stream: IO[bytes], file: Path) -> None:
    """Raises CheckpointError where a zip file is damaged, which torch does not verify, or would unpack to more than its own
    size: PyTorch stores without compression."""
    size = stream.seek(0, 2)
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"{file} is a compressed zip file, not one of PyTorch: unpack it and give the file in it")
        if sum(member.file_size for member in members) > size:
            raise CheckpointError(f"{file} is damaged: its members overlap; fetch it again")
        if damaged := archive.testzip():
            raise CheckpointError(f"{file} is damaged at {printable(damaged)}: fetch it again")
        for member in members:
            if member.filename.endswith(".pkl"):
                check_pickle(io.BytesIO(read_zip_entry(archive, member, LARGEST_HEADER)))


def check_old_format(stream: IO[bytes], file: Path) -> None:
    """Raises CheckpointError where a file is of a format that PyTorch has given up, ValueError where one of the pickles that
    one without zip begins with cannot be read safely."""
    stream.seek(0)
    if tarfile.is_tarfile(stream):
        raise CheckpointError(f"{file} is a tar file, as PyTorch wrote them before 2018: load and save it anew there")
    stream.seek(0)
    for _ in range(LEGACY_PICKLES):
        check_pickle(stream)


def describe(error: Exception) -> str:
    """The first line of an exception's message, printable and short, or its type if the message has no word."""
    text = printable(first_line(error))[:200]
    if "weights_only" in text:  # PyTorch's advice to trust the file
        return "its format is not supported"
    return text if re.search(r"[a-z]{3}", text) else f"{type(error).__name__} {text}".strip()


def is_dense_real(value: object) -> bool:
    """Whether a value is a dense tensor of real numbers in memory."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested:
        return False
    return not (value.is_complex() or value.is_quantized or value.is_meta)


def other_precisions(tensors: dict[str, Tensor]) -> str:
    """The floating-point types of the tensors other than float32, in words; empty if there are none."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()}
    return " and ".join(sorted(kinds - {"float32"}))


def check_weights(tensors: dict[str, Tensor], file: Path) -> None:
    """Raises CheckpointError where a tensor holds floating-point numbers that are not finite, also after conversion to
    float32, or of a type that is not one of weights (such as float8)."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            if tensor.is_complex():
                raise CheckpointError(f"{file}: {printable(name)} holds complex numbers, not weights")
            continue
        if tensor.dtype not in WEIGHT_DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{file}: {printable(name)} is {kind}, not float32, float16, bfloat16 or float64")
        if not tensor.float().isfinite().all():
            raise CheckpointError(f"{file}: {printable(name)} holds numbers that are not finite: the file is damaged")
