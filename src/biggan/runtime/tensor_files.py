"""Reading dictionaries of tensors from safetensors and PyTorch files of others, without running code from them."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from biggan.runtime.bounded_io import check_zip_layout, open_regular_file
from biggan.runtime.errors import CheckpointError, first_line


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors from a safetensors or PyTorch file; code in the file is never run.

    Raises CheckpointError if the file is missing, damaged or contains anything else."""
    try:
        open_regular_file(file).close()
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if zipfile.is_zipfile(file):
            check_zip(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {file}") from error
    except UnpicklingError as error:  # torch's message would advise to trust the file
        raise CheckpointError(
            f"{file} cannot be read as tensors: it is damaged, or holds more than plain tensors, which is not trusted; "
            "give the file with the weights of one network"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as tensors ({first_line(error)}): fetch it again") from error
    if not isinstance(tensors, dict) or not all(is_dense_real(tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors: give the file with the weights of one network")
    return dict(tensors)


def check_zip(file: Path) -> None:
    """Compare the checksums in a PyTorch file, which torch does not, after making sure that it does not unpack to more than
    its size: torch stores without compression. Raises CheckpointError if it is damaged, ValueError if it is compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in entries):
            raise ValueError("it is compressed, which files of torch.save are not")
        check_zip_layout(archive)
        if damaged := archive.testzip():
            raise CheckpointError(f"{file} is damaged at {damaged}: fetch it again")


def is_dense_real(value: object) -> bool:
    """Whether a value is a dense tensor of real numbers."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()
