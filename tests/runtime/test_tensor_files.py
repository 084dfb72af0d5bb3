"""Weights as people hold them: wrapped, prefixed, beside other things; and files that stand for more than they are."""

import argparse
import collections
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import check_weights, read_safetensors, read_tensors, tensors_sha256

NETWORK = collections.OrderedDict(weight=torch.nn.Parameter(torch.ones(3, 2)), bias=torch.zeros(2))
OTHER = {name: tensor.detach() * 0 + 7 for name, tensor in NETWORK.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "betas": (0, 0.9)}]}


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        NETWORK,
        dict(NETWORK),
        prefixed(NETWORK, "module."),
        prefixed(NETWORK, "_orig_mod."),
        prefixed(NETWORK, "module._orig_mod."),
        prefixed(NETWORK, "_orig_mod.module."),
        {"n_averaged": torch.tensor(3), **prefixed(NETWORK, "module.")},
        {"state_dict": NETWORK, "epoch": 3, "optimizer": OPTIMIZER},
        {"state_dict": {"G": NETWORK, "D": OTHER}},
        {"model": prefixed(NETWORK, "module."), "epoch": np.int64(3), "best": np.float32(0.5), "done": np.bool_(True)},
        {"G": OTHER, "G_ema": NETWORK, "D": OTHER, "optim": OPTIMIZER},
        {"g": OTHER, "g_ema": NETWORK, "d": OTHER, "args": argparse.Namespace(size=32)},
        {"generator": OTHER, "ema": NETWORK, "history": np.arange(5), "when": None},
        {"model": OTHER, "model_ema": NETWORK},
        {"params": OTHER, "params_ema": NETWORK},
        {"generator": NETWORK, "discriminator": OTHER},
        {"something": NETWORK, "step": 3},
        {**NETWORK, "epoch": 3, 5: "five"},
    ],
)
def test_the_weights_are_found_wherever_they_are(content, zipped, tmp_path):
    torch.save(content, tmp_path / "G.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "G.pth", network="generator")
    assert found.keys() == NETWORK.keys()
    assert all(torch.equal(found[name], NETWORK[name]) for name in NETWORK)


def test_what_is_taken_of_several_is_said_and_can_be_chosen(tmp_path, notes):
    torch.save({"G": OTHER, "G_ema": NETWORK, "D": {"x": torch.ones(1)}}, tmp_path / "all.pth")
    read_tensors(tmp_path / "all.pth", network="generator")
    assert any(note.endswith("all.pth: the weights are taken from 'G_ema'") for note in notes)
    assert torch.equal(read_tensors(tmp_path / "all.pth", network="generator", entry="G")["bias"], OTHER["bias"])
    assert list(read_tensors(tmp_path / "all.pth", network="discriminator")) == ["x"]
    with pytest.raises(CheckpointError, match=r"has no entry 'H'; it has G, G_ema, D$"):
        read_tensors(tmp_path / "all.pth", network="generator", entry="H")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": NETWORK, "b": NETWORK, "c\x1b[31m\n": 1}, r"holds a, b, c\\x1b\[31m\\n: name the entry"),
        ({f"name{index}": index for index in range(30)}, "name9, ...: give the file"),
        ({}, "but nothing: give the file"),
        ({(1, 2): 3}, "but tuple: give"),
        ([torch.ones(2)], "no dictionary of tensors: give"),
        (torch.ones(2), "no dictionary of tensors: give"),
        ({"w": torch.ones(3).to_sparse()}, "w is no dense tensor"),
        ({"w": torch.ones(3, device="meta")}, "w is no dense tensor"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, "w is no dense tensor"),
        ({"w": torch.ones(1).expand(10**9)}, "stands for tensors of 4,000,000,000 bytes"),
        ({str(i): torch.ones(1000, 100)[:] for i in range(2)} | {"x": torch.ones(1).expand(10**7)}, "stands for tensors of"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_the_weights_of_one_network(content, message, tmp_path):
    torch.save(content, tmp_path / "G.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tensors(tmp_path / "G.pth", network="generator")
    assert len(str(caught.value).splitlines()) == 1


def test_shared_flipped_and_empty_tensors_are_read(tmp_path):
    base = torch.arange(6.0)
    content = {"a": base, "b": base, "c": base[1:3], "d": base.view(2, 3).t(), "e": base.flip(0), "f": torch.ones(0, 3)}
    torch.save(content, tmp_path / "G.pth")
    found = read_tensors(tmp_path / "G.pth")
    assert all(torch.equal(found[name], content[name]) for name in content)


def test_zip_files_that_unpack_to_more_than_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(CheckpointError, match="is a compressed zip file"):
        read_tensors(tmp_path / "bomb.pth")
    torch.save(dict(NETWORK), tmp_path / "G.pth")
    with zipfile.ZipFile(tmp_path / "G.pth") as source, zipfile.ZipFile(tmp_path / "twice.pth", "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
        for index in range(50):  # the directory lists the same bytes again and again
            again = zipfile.ZipInfo(f"more{index}")
            first = target.filelist[0]
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, field, getattr(first, field))
            again.file_size = again.compress_size = 1 << 30
            target.filelist.append(again)
    with pytest.raises(CheckpointError, match=r"members overlap|damaged"):
        read_tensors(tmp_path / "twice.pth")


@pytest.mark.parametrize("name", ["G.pth", "G.safetensors"])
def test_pipes_and_folders_are_not_read(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_tensors(tmp_path / name)
    os.unlink(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("length", [0, 7, 8, 1 << 40, (1 << 64) - 1])
def test_safetensors_headers_of_any_length(length, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little")[: max(1, min(length, 8))] + b"{}")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite(value, dtype, tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pth: w holds numbers that are not finite"):
        check_weights({"v": torch.ones(2), "w": torch.tensor([1.0, value], dtype=dtype)}, tmp_path / "x.pth")


def test_weights_of_other_types(tmp_path):
    check_weights({"w": torch.ones(2, dtype=torch.float16), "count": torch.tensor(3), "on": torch.tensor(True)}, tmp_path)
    for tensor, message in (
        (torch.tensor([1e300], dtype=torch.float64), "not finite"),
        (torch.ones(2, dtype=torch.float8_e4m3fn), "w is float8_e4m3fn, not float32"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_weights({"w": tensor}, tmp_path)


def test_checksum_of_tensors_is_of_names_types_shapes_and_values():
    tensors = {"a": torch.zeros(2, 3), "b": torch.tensor(1)}
    others = (
        {"a": torch.zeros(3, 2), "b": torch.tensor(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.tensor(1)},
        {"c": torch.zeros(2, 3), "b": torch.tensor(1)},
        {"a": torch.zeros(2, 3), "b": torch.tensor(2)},
        {"a": torch.zeros(2, 3)},
    )
    assert len({tensors_sha256(found) for found in (tensors, *others)}) == 6
    assert tensors_sha256(tensors) == tensors_sha256({"b": torch.tensor(1), "a": torch.zeros(3, 2).t()})


def test_safetensors_with_metadata(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"config": "{}"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert (found.metadata, found.tensors["a"].tolist()) == ({"config": "{}"}, [1, 1])


def deep_tuple(levels):
    value = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [({deep_tuple(300): 1}, "nests deeper than 100 levels"), ({"a": bytearray(10)}, "byte array")],
    ids=["deep", "byte array"],
)
def test_pickles_that_would_exhaust_the_stack_or_the_memory(content, message, zipped, tmp_path):
    """PyTorch's reader hashes nested tuples on the C stack, and allocates byte arrays of any length."""
    torch.save(NETWORK | content, tmp_path / "G.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "G.pth")


def test_depths_of_ordinary_files_are_small(tmp_path):
    nested = NETWORK
    for name in ("generator", "state_dict"):
        nested = {name: nested, "epoch": 3, "betas": (0.0, 0.999), "history": [(1, [2.0])] * 500}
    for zipped in (True, False):
        torch.save(nested, tmp_path / "all.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_tensors(tmp_path / "all.pth", network="generator")["bias"], NETWORK["bias"])


def test_an_entry_may_lie_in_a_state_dict(tmp_path):
    torch.save({"state_dict": {"G": OTHER, "G_ema": NETWORK}}, tmp_path / "all.pth")
    assert torch.equal(read_tensors(tmp_path / "all.pth", network="generator", entry="G")["bias"], OTHER["bias"])
    assert torch.equal(read_tensors(tmp_path / "all.pth", network="generator")["bias"], NETWORK["bias"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"itr": torch.tensor(3), "mygen": NETWORK, "x": NETWORK}, "holds itr, mygen, x: name the entry"),
        (NETWORK | {7: torch.zeros(2)}, "a tensor under 7, which is no name"),
    ],
)
def test_no_tensor_is_dropped_in_silence(content, message, tmp_path):
    torch.save(content, tmp_path / "G.pth")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "G.pth", network="generator")


def test_files_of_formats_that_are_given_up(tmp_path):
    with tarfile.open(tmp_path / "old.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, message in (("old.pt", "is a tar file, as PyTorch wrote them"), ("empty.pt", "cannot be read as tensors")):
        with pytest.raises(CheckpointError, match=message) as error:
            read_tensors(tmp_path / name)
        assert "weights_only" not in str(error.value)
