"""Classes in .cls and .json, names with dots, members that are no images, and tar files that lie."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc

import pytest
from conftest import call
from PIL import Image

from biggan.data import tar_samples
from biggan.data.dataset import open_source
from biggan.data.sources import list_source
from biggan.data.tar_samples import read_samples_of
from biggan.runtime.errors import DataError


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(*files, mode="w"):
    """The bytes of a tar file of (name, content) or of tarfile.TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
                continue
            info = tarfile.TarInfo(file[0])
            info.size = len(file[1])
            tar.addfile(info, io.BytesIO(file[1]))
    return buffer.getvalue()


def samples(data):
    return [(sample.name, sample.label) for sample in read_samples_of(io.BytesIO(data), "x.tar")]


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("a.cls", b"3", "3"),
        ("a.cls", b" 003\n", "3"),
        ("a.cls", b"-1", ""),
        ("a.cls", b"\xef\xbb\xbf0", "0"),
        ("a.cls", "Épagneul breton\n".encode(), "Épagneul breton"),
        ("a.json", b'{"label": 3}', "3"),
        ("a.json", b'{"class": "cat", "label": 3}', "cat"),
        ("a.json", b'{"cls": null, "class_name": "cat"}', "cat"),
        ("a.json", b'{"caption": "a cat", "key": "000", "status": "success"}', ""),
        ("a.json", b"[1, 2]", ""),
        ("a.txt", b"a photo of a cat", ""),
        ("a.CLS", b"4", "4"),
    ],
)
def test_classes(name, content, label):
    assert samples(tar_of(("a.png", png()), (name, content))) == [("x.tar/a.png", label)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b""), ("a.cls", b"")], "'a.cls' holds no class"),
        ([("a.png", b""), ("a.cls", b"\xff\xfe")], "'a.cls' is not UTF-8"),
        ([("a.png", b""), ("a.cls", b"two\nlines")], "'a.cls' holds no class"),
        ([("a.png", b""), ("a.cls", b"x" * 300)], "'a.cls' holds no class"),
        ([("a.png", b""), ("a.cls", b"9" * 5000)], "5,000 bytes, more than 4,096"),
        ([("a.png", b""), ("a.json", b"{")], "invalid JSON"),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], "nested too deeply"),
        ([("a.png", b""), ("a.json", b'{"label": [1]}')], "label in 'a.json' is no number and no name"),
        ([("a.png", b""), ("a.json", b'{"label": true}')], "is no number and no name"),
        ([("a.png", b""), ("a.png", b"")], "'a.png' is there twice"),
        ([("a.png", b""), ("a.jpg", b"")], "'a' has two images, png and jpg"),
        ([("a.png", b""), ("b.png", b""), ("a.cls", b"1"), ("b.cls", b"2")], "the files of 'a' do not follow one another"),
        ([("a.png", b""), ("a.cls", b"1"), ("b.png", b""), ("b.cls", b"1"), ("a.png", b"")], "do not follow one another"),
        ([("a.json", b"{}"), ("b.json", b"{}"), ("a.png", b""), ("b.png", b"")], "do not follow one another"),
        ([("a.cls", b"1")], "'a.cls' has no image beside it"),
        (
            [("a.v1.jpg", b""), ("a.v1.cls", b"1"), ("a.v2.jpg", b"")],
            "'a.v1.jpg' is no image, for names end at their first dot",
        ),
    ],
)
def test_what_is_no_sample(files, message):
    with pytest.raises(ValueError, match=message) as caught:
        samples(tar_of(*files))
    assert len(str(caught.value).splitlines()) == 1


def test_names_and_members():
    link, device, folder = tarfile.TarInfo("l.png"), tarfile.TarInfo("d.png"), tarfile.TarInfo("f.png")
    link.type, link.linkname, device.type, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE, tarfile.DIRTYPE
    files = [
        ("README.md", b"about"),
        ("dataset.json", b"{}"),
        ("./v1.0/a.png", png()),
        ("./v1.0/a.cls", b"1"),
        device,
        folder,
    ]
    files += [
        ("v1.0/._b.png", b"mac"),
        ("__MACOSX/c.png", b"mac"),
        ("v1.0/d.jpg", b""),
        ("v1.0/d.seg.png", b""),
        ("v1.0/d.cls", b"2"),
    ]
    files += [("n" * 300 + ".png", png()), ("n" * 300 + ".cls", b"3")]
    assert samples(tar_of(*files)) == [("x.tar/v1.0/a.png", "1"), ("x.tar/v1.0/d.jpg", "2"), (f"x.tar/{'n' * 300}.png", "3")]
    for mode in ("w:gz", "w:bz2", "w:xz"):
        assert len(samples(tar_of(*files, mode=mode))) == 3


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize("name", ["b.png", "b.cls"])
def test_links_are_errors_because_they_would_be_missing(kind, name):
    """GNU tar stores a file with several names as links to the first."""
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, "a.png"
    with pytest.raises(ValueError, match=f"'{name}' is a link, not a file: make it again"):
        samples(tar_of(("a.png", png()), link))


def test_a_damaged_or_missing_header_is_not_taken_for_the_end():
    files = [(f"{number}.png", png(number)) for number in range(4)]
    whole = tar_of(*files)
    starts = [
        number
        for number in range(0, len(whole), 512)
        if whole[number : number + 6].rstrip(b"\0") in (b"0.png", b"1.png", b"2.png", b"3.png")
    ]
    assert len(starts) == 4
    start = starts[2]
    flipped = bytearray(whole)
    flipped[start + 2] ^= 1
    cases = {
        "damaged header": bytes(flipped),
        "goes on after its end mark": whole[:start] + bytes(512) + whole[start + 512 :],
        "ends without an end mark": whole[:start],
        "damaged header ": whole[: start + 100],
    }
    assert len(samples(whole)) == 4
    for message, data in cases.items():
        with pytest.raises((ValueError, tarfile.TarError, EOFError), match=message.strip()):
            samples(data)
    with pytest.raises(ValueError, match="two tar files in one"):
        samples(whole + whole)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_files_in_parts_are_whole_and_their_checksums_count(compress):
    whole = tar_of(*((f"{number}.png", png(number)) for number in range(10)))
    parts = compress(whole[:3000]) + compress(whole[3000:])
    assert len(samples(parts)) == 10
    for cut in (parts[:-4], parts[: len(parts) // 2]):
        with pytest.raises((EOFError, OSError, ValueError, tarfile.TarError)):
            samples(cut)
    changed = bytearray(compress(whole))
    changed[-6] ^= 1  # in the checksum
    with pytest.raises((OSError, ValueError, EOFError)):
        samples(bytes(changed))


def test_sizes_that_lie():
    huge = tarfile.TarInfo("a.png")
    huge.size = 1 << 40
    long_name = tarfile.TarInfo("x")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    for info in (huge, long_name):
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)
        with pytest.raises((ValueError, tarfile.TarError)):
            samples(data)
    sparse = tarfile.TarInfo("a.png")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    with pytest.raises((ValueError, tarfile.TarError)):
        samples(sparse.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024))
    negative = tarfile.TarInfo("a.png")
    negative.pax_headers = {"size": "-1024"}
    with pytest.raises((ValueError, tarfile.TarError)):
        samples(negative.tobuf(tarfile.PAX_FORMAT) + bytes(10_240))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_compressed_bombs_end_early(monkeypatch, pack):
    monkeypatch.setattr(tar_samples, "UNPACKED_AT_ONCE", 1 << 20)
    data = pack(tar_of(*((f"{number}.bin", bytes(1 << 20)) for number in range(16))))
    tracemalloc.start()
    with pytest.raises(ValueError, match="unpacks to more than 200 times its size"):
        samples(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def write(file, *files):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(tar_of(*files))


def open_bare(tmp_path, location="bare"):
    return open_source(f"wds:{tmp_path / location}", 8, cache=tmp_path / "cache")


def test_classes_of_a_set(tmp_path, notes):
    write(
        tmp_path / "bare" / "0.tar", ("a.png", png(1)), ("a.cls", b"dog"), ("b.png", png(0)), ("b.json", b'{"class": "cat"}')
    )
    source = open_bare(tmp_path)
    assert source.class_names == ("cat", "dog")
    images, labels = next(source.iterate_once(2))
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [1, 0]
    write(
        tmp_path / "numbers" / "0.tar",
        *((f"{n}.{s}", d) for n in (10, 9, 2) for s, d in (("png", png(n)), ("cls", b"%d" % n))),
    )
    assert open_bare(tmp_path, "numbers").class_names == ("2", "9", "10")
    write(tmp_path / "both" / "0.tar", ("a.png", png()), ("a.cls", b"10"), ("b.png", png()), ("b.cls", b"cat"))
    assert open_bare(tmp_path, "both").class_names == ("10", "cat")
    captions = [
        (f"{n:05d}.{s}", d)
        for n in range(3)
        for s, d in (("jpg", png()), ("txt", b"a cat"), ("json", json.dumps({"caption": "a cat"}).encode()))
    ]
    write(tmp_path / "captions" / "00000.tar", *captions)
    source = open_bare(tmp_path, "captions")
    assert (source.class_names, source.count, next(source.iterate_once(3))[1].tolist()) == (("captions",), 3, [0] * 3)
    assert "hold no classes" in notes[-1]
    write(tmp_path / "some" / "0.tar", ("a.png", png()), ("a.cls", b"1"), ("b.png", png()))
    with pytest.raises(DataError, match="1 of 2 images have no class beside them"):
        open_bare(tmp_path, "some")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "TAR"])
def test_tar_files_are_found_and_named(capsys, tmp_path, suffix):
    file = tmp_path / "bare" / f"set.{suffix}"
    file.parent.mkdir()
    file.write_bytes(tar_of(("a.png", png()), ("a.cls", b"0"), mode="w" if suffix.lower() == "tar" else "w:gz"))
    assert open_bare(tmp_path).count == open_source(f"wds:{file}", 8, cache=tmp_path / "cache").count == 1
    with pytest.raises(DataError, match=r"is a tar file: use wds:.*set\."):
        list_source(str(file))
    code, _, err = call(capsys, "train", "digits", "--data", file, "--dry-run")
    assert (code, f"use wds:{file}" in err, len(err.splitlines())) == (2, True, 1)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "names no folder"),
        (" ", "names no folder"),
        ("{a", "is not a file|cannot be expanded"),
        ("a}.tar", "is not a file"),
        ("{000..999999999}.tar", "cannot be expanded .a range is too long"),
        ("{0..99999999999999999999999}.tar", "a range is too long"),
        ("{a,b}" * 30 + ".tar", "there are more than 8"),
        ("{a..z}" * 5 + ".tar", "more than 100,000 names"),
        ("{,}", "an empty name|is not a file"),
        ("{" * 2000 + "}" * 2000, "cannot be expanded|is not a file"),
        ("absent.tar", "is not a file"),
        ("absent", "no such folder"),
    ],
)
def test_patterns_without_a_meaning(tmp_path, monkeypatch, location, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"wds:{location}", 8, cache=tmp_path / "cache")
    assert len(str(caught.value).splitlines()) == 1


def test_bare_shards_with_a_fifo_as_index_or_shard(tmp_path):
    import os

    write(tmp_path / "bare" / "0.tar", ("a.png", png()), ("a.cls", b"0"))
    open_bare(tmp_path)
    (index,) = (tmp_path / "cache").glob("shards-*.json")
    index.unlink()
    os.mkfifo(index)
    assert open_bare(tmp_path).count == 1
    os.mkfifo(tmp_path / "bare" / "1.tar")
    with pytest.raises(DataError, match=r"1\.tar.*is not a regular file"):
        open_bare(tmp_path)
