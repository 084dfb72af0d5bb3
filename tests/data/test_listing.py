"""What a folder's listing holds, what it leaves out and says so, and specs that name nothing."""

import io
import os
import socket
import sys

import numpy as np
import pytest
from conftest import call, write_pictures
from PIL import Image

from biggan.cli.main import main
from biggan.data import folders, image_names
from biggan.data.dataset import open_source
from biggan.data.image_names import IMAGE_SUFFIXES, begins_as_image, suffix_of
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError


def png(value=77):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 32), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_link_that_leads_nowhere_is_left_out_and_named(tmp_path, capsys):
    write_pictures(tmp_path / "set", {"cat": 4})
    (tmp_path / "set" / "cat" / "4.png").symlink_to("../../annex/objects/4.png")
    listing = list_source(str(tmp_path / "set"))
    assert (len(listing.images), listing.class_names) == (4, ("cat",))
    assert listing.left_out == ("1 broken link (cat/4.png)",)
    code, out, _ = call(capsys, "data", "inspect", tmp_path / "set", "--out", tmp_path / "sheet.png")
    assert (code, "images 4 of 1 class" in out, "left out 1 broken link (cat/4.png)" in out) == (0, True, True)


def test_everything_that_is_left_out_is_counted_with_its_first_names(tmp_path, notes):
    root = tmp_path / "set"
    write_pictures(root, {"cat": 1, "dog": 1})
    for number in range(5):
        (root / "cat" / f"note{number}.txt").write_text("a note")
    (root / "dog" / "clip.MP4").write_bytes(b"no image")
    (root / "dog" / "README").write_text("no image")
    (root / "dog" / ".hidden.png").write_bytes(png())
    (root / ".git").mkdir()
    (root / ".git" / "0.png").write_bytes(png())
    (root / "dog" / "photo.jpg.part").write_bytes(png())
    (root / "dog" / "annotations").mkdir()
    os.mkfifo(root / "cat" / "fifo.png")
    (root / "cat" / "link.png").symlink_to(root / "cat" / "fifo.png")
    (root / "cat" / "zero.png").symlink_to("/dev/zero")
    (root / "cat" / "self.png").symlink_to("self.png")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"):
        (root / "cat" / name).write_bytes(b"of the system")
    listing = list_source(str(root))
    assert listing.images == ("cat/0.png", "dog/0.png")
    assert listing.left_out == (
        "1 file that looks like an image but has another suffix (dog/photo.jpg.part)",
        "1 broken link (cat/self.png)",
        "3 entries that are not regular files (cat/fifo.png, cat/link.png, cat/zero.png)",
        "2 hidden files or folders (.git, dog/.hidden.png)",
        "1 folder without images (dog/annotations (no file in it))",
        "7 files that are no images: 5 .txt (cat/note0.txt, cat/note1.txt, cat/note2.txt, ...), "
        "1 .mp4 (dog/clip.MP4), 1 without suffix (dog/README)",
    )
    open_source(str(root), 16, cache=tmp_path / "cache")
    assert [note for note in notes if "1 broken link (cat/self.png)" in note and "5 .txt" in note], "said when it is opened"


def test_content_decides_where_the_name_does_not(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("0001", "no. 7", "scan.0002", "a.jfif", "b.JPE", "c.pbm", "d.apng"):
        (root / name).write_bytes(png())
    (root / "page.jpg").write_text("<html>")
    (root / "plain").write_text("BM is not enough")
    (root / "numbers").write_text("P5 ")
    (root / "list.csv").write_bytes(png())
    listing = list_source(str(root))
    assert set(listing.images) == {"0001", "no. 7", "scan.0002", "a.jfif", "b.JPE", "c.pbm", "d.apng", "page.jpg"}
    assert listing.left_out == ("3 files that are no images: 2 without suffix (numbers, plain), 1 .csv (list.csv)",)
    with pytest.raises(DataError, match=r"page\.jpg"):
        open_source(str(root), 16, cache=tmp_path / "cache")


def test_only_heads_of_files_with_unknown_names_are_read(tmp_path, monkeypatch):
    for name in ("a.png", "b.txt", "c.npy", "d.mp4", "e.json", "f.pt"):
        (tmp_path / name).write_bytes(png())
    monkeypatch.setattr(image_names, "open_regular_file", None)
    assert list_source(str(tmp_path)).images == ("a.png",)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_first_bytes_of_every_format(format_):
    if format_ == "AVIF" and ".avif" not in IMAGE_SUFFIXES:
        pytest.skip("Pillow was built without AVIF")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, format_)
    assert begins_as_image(buffer.getvalue()[:16])


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"BM: a letter to you", b"RIFF\0\0\0\0WAVEfmt ", b"P5", b"\0\0\0\x20ftypmp42", b"II", b"GIF"]
)
def test_other_first_bytes(head):
    assert not begins_as_image(head[:16])


def test_what_a_suffix_is():
    names = ("a.PNG", "a.tar.gz", "no. 7", "a.0001", "a", "a.", "a.jpg~", "a.jpg_large", "a." + "x" * 30)
    assert [suffix_of(name) for name in names] == [".png", ".gz", "", "", "", "", ".jpg~", ".jpg_large", ""]


def test_a_class_folder_without_an_image_stops_unless_allowed(tmp_path, notes, capsys):
    root = tmp_path / "set"
    write_pictures(root, {"a": 3, "c": 3})
    (root / "b").mkdir()
    (root / "d").mkdir()
    (root / "d" / "scan.pdf").write_text("no image")
    (root / "e").symlink_to("moved/disk")
    listing = list_source(str(root))
    assert listing.class_names == ("a", "c")
    assert listing.empty_classes == (("b", "no file in it"), ("d", "no image in it"), ("e", "a broken link"))
    with pytest.raises(DataError, match=r"b \(no file in it\), d \(no image in it\), e .*--data.allow-empty-classes"):
        open_source(str(root), 16, cache=tmp_path / "cache")
    source = open_source(str(root), 16, allow_empty_classes=True, cache=tmp_path / "cache")
    assert (source.class_names, source.count) == (("a", "c"), 6)
    assert any("left out: b, d, e" in note for note in notes)
    chosen = open_source(str(root), 16, filters={"classes": ("a", "c")}, cache=tmp_path / "cache")
    assert chosen.count == 6, "nobody asked for b"
    assert open_source(str(root), 16, filters={"min_per_class": 1}, cache=tmp_path / "cache").count == 6
    code, out, _ = call(capsys, "data", "inspect", root, "--out", tmp_path / "sheet.png")
    assert (code, "without an image: b (no file in it)" in out) == (0, True)
    words = ("data", "prepare", root, tmp_path / "out", "--resolution", 16)
    assert call(capsys, *words)[0] == 2
    code, out, _ = call(capsys, *words, "--data.allow-empty-classes")
    assert (code, "images 6 of 2 classes" in out) == (0, True)


def test_one_class_beside_an_empty_one(tmp_path):
    write_pictures(tmp_path / "set", {"a": 2})
    (tmp_path / "set" / "b").mkdir()
    assert list_source(str(tmp_path / "set")).empty_classes == (("b", "no file in it"),)
    (tmp_path / "set" / "b").rmdir()
    (tmp_path / "set" / "annotations").mkdir()
    (tmp_path / "set" / "annotations" / "0.xml").touch()
    listing = list_source(str(tmp_path / "set"))
    assert (listing.class_names, listing.empty_classes) == (("a",), ())
    assert "1 folder without images (annotations (no image in it))" in listing.left_out


def test_folders_that_cannot_be_entered(tmp_path, monkeypatch):
    write_pictures(tmp_path / "set", {"a": 1, "b": 1})
    enter = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return enter(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_source(str(tmp_path / "set"))
    assert listing.empty_classes == (("b", "cannot be entered: Permission denied"),)
    assert "1 entry that cannot be read (b/ (Permission denied))" in listing.left_out
    with pytest.raises(DataError, match="cannot be listed"):
        list_source(str(tmp_path / "set" / "b"))


def test_links_that_go_around(tmp_path):
    write_pictures(tmp_path / "set", {"a": 1, "b": 1})
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "b" / "self").symlink_to(".")
    (tmp_path / "elsewhere" / "in").mkdir(parents=True)
    (tmp_path / "elsewhere" / "in" / "0.png").write_bytes(png())
    (tmp_path / "elsewhere" / "in" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere" / "in")
    listing = list_source(str(tmp_path / "set"))
    assert listing.images == ("a/0.png", "b/0.png", "c/0.png")
    assert "3 links to folders that contain them (a/up, b/self, c/back/in)" in listing.left_out


def test_folders_full_of_links_to_each_other_end(tmp_path, monkeypatch):
    names = "abcdefgh"
    for name in names:
        (tmp_path / name).mkdir()
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
    with pytest.raises(DataError, match="over and over"):
        list_source(str(tmp_path))


def test_more_files_than_a_listing_may_hold(tmp_path, monkeypatch):
    write_pictures(tmp_path, {"a": 6})
    monkeypatch.setattr(folders, "MAX_ENTRIES", 5)
    with pytest.raises(DataError, match="more than 5 files"):
        list_source(str(tmp_path))


@pytest.mark.slow
def test_deep_folders(tmp_path, monkeypatch):
    """Deeper than Python recurses, and at last longer than a path may be."""
    write_pictures(tmp_path, {"top": 1})
    monkeypatch.chdir(tmp_path)
    for _ in range(2100):
        os.mkdir("d")
        os.chdir("d")
    listing = list_source(str(tmp_path))
    for _ in range(2100):  # too deep for pytest to remove
        os.chdir("..")
        os.rmdir("d")
    assert listing.images == ("top/0.png",)
    assert any("File name too long" in line for line in listing.left_out)


def test_names_that_are_not_utf8(tmp_path, capsys):
    root = os.fsencode(tmp_path / "set")
    for folder in (b"caf\xe9", b"tea"):
        os.makedirs(root + b"/" + folder)
        with open(root + b"/" + folder + b"/n\xff.png", "wb") as file:
            file.write(png())
        with open(root + b"/" + folder + b"/x\xfe.txt", "wb") as file:
            file.write(b"text")
    source = open_source(str(tmp_path / "set"), 16, cache=tmp_path / "cache")
    assert source.class_names == ("caf\\xe9", "tea")
    assert source.images[:, 0].unique().tolist() == [77]
    code, out, _ = call(capsys, "data", "inspect", tmp_path / "set", "--out", tmp_path / "sheet.png")
    assert (code, "1 caf\\xe9" in out) == (0, True)
    words = ("data", "prepare", tmp_path / "set", tmp_path / "out", "--resolution", 16, "--classes", "caf\\xe9")
    assert call(capsys, *words)[0] == 0
    os.makedirs(root + b"/caf\\xe9")
    with open(root + b"/caf\\xe9/0.png", "wb") as file:
        file.write(png())
    with pytest.raises(DataError, match="undecodable bytes"):
        list_source(str(tmp_path / "set"))


def test_class_folders_that_only_look_different(tmp_path):
    for name in ("caf\u00e9", "cafe\u0301", "tea"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png())
    with pytest.raises(DataError, match=r"differ in the Unicode form"):
        list_source(str(tmp_path))


def test_the_sheet_of_an_inspection_does_not_become_one_of_the_images(tmp_path, capsys, monkeypatch):
    write_pictures(tmp_path, {"set": 3})
    monkeypatch.chdir(tmp_path / "set")
    for _ in range(2):
        code, out, _ = call(capsys, "data", "inspect", ".")
        assert (code, "images 3 of 1 class" in out) == (0, True)
    assert (tmp_path / "inspected.png").exists()
    code, _, err = call(capsys, "data", "inspect", ".", "--out", "sheet.png")
    assert (code, "would become a part of it" in err) == (2, True)


def test_a_name_cannot_begin_a_line(tmp_path, capsys):
    write_pictures(tmp_path / "set", {"cat\nbroken 0": 1, "dog": 1})
    code, out, _ = call(capsys, "data", "inspect", tmp_path / "set", "--out", tmp_path / "sheet.png")
    assert (code, "1 cat\\nbroken 0" in out, len([line for line in out.splitlines() if line == "broken 0"])) == (0, True, 1)


def test_class_names_in_any_script_where_output_is_ascii(tmp_path, monkeypatch):
    write_pictures(tmp_path / "set", {"é": 1, "猫": 1})
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "ascii"))
    with pytest.raises(SystemExit) as exit_:
        main(["data", "inspect", str(tmp_path / "set"), "--out", str(tmp_path / "sheet.png")])
    assert not exit_.value.code
    assert b"1 \\xe9\n" in output.getvalue()
    assert b"1 \\u732b\n" in output.getvalue()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "0 characters"),
        ("hf:", "names no data set"),
        ("hf::train", "names no data set"),
        ("zip:", "names no file"),
        ("folder:", "names no folder"),
        ("embedded:", "no such embedded set"),
        ("~nobody-of-this-name/x", "no such home folder"),
        ("folder:~nobody-of-this-name/x", "no such home folder"),
        ("zip:~nobody-of-this-name/x", "no such home folder"),
        ("packed:~nobody-of-this-name/x", "no such home folder"),
        ("x" * 5000, "5,000 characters"),
        ("folder:" + "x" * 5000, "characters"),
        ("x" * 1000, "no such file or folder"),
        ("folder:" + "x" * 1000, "cannot be listed"),
        ("zip:" + "x" * 1000, "File name too long"),
        ("a\0b", "NUL"),
        ("folder:a\0b", "NUL"),
        ("zip:a\0b", "NUL"),
        ("hf:a\0b", "NUL"),
        ("packed:a\0b", "NUL"),
        ("/dev/zero", "neither a folder nor a regular file"),
        ("zip:/dev/zero", "not a regular file"),
        ("folder:/dev/zero", "is not a folder"),
        ("zip:/tmp:x", "No such file"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source(spec, 16)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 3000


def test_a_socket_and_a_fifo_are_no_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("fifo", "socket"):
            with pytest.raises(DataError, match="neither a folder nor a regular file"):
                list_source(name)


def test_a_single_image_without_a_suffix(tmp_path):
    (tmp_path / "photo").write_bytes(png())
    assert list_source(str(tmp_path / "photo")).images == ("photo",)
