"""Decoding, caching, broken images, and the order of the stream."""

import os
import zipfile

import numpy as np
import pytest
import torch
from conftest import shared_file, write_pictures
from PIL import EpsImagePlugin, Image

from biggan.data import loader
from biggan.data.dataset import open_source
from biggan.data.formats import Packed
from biggan.data.prepare import prepare
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "set", {"a": 7, "b": 4}, size=(32, 32))
    return tmp_path / "set"


def test_images_labels_and_cache(pictures, tmp_path):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert first.images.shape == (11, 3, 32, 32)
    assert first.images.dtype == torch.uint8
    assert first.labels.tolist() == [0] * 7 + [1] * 4
    assert not first.from_cache
    assert first.sizes == ((32, 32), (32, 32))
    second = open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert second.from_cache
    assert torch.equal(first.images, second.images)
    assert first.content_hash == second.content_hash
    assert first.sizes == second.sizes


def test_another_folder_with_files_of_the_same_sizes_and_times_is_another_set(tmp_path):
    for name, value in (("one", 10), ("two", 200)):
        (tmp_path / name / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8), (value, 0, 0)).save(tmp_path / name / "a" / "0.bmp")
        os.utime(tmp_path / name / "a" / "0.bmp", (1, 1))
    one, two = (open_source(str(tmp_path / name), 8, cache=tmp_path / "cache") for name in ("one", "two"))
    assert (one.images[0, 0, 0, 0], two.images[0, 0, 0, 0]) == (10, 200)
    prepare(list_source(str(tmp_path / "one")), tmp_path / "out", Packed(8))
    with pytest.raises(DataError):
        prepare(list_source(str(tmp_path / "two")), tmp_path / "out", Packed(8))


def test_a_changed_file_is_decoded_again(pictures, tmp_path):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    (pictures / "a" / "0.png").write_bytes((pictures / "b" / "1.png").read_bytes())
    second = open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert not second.from_cache
    assert first.content_hash != second.content_hash
    assert torch.equal(second.images[0], second.images[8])


def test_broken_images_are_named_or_counted(pictures, tmp_path, notes):
    whole = (pictures / "a" / "3.png").read_bytes()
    (pictures / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "b" / "0.png").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"a/3\.png .*skip-broken"):
        open_source(str(pictures), 32, cache=tmp_path / "cache")
    source = open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache")
    assert (len(source.labels), source.broken) == (9, 2)
    assert "2 of 11" in notes[0]
    again = open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache")
    assert again.from_cache
    assert "2 of 11" in notes[1]


def test_damage_inside_a_zip_is_a_broken_image(pictures, tmp_path):
    target = tmp_path / "set.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(pictures.rglob("*.png")):
            archive.write(path, path.relative_to(pictures))
        damaged = archive.infolist()[2]
    data = bytearray(target.read_bytes())
    data[damaged.header_offset + 100] ^= 0xFF
    target.write_bytes(data)
    with pytest.raises(DataError, match=damaged.filename):
        open_source(str(target), 32, cache=tmp_path / "cache")
    assert open_source(str(target), 32, skip_broken=True, cache=tmp_path / "cache").broken == 1


def test_postscript_named_png_is_a_broken_image_and_no_program_is_started(pictures, tmp_path, monkeypatch):
    """Pillow goes by the content of a file, and would hand this one to Ghostscript."""
    file = pictures / "a" / "3.png"
    Image.new("RGB", (8, 8), "red").save(file, "EPS")
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    with pytest.raises(DataError, match=r"a/3\.png .*no image of the formats PNG, .*skip-broken") as caught:
        open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache").broken == 1
    assert not started


def test_a_class_without_a_readable_image_is_refused(pictures, tmp_path):
    for path in (pictures / "b").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="no image of b can be read"):
        open_source(str(pictures), 32, skip_broken=True, cache=tmp_path / "cache")


def test_a_damaged_cache_is_made_again(pictures, tmp_path, notes):
    first = open_source(str(pictures), 32, cache=tmp_path / "cache")
    for name, damage in (("images.npy", b""), ("facts.json", b"{"), ("labels.npy", b"no")):
        (next((tmp_path / "cache").iterdir()) / name).write_bytes(damage)
        notes.clear()
        again = open_source(str(pictures), 32, cache=tmp_path / "cache")
        assert "damaged" in notes[0]
        assert torch.equal(first.images, again.images)
    assert open_source(str(pictures), 32, cache=tmp_path / "cache").from_cache


def test_more_than_the_memory_is_refused_before_decoding(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "total_memory", lambda: 11 * 3 * 32 * 32)
    with pytest.raises(DataError, match="GiB decoded"):
        open_source(str(pictures), 32, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_reported(pictures, tmp_path, notes):
    (tmp_path / "cache").write_text("a file where the folder should be")
    source = open_source(str(pictures), 32, cache=tmp_path / "cache")
    assert len(source.labels) == 11
    assert "could not be saved" in notes[0]


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_each_epoch_shows_every_image_once_in_a_new_order(pictures, tmp_path):
    source = open_source(str(pictures), 32, cache=tmp_path / "cache")
    images, labels = take(source.stream(1, seed=0), 22)
    orders = []
    for epoch in (images[:11], images[11:]):
        matches = (epoch[:, None] == source.images[None]).flatten(2).all(2)
        assert matches.sum(0).tolist() == [1] * 11
        orders.append(matches.int().argmax(1).tolist())
    assert orders[0] != orders[1]
    assert labels.tolist() == source.labels[orders[0] + orders[1]].tolist()


def test_a_stream_goes_on_from_any_image(pictures, tmp_path):
    source = open_source(str(pictures), 32, flip=True, cache=tmp_path / "cache")
    images, labels = take(source.stream(4, seed=3), 10)
    later_images, later_labels = take(source.stream(4, start_image=24, seed=3), 4)
    assert torch.equal(images[24:], later_images)
    assert torch.equal(labels[24:], later_labels)


def test_ranks_share_the_global_batch(pictures, tmp_path):
    source = open_source(str(pictures), 32, flip=True, cache=tmp_path / "cache")
    whole = next(source.stream(6, start_image=6, seed=1))[0]
    parts = [next(source.stream(6, rank=r, world_size=2, start_image=6, seed=1))[0] for r in range(2)]
    assert torch.equal(whole, torch.cat(parts))


def test_flips_mirror_about_half(pictures, tmp_path):
    source = open_source(str(pictures), 32, flip=True, cache=tmp_path / "cache")
    images, _ = take(source.stream(11, seed=0), 20)
    plain = (images[:, None] == source.images[None]).flatten(2).all(2).any(1)
    mirrored = (images[:, None] == source.images.flip(3)[None]).flatten(2).all(2).any(1)
    assert (plain ^ mirrored).all()
    assert 0.35 < plain.float().mean() < 0.65


def test_real_jpegs_from_a_zip(tmp_path):
    source = open_source(f"zip:{shared_file('data/imagenette-128.zip')}", 64, cache=tmp_path)
    assert source.images.shape == (1200, 3, 64, 64)
    assert np.bincount(source.labels.numpy()).tolist() == [120] * 10
