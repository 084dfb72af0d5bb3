"""Zip archives as other programs write them, and damaged ones."""

import struct
import warnings
import zipfile
import zlib

import pytest
from conftest import write_pictures
from test_listing import png

from biggan.data import archives
from biggan.data.dataset import open_source
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError


def zip_with(target, entries, **attributes):
    """An archive of (name, bytes) pairs; names are written as they are."""
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return target


def zip_of_raw_names(target, names, *, utf8=False):
    """An archive whose names are these bytes, without the UTF-8 flag."""
    data, body, directory = png(), b"", b""
    for name in names:
        fields = (20, 0x800 if utf8 else 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0)
        start = len(body)
        body += struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields) + name + data
        directory += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, *fields, 0, 0, 0, 0, start) + name
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(names), len(names), len(directory), len(body), 0)
    target.write_bytes(body + directory + end)
    return target


def test_backslashes_separate_folders(tmp_path):
    entries = [(f"photos\\{name}\\{number}.png", png(number)) for name in ("cat", "dog") for number in range(6)]
    listing = list_source(str(zip_with(tmp_path / "photos.zip", [("photos\\", b""), ("photos\\cat\\", b""), *entries])))
    assert listing.class_names == ("cat", "dog")
    assert listing.labels == (0,) * 6 + (1,) * 6
    assert listing.read(listing.images[1]) == png(1)


def test_entries_that_are_no_files_and_files_of_systems(tmp_path):
    entries = [("set/logo.png/", b""), ("set/dog/", b""), ("set/logo.png/0.jpg", png()), ("set/dog/0.jpg", png())]
    entries += [("__MACOSX/set/dog/._0.jpg", b"x"), ("set/dog/Thumbs.db", b"x"), ("set/.DS_Store", b"x")]
    entries += [("set/dog/desktop.ini", b"x"), ("__MACOSX/set/cat/0.jpg", b"x")]
    listing = list_source(str(zip_with(tmp_path / "dirs.zip", entries)))
    assert (listing.class_names, listing.images) == (("dog", "logo.png"), ("set/dog/0.jpg", "set/logo.png/0.jpg"))
    assert (listing.left_out, listing.empty_classes) == ((), ())


def test_links_in_archives_are_no_images(tmp_path):
    zip_with(tmp_path / "a.zip", [("a/link.png", b"/etc/passwd")], external_attr=0o120777 << 16)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("a/0.png", png())
    listing = list_source(str(tmp_path / "a.zip"))
    assert listing.images == ("a/0.png",)
    assert listing.left_out == ("1 entry that is not a regular file (a/link.png)",)


def test_names_that_are_there_twice(tmp_path):
    twice = [("cat/0.jpg", png(1)), ("dog/0.jpg", png(2)), ("cat/0.jpg", png(3))]
    with pytest.raises(DataError, match=r"1 name twice with different content \(cat/0\.jpg\)"):
        list_source(str(zip_with(tmp_path / "twice.zip", twice)))
    with pytest.raises(DataError, match="twice"):
        list_source(str(zip_with(tmp_path / "slashes.zip", [("cat/0.jpg", png(1)), ("cat\\0.jpg", png(2))])))
    listing = list_source(str(zip_with(tmp_path / "same.zip", [*twice[:2], twice[0]])))
    assert listing.images == ("cat/0.jpg", "dog/0.jpg")
    assert listing.left_out == ("1 file listed twice with the same content (cat/0.jpg)",)


def test_names_are_only_names(tmp_path):
    entries = [("/abs/cat/0.png", png(1)), ("../../abs/cat/1.png", png(2)), ("./abs/cat/../dog/0.png", png(3))]
    listing = list_source(str(zip_with(tmp_path / "odd.zip", entries)))
    assert listing.images == ("abs/cat/0.png", "abs/cat/1.png", "abs/dog/0.png")
    assert (listing.class_names, listing.read("abs/dog/0.png")) == (("cat", "dog"), png(3))
    assert [path.name for path in tmp_path.iterdir()] == ["odd.zip"]


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp437", ("château", "été")),
        ("utf-8", ("château", "猫")),
        ("cp932", ("テスト", "ねこ")),
        ("ascii", ("cat", "dog")),
    ],
)
def test_names_in_encodings_of_other_systems(tmp_path, encoding, names):
    raw = [f"{name}/0.png".encode(encoding) for name in names]
    assert set(list_source(str(zip_of_raw_names(tmp_path / "a.zip", raw))).class_names) == set(names)


def test_names_in_the_extra_field_of_info_zip(tmp_path):
    """They count if they are of the stored name, in which other letters are replaced."""
    names = ("\u732b/0.png", "\u72ac/0.png", "cat/0.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, stored in zip(names, ("_/0.png", "_/0.png", "_/1.png"), strict=True):
            info = zipfile.ZipInfo(stored)
            checksum = zlib.crc32(stored.encode()) + (name == "cat/0.png")
            field = struct.pack("<BL", 1, checksum) + name.encode()
            info.extra = struct.pack("<HH", 0x5455, 1) + b"x" + struct.pack("<HH", 0x7075, len(field)) + field
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the stored names are equal
                archive.writestr(info, png())
    assert list_source(str(tmp_path / "a.zip")).images == ("_/1.png", "\u72ac/0.png", "\u732b/0.png")


def test_names_beyond_reason(tmp_path):
    with pytest.raises(DataError, match=r"a name in it has 8,\d+ letters, more than 4,096"):
        list_source(str(zip_with(tmp_path / "deep.zip", [("a/" * 4000 + "x.png", png())])))


def test_flagged_names_are_utf8(tmp_path, capsys):
    raw = [f"{name}/0.png".encode() for name in ("猫", "é")]
    assert list_source(str(zip_of_raw_names(tmp_path / "a.zip", raw, utf8=True))).class_names == ("é", "猫")
    zip_of_raw_names(tmp_path / "b.zip", [b"caf\xe9/0.png"], utf8=True)
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        list_source(str(tmp_path / "b.zip"))


def test_encrypted_archives(tmp_path):
    file = zip_of_raw_names(tmp_path / "a.zip", [b"cat/0.png", b"dog/0.png"])
    data = file.read_bytes().replace(b"PK\x01\x02\x14\0\x14\0\0\0", b"PK\x01\x02\x14\0\x14\0\1\0")
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"encrypted \(2 files, first cat/0\.png\): unpack it with its password"):
        list_source(str(file))


def test_unknown_compression(tmp_path):
    file = zip_of_raw_names(tmp_path / "a.zip", [b"cat/0.png"])
    file.write_bytes(file.read_bytes().replace(b"PK\x01\x02\x14\0\x14\0\0\0\0\0", b"PK\x01\x02\x14\0\x14\0\0\0\x09\0"))
    with pytest.raises(DataError, match=r"method 9 \(Deflate64\)"):
        list_source(str(file))


def test_damaged_archives(tmp_path, monkeypatch):
    whole = zip_with(tmp_path / "a.zip", [("cat/0.png", png()), ("dog/0.png", png())]).read_bytes()
    end = whole.index(b"PK\x05\x06")
    directory = whole.index(b"PK\x01\x02")
    damaged = [
        b"",
        b"PK",
        whole[:-10],
        whole[:end],
        whole[:directory] + whole[end:],
        whole[: directory + 6] + b"\xff\xff" + whole[directory + 8 :],
        whole[: end + 12] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + whole[end + 20 :],
    ]
    for number, data in enumerate(damaged):
        (tmp_path / f"{number}.zip").write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as a zip archive") as caught:
            list_source(f"zip:{tmp_path / f'{number}.zip'}")
        assert len(str(caught.value).splitlines()) == 1, number
    monkeypatch.setattr(archives, "MAX_ENTRIES", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        list_source(str(tmp_path / "a.zip"))


def test_a_folder_of_an_archive_is_a_source(tmp_path, capsys):
    write_pictures(tmp_path / "set", {"seg_train/sea": 2, "seg_train/ice": 1, "seg_test/sea": 1, "seg_test/ice": 1})
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted((tmp_path / "set").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    with pytest.raises(DataError, match=r"such as zip:.*set\.zip:set/seg_train"):
        list_source(str(tmp_path / "set.zip"))
    inside = open_source(f"zip:{tmp_path / 'set.zip'}:set/seg_train", 16, cache=tmp_path / "cache")
    outside = open_source(f"folder:{tmp_path / 'set' / 'seg_train'}", 16, cache=tmp_path / "cache")
    assert (inside.class_names, inside.count) == (("ice", "sea"), 3)
    assert inside.content_hash == outside.content_hash
    with pytest.raises(DataError, match="no folder 'sett' in the archive; did you mean 'set'"):
        list_source(f"zip:{tmp_path / 'set.zip'}:sett")
    (tmp_path / "set.zip").rename(tmp_path / "a:b.zip")
    assert len(list_source(f"zip:{tmp_path / 'a:b.zip'}:set/seg_test").images) == 2


def test_empty_class_folders_in_archives(tmp_path):
    entries = [("a/0.png", png()), ("b/", b""), ("c/0.png", png()), ("d/notes.txt", b"x"), ("odd", png()[:16] + b"cut")]
    listing = list_source(str(zip_with(tmp_path / "a.zip", entries[:4])))
    assert listing.empty_classes == (("b", "no file in it"), ("d", "no image in it"))
    with pytest.raises(DataError, match=r"beside class folders \(1, first odd\)"):
        list_source(str(zip_with(tmp_path / "b.zip", entries)))
