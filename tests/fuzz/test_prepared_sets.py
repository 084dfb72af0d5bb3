"""Mutated manifests, journals, cache entries and tar files: the right images, or a DataError of one line."""

import contextlib
import io
import json
import logging
import shutil
import tarfile

import pytest
import torch
from conftest import write_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biggan.data.dataset import open_source
from biggan.data.formats import Packed, Shards
from biggan.data.manifest import parse_manifest
from biggan.data.prepare import prepare
from biggan.data.sources import list_source
from biggan.data.tar_samples import read_samples_of
from biggan.runtime.errors import DataError

quick = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

bytes_changed = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=3)


def change(data, steps):
    """The bytes with a few others in their place, or cut."""
    data = bytearray(data)
    for position, value in steps:
        if value == 255:
            del data[position % (len(data) + 1) :]
        elif data:
            data[position % len(data)] = value
    return bytes(data)


@contextlib.contextmanager
def data_error_of_one_line():
    message = ""
    try:
        yield
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) < 2


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_pictures(folder / "set", {"a": 3, "b": 2}, size=(8, 8))
    for layout in (Packed(8), Shards(8)):
        prepare(list_source(str(folder / "set")), folder / layout.name, layout)
    return folder


@pytest.mark.parametrize("layout", ["packed", "wds"])
@quick
@given(data=st.data())
def test_manifests(sets, layout, data):
    values = json.loads((sets / layout / "manifest.json").read_text())
    del values["checksum"]
    name = data.draw(st.sampled_from(sorted(values)))
    values[name] = data.draw(json_values)
    with data_error_of_one_line():
        parse_manifest(json.dumps(values).encode(), "here", layout)
    with data_error_of_one_line():
        parse_manifest(data.draw(st.binary(max_size=50)), "here", None)
    with data_error_of_one_line():
        parse_manifest(json.dumps(data.draw(json_values)).encode(), "here", None)


@quick
@given(name=st.sampled_from(["manifest.json", "images.u8", "labels.npy"]), steps=bytes_changed)
def test_packed_sets(sets, tmp_path, name, steps):
    folder = tmp_path / "packed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sets / "packed", folder)
    (folder / name).write_bytes(change((folder / name).read_bytes(), steps))
    with data_error_of_one_line():
        changed, whole = open_source(f"packed:{folder}", 8), open_source(f"packed:{sets / 'packed'}", 8)
        assert torch.equal(changed.images, whole.images)
        assert torch.equal(changed.labels, whole.labels)
        assert changed.class_names == whole.class_names


@quick
@given(name=st.sampled_from(["facts.json", "images.npy", "labels.npy"]), steps=bytes_changed)
def test_cache_entries(sets, tmp_path, name, steps):
    logging.disable(logging.WARNING)
    try:
        cache = tmp_path / "cache"
        whole = open_source(str(sets / "set"), 8, cache=cache)
        (entry,) = (path for path in cache.iterdir() if path.is_dir())
        (entry / name).write_bytes(change((entry / name).read_bytes(), steps))
        again = open_source(str(sets / "set"), 8, cache=cache)
        assert torch.equal(again.images, whole.images)
        assert torch.equal(again.labels, whole.labels)
        assert (again.sizes, again.broken, again.content_hash) == (whole.sizes, whole.broken, whole.content_hash)
    finally:
        logging.disable(logging.NOTSET)


@quick
@given(data=st.data())
def test_journals(sets, tmp_path, data):
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    whole = json.loads((sets / "packed" / "manifest.json").read_text())
    line = {"kept": 5, "labels": [0, 0, 0, 1, 1], "smallest": [8, 8], "largest": [8, 8], "rejected": [], "shard": None}
    line[data.draw(st.sampled_from(sorted(line)))] = data.draw(json_values)
    text = json.dumps({"identity": whole["identity"]}) + "\n" + json.dumps(line) + "\n"
    (out / "progress.jsonl").write_bytes(
        change(text.encode(), data.draw(bytes_changed)) if data.draw(st.booleans()) else text.encode()
    )
    with data_error_of_one_line():
        prepare(list_source(str(sets / "set")), out, Packed(8))
        assert (out / "images.u8").read_bytes() == (sets / "packed" / "images.u8").read_bytes()


@quick
@given(
    steps=bytes_changed,
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    packed=st.sampled_from(["", ":gz", ":xz"]),
)
def test_tar_files(steps, form, packed):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w{packed}", format=form) as tar:
        for name, content in (("a" * (90 if form == tarfile.USTAR_FORMAT else 150), b"x" * 700), ("b", b"y")):
            for suffix, body in (("png", content), ("cls", b"1"), ("json", b'{"label": 2}')):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    with contextlib.suppress(ValueError, tarfile.TarError, EOFError, OSError):
        for sample in read_samples_of(io.BytesIO(change(buffer.getvalue(), steps)), "x.tar"):
            assert len(sample.data) <= 1 << 20


@quick
@given(data=st.binary(max_size=2000))
def test_any_bytes_as_a_tar_file(data):
    with contextlib.suppress(ValueError, tarfile.TarError, EOFError):
        list(read_samples_of(io.BytesIO(data), "x.tar"))
