"""Flipped bytes in the cache and in prepared sets, journals and manifests that cannot be true, broken files."""

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call, write_pictures
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from biggan.data import checksums, loader
from biggan.data.dataset import DataConfig, open_data, open_source
from biggan.data.formats import Packed, Shards
from biggan.data.manifest import parse_manifest, read_manifest
from biggan.data.prepare import prepare
from biggan.data.sources import list_source
from biggan.data.webdataset_io import read_samples
from biggan.runtime.errors import ConfigError, DataError


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "set", {"a": 7, "b": 4}, size=(32, 32))
    return tmp_path / "set"


def flip(file, position):
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def entry(cache):
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


@pytest.mark.parametrize(
    ("name", "position"), [("images.npy", -1), ("images.npy", 130), ("images.npy", 20), ("labels.npy", -8)]
)
def test_a_flipped_bit_in_the_cache_is_noticed_and_decoded_again(pictures, tmp_path, notes, name, position):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    flip(entry(tmp_path / "cache") / name, position)
    again = open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert (again.from_cache, torch.equal(first.images, again.images), again.labels.tolist()) == (
        False,
        True,
        [0] * 7 + [1] * 4,
    )
    assert "are damaged" in notes[0]
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache


def test_every_bit_of_facts_counts(pictures, tmp_path):
    open_source(str(pictures), 32, cache=tmp_path / "cache")
    facts = entry(tmp_path / "cache") / "facts.json"
    length = facts.stat().st_size
    for position in range(3, length, 37):
        flip(facts, position)
        assert not open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache, position


def test_arrays_of_another_kind_and_files_that_are_none(pictures, tmp_path):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")

    def damage(name, array):
        folder = entry(tmp_path / "cache")
        np.save(folder / name, array, allow_pickle=True)
        again = open_source(str(pictures), 32, cache=tmp_path / "cache")
        assert not again.from_cache
        assert torch.equal(again.images, first.images)

    damage("images.npy", np.zeros((11, 3, 32, 32), dtype=np.float32))
    damage("images.npy", np.zeros((2, 3, 32, 32), dtype=np.uint8))
    damage("labels.npy", np.array([{}], dtype=object))
    damage("labels.npy", np.full(11, 9))
    for name in ("images.npy", "labels.npy", "facts.json"):
        folder = entry(tmp_path / "cache")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert not open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache


def test_large_caches_are_sampled_and_wholly_compared_if_asked(pictures, tmp_path, monkeypatch, notes):
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(checksums, "SAMPLED_BLOCKS", 2)
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    file = entry(tmp_path / "cache") / "images.npy"
    read = []
    monkeypatch.setattr(checksums, "checksum", lambda block, own=checksums.checksum: read.append(len(block)) or own(block))
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache
    assert len(read) == 2
    flip(file, 9000)
    verified = open_source(str(pictures), 32, cache=tmp_path / "cache", verify=True)
    assert torch.equal(verified.images, first.images)
    sampled, compared = "images.npy has changed at byte 8,192", "were not those of its files"
    assert sampled in notes[-1] or compared in notes[-1]  # which blocks are sampled at opening is left to chance
    monkeypatch.setattr(checksums, "SAMPLED_BLOCKS", 1000)
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache, "it was replaced"


def test_a_source_that_changed_without_its_size_and_time_is_noticed_if_asked(pictures, tmp_path, notes):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    file = pictures / "a" / "0.png"
    times = file.stat()
    Image.new("RGB", (32, 32), "red").save(file)
    data = file.read_bytes().ljust(times.st_size, b"\0")
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert torch.equal(open_source(str(pictures), 32, cache=tmp_path / "cache").images, first.images), "not without asking"
    seen = open_source(str(pictures), 32, cache=tmp_path / "cache", verify=True)
    assert seen.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert "were not those of its files" in notes[-1]
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_the_background_is_part_of_what_is_cached_and_prepared(tmp_path):
    (tmp_path / "set").mkdir()
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "set" / "0.png")
    for color, value in ((None, 255), ("black", 0), ("#ffffff", 255), ("black", 0)):
        source = open_source(str(tmp_path / "set"), 16, background=color, cache=tmp_path / "cache")
        assert (source.images == value).all()
        assert source.background == f"#{value:02x}" + f"{value:02x}" * 2
    assert source.from_cache
    for number, layout in enumerate((Packed(16, background="black"), Shards(16, background="black"))):
        manifest = prepare(list_source(str(tmp_path / "set")), tmp_path / layout.name, layout)
        assert manifest.background == "#000000"
        spec = f"{layout.name}:{tmp_path / layout.name}"
        source = open_source(spec, 16)
        assert (source.background, next(source.iterate_once(1))[0].max()) == ("#000000", 0)
        open_source(spec, 16, background="#000000")
        with pytest.raises(DataError, match="was prepared on #000000, not on white: leave out --background"):
            open_source(spec, 16, background="white")
        with pytest.raises(DataError, match="holds another set"):
            prepare(list_source(str(tmp_path / "set")), tmp_path / layout.name, (Packed, Shards)[number](16))
    with pytest.raises(ConfigError, match="is no color"):
        DataConfig(source="x", background="whit").check()
    config = DataConfig(source=str(tmp_path / "set"), background="black", cache=tmp_path / "cache")
    assert open_data(config, 16).images.max() == 0
    assert open_data(config, 16, str(tmp_path / "set")).images.max() == 0


@pytest.fixture
def packed(pictures, tmp_path):
    prepare(list_source(str(pictures)), tmp_path / "packed", Packed(16))
    return tmp_path / "packed"


@pytest.mark.parametrize(
    ("name", "position"), [("images.u8", 0), ("images.u8", -1), ("labels.npy", -1), ("labels.npy", -8), ("labels.npy", 30)]
)
def test_damaged_packed_sets_are_refused_with_the_remedy(packed, pictures, name, position):
    flip(packed / name, position)
    with pytest.raises(DataError, match=r"is damaged .*make it again from .* biggan data prepare --format packed") as caught:
        open_source(f"packed:{packed}", 16)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DataError, match="is damaged"):
        prepare(list_source(str(pictures)), packed, Packed(16))


def test_exchanged_labels_are_noticed(packed):
    labels = np.load(packed / "labels.npy")
    labels[[0, -1]] = labels[[-1, 0]]
    np.save(packed / "labels.npy", labels)
    with pytest.raises(DataError, match=r"labels\.npy has changed"):
        open_source(f"packed:{packed}", 16)


def test_every_bit_of_a_manifest_counts(packed):
    text, manifest = (packed / "manifest.json").read_bytes(), read_manifest(packed, "packed")
    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1
        with contextlib.suppress(DataError):
            read = parse_manifest(bytes(changed), "here", "packed")
            assert read == manifest, "but for the name of the checksum"


def test_sets_of_earlier_versions_are_read_and_can_be_verified(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    for name in ("checksum", "blocks", "labels_sha256", "background"):
        del manifest[name]
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert open_source(f"packed:{packed}", 16, verify=True).background == "none"
    flip(packed / "images.u8", 5)
    open_source(f"packed:{packed}", 16)
    with pytest.raises(DataError, match="its images or labels have changed"):
        open_source(f"packed:{packed}", 16, verify=True)


def test_damaged_shards_are_noticed(pictures, tmp_path):
    out = tmp_path / "shards"
    manifest = prepare(list_source(str(pictures)), out, Shards(16))
    flip(out / manifest.shards[0].name, 600)
    open_source(f"wds:{out}", 16)
    with pytest.raises(DataError, match=r"shard-000000\.tar has changed.*biggan data prepare --format wds"):
        open_source(f"wds:{out}", 16, verify=True)
    with pytest.raises(DataError, match="has changed"):
        prepare(list_source(str(pictures)), out, Shards(16), verify=True)
    with open(out / manifest.shards[1].name, "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"shard-000001\.tar has not its [0-9,]+ bytes"):
        open_source(f"wds:{out}", 16)
    (out / manifest.shards[1].name).unlink()
    with pytest.raises(DataError, match=r"is damaged .*shard-000001\.tar"):
        open_source(f"wds:{out}", 16)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kept": 99, "labels": [0], "smallest": [1, 1], "largest": [1, 1], "rejected": [], "shard": null}',
        b'{"kept": 3, "labels": [9, 9, 9], "smallest": [1, 1], "largest": [1, 1], "rejected": [], "shard": null}',
        b'{"kept": 1e999, "labels": {}, "smallest": 1, "largest": -1, "rejected": "all", "shard": {"name": "../../x"}}',
        b'{"kept": 0, "labels": [], "smallest": null, "largest": null, "rejected": [["a/0.png", "x"]], "shard": ["../", 0]}',
    ],
)
@pytest.mark.parametrize("layout", [Packed(16), Shards(16, shard_images=1)], ids=["packed", "wds"])
def test_journals_that_cannot_be_true_are_not_believed(pictures, tmp_path, line, layout):
    whole = prepare(list_source(str(pictures)), tmp_path / "whole", layout)
    out = tmp_path / "out"
    out.mkdir()
    identity = json.dumps({"identity": whole.identity}).encode()
    (out / "progress.jsonl").write_bytes(identity + b"\n" + line + b"\n" + line)
    assert prepare(list_source(str(pictures)), out, layout) == whole
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "progress.jsonl").write_bytes(line)
    with pytest.raises(DataError) as caught:
        prepare(list_source(str(pictures)), tmp_path / "other", layout)
    assert len(str(caught.value).splitlines()) == 1


def test_a_full_disk_leaves_nothing_that_looks_finished(capsys, pictures, tmp_path, monkeypatch):
    def full(*words):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("biggan.data.formats.write_file", full)
        code, _, err = call(capsys, "data", "prepare", pictures, tmp_path / "out", "--resolution", 16)
    assert (code, "free some space" in err, len(err.splitlines())) == (2, True, 1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images.u8", "progress.jsonl", "rejected.jsonl"}
    with pytest.raises(DataError, match="holds no manifest"):
        open_source(f"packed:{tmp_path / 'out'}", 16)
    assert call(capsys, "data", "prepare", pictures, tmp_path / "out", "--resolution", 16)[0] == 0


def test_an_image_that_is_repaired_is_used_again(pictures, tmp_path):
    whole = (pictures / "a" / "3.png").read_bytes()
    (pictures / "a" / "3.png").write_bytes(b"broken")
    assert open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache").broken == 1
    with pytest.raises(DataError, match=r"a/3\.png .*--skip-broken"):
        open_source(str(pictures), 32, cache=tmp_path / "cache")
    (pictures / "a" / "3.png").write_bytes(whole)
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").broken == 0
    assert open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache").from_cache, (
        "the option makes no other set"
    )


def test_preparing_and_inspecting_broken_files(capsys, pictures, tmp_path):
    (pictures / "a" / "3.png").write_bytes(b"broken")
    words = ["data", "prepare", pictures, tmp_path / "out", "--resolution", 16]
    code, _, err = call(capsys, *words, "--no-skip-broken")
    assert (code, "a/3.png" in err, "--skip-broken" in err, len(err.splitlines())) == (2, True, True, 1)
    code, out, _ = call(capsys, *words)
    assert (code, "broken 1" in out) == (0, True)
    assert call(capsys, *words, "--verify")[0] == 0
    flip(tmp_path / "out" / "images.u8", 3)
    code, _, err = call(capsys, *words, "--verify")
    assert (code, "is damaged" in err, len(err.splitlines())) == (2, True, 1)
    code, out, _ = call(capsys, "data", "inspect", pictures, "--out", tmp_path / "sheet.png", "--background", "black")
    assert (code, "a/3.png: it is no image of the formats" in out, "0x" in out) == (0, True, False)
    code, _, err = call(capsys, "data", "inspect", pictures, "--background", "blakc")
    assert (code, "is no color" in err, len(err.splitlines())) == (2, True, 1)


def test_fifos_and_devices_among_images_are_left_out_and_nobody_waits_for_them(pictures, tmp_path, notes):
    os.mkfifo(pictures / "a" / "fifo.png")
    (pictures / "b" / "zero.png").symlink_to("/dev/zero")
    assert open_source(str(pictures), 16, cache=tmp_path / "cache").count == 11
    assert "data: left out: 2 entries that are not regular files (a/fifo.png, b/zero.png)" in notes


def test_progress_is_logged_where_there_is_no_terminal(pictures, tmp_path, notes, monkeypatch):
    monkeypatch.setattr("biggan.runtime.progress.LOG_INTERVAL", 0.0)
    open_source(str(pictures), 16, cache=tmp_path / "cache")
    assert notes[:2] == ["decoding 1 of 11 images", "decoding 2 of 11 images"]
    notes.clear()
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    open_source(str(pictures), 8, cache=tmp_path / "cache")
    assert not notes


def test_the_content_hash_is_that_of_pixels_and_labels(pictures, tmp_path):
    source = open_source(str(pictures), 32, cache=tmp_path / "cache")
    digest = hashlib.sha256(source.images.numpy().tobytes() + source.labels.numpy().tobytes())
    assert source.content_hash == digest.hexdigest()
    assert loader.CACHE_FORMAT > 1


def test_files_larger_than_the_limit_are_not_read(pictures, tmp_path):
    with open(pictures / "a" / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"huge\.png .*larger than 268,435,456 bytes"):
        open_source(str(pictures), 16, cache=tmp_path / "cache")


def test_shards_hold_no_image_that_only_this_reader_understands(tmp_path):
    """Images of the right size are copied, but for transparent ones and for those that others may refuse."""
    (tmp_path / "set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    images = {"plain": (Image.fromarray(pixels), {})}
    images["clear"] = Image.new("RGBA", (16, 16), (9, 9, 9, 0)), {}
    comment = PngInfo()
    comment.add_text("Comment", "x" * 3_000_000, zip=True)
    images["text"] = Image.fromarray(pixels), {"pnginfo": comment}
    for name, (image, options) in images.items():
        image.save(tmp_path / "set" / f"{name}.png", **options)
    prepare(list_source(str(tmp_path / "set")), tmp_path / "out", Shards(16))
    stored = [sample.data for file in sorted((tmp_path / "out").glob("*.tar")) for sample in read_samples(str(file))]
    assert [data in stored for data in map(Path.read_bytes, sorted((tmp_path / "set").iterdir()))] == [False, True, False]
    found = {np.asarray(Image.open(io.BytesIO(data))).tobytes() for data in stored}
    assert found == {pixels.tobytes(), bytes([255]) * 768}
