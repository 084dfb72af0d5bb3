"""Packed sets against sets decoded at start; carrying on; filters against counts by hand; inspection."""

import collections
import hashlib
import itertools
import json

import pytest
import torch
from conftest import call, write_pictures
from PIL import Image

from biggan.data import formats
from biggan.data import prepare as preparing
from biggan.data.dataset import open_source
from biggan.data.formats import Packed, Shards, open_packed
from biggan.data.inspection import inspect
from biggan.data.prepare import filter_listing, prepare
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "set", {"cat": 30, "dog": 10, "eel": 3})
    (tmp_path / "set" / "cat" / "7.png").write_bytes(b"broken")
    return tmp_path / "set"


def test_a_packed_set_is_the_set(pictures, tmp_path):
    manifest = prepare(list_source(str(pictures)), tmp_path / "packed", Packed(16))
    assert (manifest.images, manifest.class_names, manifest.class_counts) == (42, ("cat", "dog", "eel"), (29, 10, 3))
    assert manifest.rejected == 1
    (rejected,) = (json.loads(line) for line in (tmp_path / "packed" / "rejected.jsonl").read_text().splitlines())
    assert rejected["file"] == "cat/7.png"
    assert "no image of the formats PNG" in rejected["reason"]
    packed = open_source(f"packed:{tmp_path / 'packed'}", 16, flip=True)
    decoded = open_source(str(pictures), 16, flip=True, skip_broken=True)
    assert torch.equal(packed.images, decoded.images)
    assert torch.equal(packed.labels, decoded.labels)
    assert packed.content_hash == decoded.content_hash
    assert packed.sizes == decoded.sizes
    batches = [next(source.stream(8, seed=3, start_image=40)) for source in (packed, decoded)]
    assert all(map(torch.equal, *batches))
    assert open_source(str(tmp_path / "packed"), 16).name.startswith("packed:"), "a plain path will do"


def test_packing_carries_on_where_it_was_stopped(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PACKED_CHUNK", 8)
    whole = prepare(list_source(str(pictures)), tmp_path / "whole", Packed(16))
    seen = []

    def stop_after_three(items, total, what, unit):
        for place, item in enumerate(items):
            if place == 3:
                raise KeyboardInterrupt
            yield item

    def count(items, total, what, unit):
        seen.append(total)
        return items

    monkeypatch.setattr(preparing, "progress_bar", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        prepare(list_source(str(pictures)), tmp_path / "parts", Packed(16))
    with open(tmp_path / "parts" / "images.u8", "ab") as file:
        file.write(b"half a chunk")
    with open(tmp_path / "parts" / "progress.jsonl", "a") as file:
        file.write('{"done": 99')
    monkeypatch.setattr(preparing, "progress_bar", count)
    assert prepare(list_source(str(pictures)), tmp_path / "parts", Packed(16)) == whole
    assert seen == [3], "43 images are 6 chunks, of which 3 were done"
    files = [(tmp_path / name / "images.u8").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    monkeypatch.setattr(preparing, "progress_bar", stop_after_three)
    assert prepare(list_source(str(pictures)), tmp_path / "parts", Packed(16)) == whole, "nothing to do"


def test_a_chunk_that_changed_before_packing_is_resumed_is_written_again(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PACKED_CHUNK", 8)
    whole = prepare(list_source(str(pictures)), tmp_path / "whole", Packed(16))

    def stop_after_three(items, total, what, unit):
        yield from itertools.islice(items, 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "progress_bar", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            prepare(list_source(str(pictures)), tmp_path / "parts", Packed(16))
    file = tmp_path / "parts" / "images.u8"
    data = bytearray(file.read_bytes())
    data[10 * 768] ^= 1  # of the second chunk
    file.write_bytes(data)
    assert prepare(list_source(str(pictures)), tmp_path / "parts", Packed(16)) == whole
    assert file.read_bytes() == (tmp_path / "whole" / "images.u8").read_bytes()


def test_pixels_are_not_written_through_a_link(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PACKED_CHUNK", 8)
    (tmp_path / "victim").write_bytes(b"mine")

    def plant(items, total, what, unit):
        (tmp_path / "out" / "images.u8").symlink_to(tmp_path / "victim")
        return items

    monkeypatch.setattr(preparing, "progress_bar", plant)
    with pytest.raises(OSError, match="symbolic link"):
        prepare(list_source(str(pictures)), tmp_path / "out", Packed(16))
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_set_is_not_prepared_into_its_source(pictures, capsys):
    code, _, err = call(capsys, "data", "prepare", pictures, pictures / "packed", "--resolution", 16)
    assert (code, "lies in the data" in err, len(err.splitlines())) == (2, True, 1)


def test_shards_carry_on_where_they_were_stopped(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_READERS", 16)
    layout = Shards(16, shard_images=5)
    whole = prepare(list_source(str(pictures)), tmp_path / "whole", layout)
    assert (whole.images, whole.class_counts, len(whole.shards)) == (42, (29, 10, 3), 16)
    assert {shard.images for shard in whole.shards} <= {2, 3}, "equal but for a broken image"

    def stop_after_three(items, total, what, unit):
        for place, item in enumerate(items):
            if place == 3:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "progress_bar", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            prepare(list_source(str(pictures)), tmp_path / "parts", layout)
    (tmp_path / "parts" / "shard-000001.tar").unlink()
    assert prepare(list_source(str(pictures)), tmp_path / "parts", layout) == whole
    for shard in whole.shards:
        assert hashlib.sha256((tmp_path / "parts" / shard.name).read_bytes()).hexdigest() == shard.sha256


def test_folders_that_hold_something_else(pictures, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(DataError, match="holds other files"):
        prepare(list_source(str(pictures)), tmp_path / "other", Packed(16))
    for name, layout in (("shard-000000.tar", Shards(16)), ("images.u8", Packed(16))):
        (tmp_path / name[:3]).mkdir()
        (tmp_path / name[:3] / name).write_text("precious")
        with pytest.raises(DataError, match="holds other files"):
            prepare(list_source(str(pictures)), tmp_path / name[:3], layout)
    with pytest.raises(DataError, match="is a file"):
        prepare(list_source(str(pictures)), tmp_path / "sha" / "shard-000000.tar", layout)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "progress.jsonl").write_text('{"identity": "another"}\n')
    with pytest.raises(DataError, match="beginning of another set"):
        prepare(list_source(str(pictures)), tmp_path / "begun", Packed(16))
    prepare(list_source(str(pictures)), tmp_path / "small", Packed(8))
    with pytest.raises(DataError, match="holds another set"):
        prepare(list_source(str(pictures)), tmp_path / "small", Packed(16))
    with pytest.raises(DataError, match="holds another set"):
        prepare(list_source(str(pictures)), tmp_path / "small", Shards(8))
    with pytest.raises(DataError, match="holds no manifest"):
        open_packed(tmp_path / "other", 16, flip=False)


def test_packed_sets_that_do_not_fit(pictures, tmp_path):
    prepare(list_source(str(pictures)), tmp_path / "packed", Packed(16))
    with pytest.raises(DataError, match=r"--model\.resolution 16 of biggan train"):
        open_packed(tmp_path / "packed", 32, flip=False)
    with pytest.raises(DataError, match="filter them when they are prepared"):
        open_source(f"packed:{tmp_path / 'packed'}", 16, filters={"max_per_class": 3})
    with open(tmp_path / "packed" / "images.u8", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="is damaged"):
        open_packed(tmp_path / "packed", 16, flip=False)


def test_filters(pictures):
    listing = list_source(str(pictures))
    enough = filter_listing(listing, min_per_class=4)
    assert enough.class_names == ("cat", "dog")
    assert collections.Counter(enough.labels) == {0: 30, 1: 10}
    few = filter_listing(listing, max_per_class=5)
    assert collections.Counter(few.labels) == {0: 5, 1: 5, 2: 3}
    assert few == filter_listing(listing, max_per_class=5), "the choice is fixed"
    assert set(few.images) < set(listing.images)
    assert all(few.class_names[label] == name.split("/")[0] for name, label in zip(few.images, few.labels, strict=True))
    some = filter_listing(listing, classes=("eel", "dog"))
    assert (some.class_names, collections.Counter(some.labels)) == (("dog", "eel"), {0: 10, 1: 3})
    with pytest.raises(DataError, match="did you mean 'dog'"):
        filter_listing(listing, classes=("dogs",))
    with pytest.raises(DataError, match="no image is left"):
        filter_listing(listing, min_per_class=99)
    source = open_source(str(pictures), 16, filters={"classes": ("dog",), "max_per_class": 4})
    assert (source.class_names, len(source.labels)) == (("dog",), 4)


def test_inspection(pictures):
    found = inspect(list_source(str(pictures)), 16, rows=2, columns=4)
    assert found.counts == {"cat": 29, "dog": 10, "eel": 3}
    assert (found.smallest, found.median, found.largest) == ((40, 32),) * 3
    assert [name for name, _ in found.broken] == ["cat/7.png"]
    assert found.samples_per_class == [4, 4]
    assert all(image.shape == (3, 16, 16) for image in found.samples)


def test_commands(capsys, pictures, tmp_path):
    code, out, _ = call(capsys, "data", "inspect", pictures, "--out", tmp_path / "sheet.png")
    assert code == 0
    for fact in ("images 42 of 3 classes", "29 cat", "sizes  40x32 smallest", "broken 1", "cat/7.png"):
        assert fact in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (10 * 65 + 1, 3 * 65 + 1)
    words = ["data", "prepare", pictures, tmp_path / "packed", "--resolution", 32, "--min-per-class", 4]
    code, out, _ = call(capsys, *words)
    assert (code, "images 39 of 2 classes at 32 px" in out, "broken 1" in out) == (0, True, True)
    tiny = ["--model.width", 2, "--model.embedding-dim", 8, "--train.batch", 8, "--train.standing-stats-batches", 2]
    words = [
        "train",
        "digits",
        "--data",
        f"packed:{tmp_path / 'packed'}",
        "--train.steps",
        1,
        "--run",
        tmp_path / "run",
        *tiny,
    ]
    code, _, err = call(capsys, *words)
    assert (code, "39 images of 2 classes (cat, dog)" in err) == (0, True)
    code, out, _ = call(capsys, *words, "--dry-run")
    assert code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "inspct"], "did you mean 'inspect'"),
        (["data", "inspect", "absent"], "no such file or folder"),
        (["data", "prepare", "absent", "out"], "no such file or folder"),
        (["data", "prepare", "embedded:digits", "out", "--resolution", "0"], "--resolution 0 must be at least 1"),
        (["data", "prepare", "embedded:digits", "out", "--classes", "ten"], "no class 'ten'"),
        (["train", "digits", "--data.max-per-class", "0"], "data.max_per_class=0 must be at least 1"),
    ],
)
def test_bad_input(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert (code, message in err, len(err.splitlines())) == (2, True, 1)
    assert not list(tmp_path.iterdir())
