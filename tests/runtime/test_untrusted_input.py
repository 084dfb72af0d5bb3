import os
import socket
import struct
import threading
import tracemalloc
import zipfile

import pytest
import torch

from biggan.runtime.bounded_io import RefusedFile, check_zip_layout, open_regular_file, read_file, read_zip_entry
from biggan.runtime.errors import CheckpointError
from biggan.runtime.json_text import parse_json, read_json
from biggan.runtime.tensor_files import read_tensors
from biggan.runtime.text import markdown_text, printable, printable_lines


def test_only_regular_files_are_opened_and_no_writer_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket")
    errors = []

    def attempt(path):
        try:
            open_regular_file(path).close()
        except OSError as error:
            errors.append(error)

    for path in (tmp_path / "fifo", tmp_path / "link", tmp_path / "socket", "/dev/zero", tmp_path):
        thread = threading.Thread(target=attempt, args=(path,), daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), f"{path} blocks"
    assert len(errors) == 5
    assert sum(isinstance(error, RefusedFile) for error in errors) >= 4  # a socket is refused by the system itself


def test_reads_are_bounded(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(RefusedFile, match="larger than 4 bytes"):
        read_file(file, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"9" * 10_000, "digits"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1]", "not an object but list"),
        (b"null", "not an object but NoneType"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
    ],
)
def test_whatever_is_wrong_with_json_is_a_value_error_of_one_line(data, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(data)
    assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "file.json")


def test_json_of_the_right_type_is_returned():
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}
    assert parse_json(b"[1]", (dict, list)) == [1]


def test_what_could_steer_a_terminal_is_escaped_and_letters_stay():
    assert printable("a\x1b[31mb\rc\nd") == "a\\x1b[31mb\\rc\\nd"
    assert printable("a\u202eb\u2066\ud800\x9b") == "a\\u202eb\\u2066\\ud800\\x9b"
    assert printable("é日本\u200dकि") == "é日本\u200dकि"
    assert printable_lines("a\tb\nc\r\n") == "a\tb\nc\\r\n"
    assert markdown_text("a|b<c>_d_`\n[e](f)") == "a\\|b&lt;c&gt;\\_d\\_\\`\\\\n\\[e\\](f)"


def test_zip_entries_are_inflated_no_further_than_the_limit(tmp_path):
    """The header declares 10 bytes; 30 MB follow."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(30_000_000))
    data = (tmp_path / "bomb.zip").read_bytes().replace(struct.pack("<I", 30_000_000), struct.pack("<I", 10))
    (tmp_path / "lie.zip").write_bytes(data)
    for name, limit in (("bomb.zip", 1000), ("lie.zip", 1000)):
        tracemalloc.start()
        with zipfile.ZipFile(tmp_path / name) as archive, pytest.raises((RefusedFile, zipfile.BadZipFile)):
            read_zip_entry(archive, archive.infolist()[0], limit)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_zip_entries_that_share_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, bytes(1000))
        check_zip_layout(archive)
        archive.infolist()[1].header_offset = 10
        with pytest.raises(ValueError, match=r"'b\.png' overlaps another"):
            check_zip_layout(archive)


def test_compressed_tensor_files_are_not_unpacked(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pt")
    assert read_tensors(tmp_path / "plain.pt")["a"].shape == (1000,)
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for info in plain.infolist():
            small.writestr(info.filename, plain.read(info))
    with pytest.raises(CheckpointError, match="is a compressed zip file"):
        read_tensors(tmp_path / "small.pt")
    for suffix in (".pt", ".safetensors"):
        os.mkfifo(tmp_path / f"fifo{suffix}")
        with pytest.raises(CheckpointError, match="is not a regular file"):
            read_tensors(tmp_path / f"fifo{suffix}")
