"""Files written tensor by tensor: what the library reads and writes, without another copy of everything."""

import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from biggan.runtime.atomic_io import write_stream
from biggan.runtime.tensor_stream import DTYPES, stream_tensors

TENSORS = {str(dtype): torch.arange(-3, 4).to(dtype) for dtype in DTYPES} | {
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    'a \N{SNOWMAN} name/"quoted"': torch.randn(3, requires_grad=True),
}


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "config": '{"a": 1}'}])
def test_the_library_reads_what_was_written(metadata, tmp_path):
    shared = torch.randn(4)
    tensors = TENSORS | {"one": shared, "other": shared}
    stream = stream_tensors(tensors, metadata)
    write_stream(tmp_path / "file", stream.blocks())
    data = (tmp_path / "file").read_bytes()
    assert len(data) == stream.size
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o666 & ~umask()
    read = safetensors.torch.load(data)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, torch.equal(read[name], tensor)) == (tensor.dtype, True), name
    assert safetensors.torch.save({}) == b"".join(stream_tensors({}).blocks())


def umask() -> int:
    """The bits of permissions that new files do not get."""
    os.umask(value := os.umask(0))
    return value


def test_types_without_a_name_are_refused():
    with pytest.raises(KeyError, match="complex64"):
        stream_tensors({"a": torch.zeros(2, dtype=torch.complex64)})


PROGRAM = """
import hashlib, resource, sys, torch
from biggan.runtime.atomic_io import write_stream
from biggan.runtime.tensor_stream import hashing, stream_tensors
tensors = {str(number): torch.ones(2048, 2048) for number in range(20)}  # 16 MiB each
digest, before = hashlib.sha256(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_stream(__import__("pathlib").Path(sys.argv[1]), hashing(stream_tensors(tensors).blocks(), digest))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, digest.hexdigest())
"""


def test_contiguous_tensors_are_written_without_a_copy(tmp_path):
    """20 tensors of 16 MiB: the peak grows by less than three of them."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "file"], capture_output=True, text=True, check=True)
    grown, digest = told.stdout.split()
    assert int(grown) < 48, "MiB"
    assert digest == subprocess.run(["sha256sum", tmp_path / "file"], capture_output=True, text=True).stdout.split()[0]
