import os
import socket
import threading

import pytest

from biggan.runtime.bounded_io import RefusedFile, open_regular_file, read_file
from biggan.runtime.json_text import parse_json, read_json
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
