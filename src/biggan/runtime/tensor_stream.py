"""Writing safetensors files block by block: nothing but one tensor at a time is copied, however large the file.

The library's own writers hold a second copy of all tensors (`save`), or make a file that only its owner may read and put it
in the place of a device of that name (`save_file`). The format: https://github.com/huggingface/safetensors, "Format"."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of types of numbers."""


class TensorStream(NamedTuple):
    """A safetensors file about to be written: its header, and its tensors in the order of the file."""

    header: bytes
    tensors: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """The content of the file, in parts: the header, then each tensor."""
        yield self.header
        for tensor in self.tensors:
            yield memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def hashing(blocks: Iterable[bytes | memoryview], digest: "hashlib._Hash") -> Iterator[bytes | memoryview]:
    """The same blocks, each added to a hash when it is taken."""
    for block in blocks:
        digest.update(block)
        yield block


def stream_tensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> TensorStream:
    """Tensors by name, from any device and in any layout, as a safetensors file; two names may share one tensor. Raises
    KeyError on numbers of a type that is not in DTYPES."""
    # The widest numbers first, as the library does: so all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        offsets = [offset, offset := offset + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return TensorStream(len(text).to_bytes(8, "little") + text, tuple(tensor.detach() for _, tensor in ordered))
