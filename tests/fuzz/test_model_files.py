"""Files of models, weights and reference statistics with random damage: a UserError of one line, or nothing wrong at all."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biggan.checkpoints.model_dir import ModelCard, ModelDir, save_model_dir
from biggan.configs.json_io import to_json
from biggan.metrics import statistics
from biggan.metrics.statistics import FeatureStatistics, read_reference, write_reference
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.runtime.errors import UserError
from biggan.runtime.tensor_files import read_tensors

CONFIG = BigGANConfig(resolution=32, num_classes=2, width=2, embedding_dim=4)
CARD = ModelCard(model=CONFIG, class_names=("a", "b"), step=1, trained_on="nothing")
FUZZ = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def attempt(action):
    """The result of an action and True, or None and whether it ended in a UserError of one short line. Nothing else may come
    out of it."""
    try:
        return action(), True
    except UserError as error:
        message = str(error)
        return None, len(message.splitlines()) == 1 and len(message) < 2000


def damaged(data: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    """The data with some bytes replaced, and cut off."""
    changed = bytearray(data)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[:cut])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    g, _ = registry.build_networks(CONFIG, torch.Generator().manual_seed(0))
    save_model_dir(folder, CARD, {"generator": g.state_dict()})
    return folder


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 5000), in_header=st.booleans(), verified=st.booleans())
def test_safetensors_files(model, edits, cut, in_header, verified):
    """With and without a checksum to catch the damage."""
    original, card = (model / "generator.safetensors").read_bytes(), (model / "config.json").read_text()
    header = 8 + int.from_bytes(original[:8], "little")
    edits = [(place % header, value) for place, value in edits] if in_header else edits
    data = damaged(original, edits, cut)
    try:
        (model / "generator.safetensors").write_bytes(data)
        if not verified:
            (model / "config.json").write_text(json.dumps(json.loads(card) | {"sha256": {}}))
        loaded, ended_well = attempt(lambda: load(model))
        assert ended_well
        assert loaded is None or not verified or data == original
    finally:
        (model / "generator.safetensors").write_bytes(original)
        (model / "config.json").write_text(card)


def load(folder):
    """A generator with the weights of a model folder."""
    generator = registry.FAMILIES["biggan"].generator(CONFIG)
    return ModelDir(folder).load_into(generator, "generator")


@FUZZ
@given(header=st.dictionaries(st.text(max_size=6), VALUES, max_size=3), payload=st.binary(max_size=64))
def test_safetensors_headers_made_up(tmp_path, header, payload):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + payload)
    assert attempt(lambda: read_tensors(tmp_path / "x.safetensors"))[1]


@FUZZ
@given(
    dtype=st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "C64", "F4", "X"]) | st.text(max_size=4),
    shape=st.lists(st.integers(-2, 1 << 62), max_size=4),
    offsets=st.lists(st.integers(-1, 64), min_size=1, max_size=3),
)
def test_safetensors_entries_made_up(tmp_path, dtype, shape, offsets):
    text = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    assert attempt(lambda: read_tensors(tmp_path / "x.safetensors"))[1]


FIELDS = ["model", "latent", "class_names", "step", "trained_on", "statistics_at", "sha256", "extra"]


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
def test_configs_of_models(model, changes):
    original = (model / "config.json").read_text()
    try:
        (model / "config.json").write_text(json.dumps(json.loads(original) | changes))
        assert attempt(lambda: load(model))[1]
    finally:
        (model / "config.json").write_text(original)


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 500))
def test_bytes_of_configs(model, edits, cut):
    original = (model / "config.json").read_bytes()
    try:
        (model / "config.json").write_bytes(damaged(original, edits, cut))
        assert attempt(lambda: ModelDir(model))[1]
    finally:
        (model / "config.json").write_bytes(original)


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 2000), in_header=st.booleans())
def test_reference_statistics(tmp_path, edits, cut, in_header):
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    moments = features.double().mean(0), features.double().T.cov()
    written = FeatureStatistics(moments, features, torch.arange(20) % 3, None, None, 20)
    file = tmp_path / "reference.safetensors"
    write_reference(file, written)
    original = file.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    edits = [(place % header, value) for place, value in edits] if in_header else edits
    file.write_bytes(damaged(original, edits, cut))
    found = read_reference(file, 20, 20, 3)
    if found is not None:
        for old, new in zip(
            (*written.moments, written.features, written.labels), (*found.moments, *found[1:3]), strict=True
        ):
            assert torch.equal(old, new)


def with_members(data: bytes, change) -> bytes:
    """A zip file whose members are changed and whose checksums are right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, change(member.filename, source.read(member)))
    return out.getvalue()


@FUZZ
@given(edits=EDITS, cut=st.none() | st.integers(0, 2000), kind=st.sampled_from(["bytes", "data.pkl", "legacy"]))
def test_pytorch_files(tmp_path, edits, cut, kind):
    """Damage of the file, and damage that has right checksums."""
    content = {"G_ema": {"module.w": torch.ones(3, 2), "module.b": torch.zeros(2)}, "epoch": 3}
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=kind != "legacy")
    data = stream.getvalue()
    if kind == "data.pkl":
        data = with_members(data, lambda name, part: damaged(part, edits, cut) if name.endswith("data.pkl") else part)
    else:
        data = damaged(data, edits, cut)
    (tmp_path / "G.pth").write_bytes(data)
    assert attempt(lambda: read_tensors(tmp_path / "G.pth", network="generator"))[1]


@FUZZ
@given(content=VALUES)
def test_pytorch_files_of_anything(tmp_path, content):
    torch.save(content, tmp_path / "G.pth")
    assert attempt(lambda: read_tensors(tmp_path / "G.pth"))[1]


def test_the_damage_is_no_empty_claim(model):
    """What the tests above damage is read without it."""
    assert load(model)
    assert statistics.read_reference(model / "absent", 1, 1, 1) is None
    assert json.loads(to_json(CARD))["sha256"] == {}
    assert safetensors.torch.load((model / "generator.safetensors").read_bytes())
