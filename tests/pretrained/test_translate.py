"""Foreign files that are not what they should be: one clear error each, and nothing is ever executed."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import golden_file
from safetensors.torch import load_file, save_file

from biggan.nn.spectral_norm import power_iteration
from biggan.pretrained.biggan_pytorch import read_biggan_pytorch
from biggan.pretrained.hugging_face import find_start_vector, read_hugging_face
from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import read_tensors
from biggan.sampling.standing_statistics import StatisticsTable


@pytest.fixture
def source():
    return load_file(golden_file("biggan_pytorch_32_tiny.G.safetensors"))


def without(name):
    return lambda tensors: tensors.pop(name)


def put(name, tensor):
    return lambda tensors: tensors.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("blocks.1.0.conv2.bias"), "nothing for blocks.1.conv_2.bias: the file is incomplete"),
        (without("linear.weight"), "no tensor 'linear.weight'"),
        (put("linear.weight", torch.zeros(())), "linear.weight has 0 dimensions, not 2"),
        (put("shared.weight", torch.zeros(3)), "shared.weight has 1 dimensions, not 2"),
        (without("output_layer.2.weight"), "no tensor 'output_layer.2.weight'"),
        (put("blocks.1.0.conv9.bias", torch.zeros(3)), "blocks.1.0.conv9.bias has no place"),
        (put("extra", torch.zeros(3)), "extra has no place"),
        (put("blocks.1.0.conv2.bias", torch.zeros(3)), r"blocks.1.0.conv2.bias is \(3,\), blocks.1.conv_2.bias is \(32,\)"),
        (put("blocks.1.0.bn1.bn.stored_mean", torch.zeros(32)), "is a second tensor for"),
        (put("linear.weight", torch.zeros(500, 32)), "500 rows, which is no multiple"),
        (put("blocks.3.0.conv1.weight", torch.zeros(32, 32, 3, 3)), "no network that biggan has"),
        (lambda tensors: [put(f"blocks.{i}.0.conv1.weight", torch.zeros(1))(tensors) for i in range(3, 9)], "9 blocks"),
    ],
)
def test_a_generator_that_does_not_fit(source, spoil, message, tmp_path):
    spoil(source)
    save_file(source, tmp_path / "G.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_biggan_pytorch(tmp_path / "G.safetensors")


def test_names_of_its_other_batch_norms_are_known(source, tmp_path):
    """Cross-replica and standing-statistics variants keep their buffers in a module of their own, with a counter."""
    renamed = {}
    for name, tensor in source.items():
        name = name.replace(".stored_mean", ".bn.running_mean").replace(".stored_var", ".bn.running_var")
        renamed[name] = tensor
    renamed["blocks.0.0.bn1.bn.num_batches_tracked"] = torch.tensor(7)
    renamed["blocks.0.0.bn1.bn.accumulation_counter"] = torch.tensor(7.0)
    for tensors, file in ((source, "plain"), (renamed, "renamed")):
        save_file(tensors, tmp_path / f"{file}.safetensors")
    plain, other = (
        read_biggan_pytorch(tmp_path / f"{file}.safetensors").weights["generator"] for file in ("plain", "renamed")
    )
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(source, value, tmp_path):
    source["linear.weight"][0, 0] = value
    save_file(source, tmp_path / "G.safetensors")
    with pytest.raises(CheckpointError, match=r"linear\.weight holds numbers that are not finite"):
        read_biggan_pytorch(tmp_path / "G.safetensors")


def test_a_flipped_byte_in_a_pytorch_file_is_found(source, tmp_path):
    torch.save(source, tmp_path / "G.pth")
    data = bytearray((tmp_path / "G.pth").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "G.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="fetch it again"):
        read_tensors(tmp_path / "G.pth")


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_code_in_a_file_is_refused_and_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, tmp_path / "G.pth")
    with pytest.raises(CheckpointError, match="cannot be read as tensors") as caught:
        read_tensors(tmp_path / "G.pth")
    assert "weights_only" not in str(caught.value), "torch's advice to trust the file is not passed on"
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_and_absent_files(tmp_path, suffix):
    file = tmp_path / f"G.{suffix}"
    with pytest.raises(CheckpointError, match=r"no such file|cannot be read"):
        read_tensors(file)
    file.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        read_tensors(file)


def test_a_file_without_a_dictionary_of_tensors(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"itr": 3, "config": {}}, tmp_path / "state_dict.pth")
    for name in ("list.pth", "state_dict.pth"):
        with pytest.raises(CheckpointError, match="no dictionary of tensors"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": None}, "missing or unknown: z_dim"),
        ({"depth": 3}, "missing or unknown: depth"),
        ({"output_dim": 96}, "resolution=96"),
        ({"attention_layer_position": 0}, "layers are not those"),
        ({"channel_width": 16}, r"is \("),
        ({"n_stats": 50}, "not statistics for the 50 truncations"),
        ({"n_stats": 1}, "at least 2"),
        ({"channel_width": "8"}, "channel_width: Input should be a valid integer"),
        ({"layers": 3}, "layers: Input should be a valid array"),
        ({"eps": 0.0}, "must be at least 1e-12"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
    ],
)
def test_a_hugging_face_config_that_does_not_fit(hugging_face, change, message):
    file = hugging_face / "config.json"
    settings = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    with pytest.raises(CheckpointError, match=message):
        read_hugging_face(hugging_face)


def test_a_hugging_face_folder_without_weights(hugging_face):
    (hugging_face / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="fetch it too"):
        read_hugging_face(hugging_face)


@pytest.mark.parametrize("shape", [(20, 8), (8, 20)])
def test_the_find_start_vector_gives_back_u_w_v(shape, generator):
    """u and v as one step of training leaves them, far from converged."""
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    v = F.normalize(weight.T @ torch.randn(shape[0], generator=generator, dtype=torch.float64), dim=0)
    u = F.normalize(weight @ v, dim=0)
    left, right = power_iteration(weight, find_start_vector(weight, u, v), 1e-12)
    assert (left @ weight @ right.T).item() == pytest.approx((u @ weight @ v).item(), rel=1e-6)
    assert not torch.allclose(F.normalize(u @ weight, dim=0), v, atol=1e-3), "u alone would not do"


def test_vectors_that_belong_to_no_weight_are_refused(hugging_face):
    tensors = torch.load(hugging_face / "pytorch_model.bin", weights_only=True)
    tensors["generator.layers.0.conv_0.weight_v"] = F.normalize(torch.randn(128), dim=0)
    torch.save(tensors, hugging_face / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="do not belong to weight_orig"):
        read_hugging_face(hugging_face)


def test_between_two_truncations_the_nearer_set_weighs_more():
    """1 - f on the lower, f on the upper; pytorch-pretrained-BigGAN swaps them."""
    table = StatisticsTable((0.0, 0.5, 1.0), {"mean": torch.tensor([[0.0], [10.0], [30.0]])})
    for truncation, expected in ((0.0, 0.0), (0.1, 2.0), (0.5, 10.0), (0.9, 26.0), (1.0, 30.0), (None, 30.0)):
        assert table.at(truncation)["mean"].item() == pytest.approx(expected)
    assert table.covers(0.3)
    assert table.covers(None)
    assert not table.covers(1.2)


def test_deep_generators_that_put_z_first(tmp_path):
    """The variant with 128 output channels: columns of every map of the condition are (z, class) there, (class, z) here."""
    source = load_file(golden_file("biggan_pytorch_deep_128_tiny.G.safetensors"))
    usual = tmp_path / "usual.safetensors"
    save_file(source, usual)
    source["output_layer.2.weight"] = torch.zeros(128, 8, 3, 3)
    source["output_layer.2.bias"], source["output_layer.2.u0"] = torch.zeros(128), torch.zeros(1, 128)
    for name, tensor in source.items():
        if name == "linear.weight" or ".gain.weight" in name or ".bias.weight" in name:
            source[name] = torch.cat([tensor[:, 16:], tensor[:, :16]], dim=1)
    save_file(source, tmp_path / "other.safetensors")
    one, other = (read_biggan_pytorch(file).weights["generator"] for file in (usual, tmp_path / "other.safetensors"))
    same = [name for name in one if not name.startswith("output_conv")]
    assert len(same) > 300
    assert all(torch.equal(one[name], other[name]) for name in same)
