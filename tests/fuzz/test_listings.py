"""Whatever a source is called and whatever is in it, listing it ends in a listing or in a DataError."""

import contextlib
import json
import os
import struct
import zipfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biggan.data.sources import list_source
from biggan.runtime.errors import DataError
from biggan.runtime.text import printable

FEW = settings(derandomize=True, max_examples=150, deadline=None, database=None)
PNG = b"\x89PNG\r\n\x1a\n and more"


def is_sound(spec, labels=None):
    """Whether a source is listed consistently, with class names that are text, or refused in one line. No other exception
    may come out."""
    try:
        listing = list_source(spec, labels)
    except DataError as error:
        return len(printable(str(error)).splitlines()) == 1  # as the command line shows it
    "".join((listing.stamp, *listing.class_names)).encode()  # raises on what is no text
    names = listing.class_names
    return (
        len(listing.images) == len(listing.labels) > 0
        and set(listing.labels) == set(range(len(names)))
        and len(set(names)) == len(names)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@FEW
@given(st.sampled_from(["", "zip:", "folder:", "embedded:", "packed:", "wds:", "./", "~", "zip:~"]), st.text(max_size=40))
def test_specs(folder, kind, text):
    for path in (text, f"~{text}"):
        with contextlib.suppress(OSError, ValueError):
            assume(not os.path.exists(os.path.expanduser(path)))  # not to walk over this machine
    assume(kind or not text.startswith("hf:"))
    assert is_sound(f"{kind}{text}" if kind != "./" else f"{folder}/absent/{text}")


@FEW
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_as_a_zip(folder, data, headed):
    (folder / "random.zip").write_bytes(b"PK\3\4" + data + b"PK\5\6" + bytes(18) if headed else data)
    assert is_sound(f"zip:{folder / 'random.zip'}")


@pytest.fixture(scope="module")
def whole(folder):
    """The bytes of a small archive with folders, a label file and an unknown suffix."""
    with zipfile.ZipFile(folder / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/0.png", "a/1.png", "b/0.png", "b/é.png", "b/odd"):
            archive.writestr(name, PNG)
        archive.writestr("c/", b"")
        archive.writestr("metadata.csv", "file_name,label\na/0.png,x\n")
    return (folder / "whole.zip").read_bytes()


@FEW
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 1 << 16))
def test_mutated_zips(folder, whole, changes, cut):
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    (folder / "mutated.zip").write_bytes(data if cut % 3 else data[: cut % len(data)])
    for labels in (None, "folders"):
        assert is_sound(f"zip:{folder / 'mutated.zip'}", labels)


@FEW
@given(st.integers(0, 21), st.integers(0, (1 << 32) - 1))
def test_nonsense_in_the_end_of_a_zip(folder, whole, place, value):
    data = bytearray(whole)
    end = data.rindex(b"PK\5\6")
    data[end + place : end + place + 4] = struct.pack("<I", value)
    (folder / "end.zip").write_bytes(data)
    assert is_sound(f"zip:{folder / 'end.zip'}", "none")


NAMES = st.text(max_size=12) | st.sampled_from(
    ["a/0.png", "b\\1.png", "../c/2.png", "/d/3.png", "e.png/", "train/x.png", "."]
)


@FEW
@given(st.lists(NAMES, min_size=1, max_size=8))
def test_names_in_zips(folder, names):
    with zipfile.ZipFile(folder / "names.zip", "w") as archive:
        for number, name in enumerate(dict.fromkeys(names)):
            try:
                archive.writestr(name, PNG + bytes([number]))
            except (UnicodeEncodeError, IndexError):  # lone surrogates; no name at all
                return
    for labels in (None, "folders", "none", "file"):
        assert is_sound(f"zip:{folder / 'names.zip'}", labels)


@pytest.fixture(scope="module")
def labeled(folder):
    """A folder with three images, where a label file can be added."""
    (folder / "labeled").mkdir()
    for number in range(3):
        (folder / "labeled" / f"{number}.png").write_bytes(PNG)
    return folder / "labeled"


def is_sound_with(labeled, name, data):
    """Whether the folder is sound with this label file in it, which is removed again."""
    (labeled / name).write_bytes(data)
    try:
        return all(is_sound(str(labeled), labels) for labels in (None, "file", "none", name))
    finally:
        (labeled / name).unlink()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["0.png", "1.png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("labels"), inner, max_size=3),
    max_leaves=12,
)
PAIRS = st.lists(st.tuples(st.sampled_from(["0.png", "1.png", "2.png"]), VALUES), max_size=4)


@FEW
@given(st.builds(lambda value: {"labels": value}, VALUES | PAIRS) | VALUES)
def test_dataset_json_of_any_content(labeled, value):
    assert is_sound_with(labeled, "dataset.json", json.dumps(value).encode())


@FEW
@given(st.binary(max_size=60), st.integers(0, 60), st.sampled_from(["dataset.json", "metadata.csv", "metadata.jsonl"]))
def test_damaged_label_files(labeled, noise, place, name):
    whole = {
        "dataset.json": b'{"labels": [["0.png", 0], ["1.png", 1], ["2.png", 0]]}',
        "metadata.csv": b"file_name,label\n0.png,a\n1.png,b\n2.png,a\n",
        "metadata.jsonl": b'{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": 2}\n',
    }[name]
    assert is_sound_with(labeled, name, whole[:place] + noise + whole[place + len(noise) // 2 :])


@FEW
@given(st.lists(st.lists(st.text(max_size=6) | st.sampled_from(["0.png", "1.png"]), max_size=4), max_size=4))
def test_metadata_csv_of_any_cells(labeled, rows):
    text = "\n".join(",".join(row) for row in [["file_name", "label", "class"], *rows])
    assert is_sound_with(labeled, "metadata.csv", text.encode(errors="surrogatepass"))


@FEW
@given(st.lists(st.dictionaries(st.sampled_from(["file_name", "label", "x"]), VALUES, max_size=3), max_size=4))
def test_metadata_jsonl_of_any_objects(labeled, rows):
    assert is_sound_with(labeled, "metadata.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
