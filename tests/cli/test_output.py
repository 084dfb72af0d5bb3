"""Where output cannot be written: no traceback, and the work is done all the same."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import call, write_pictures

from biggan.cli.classify import write_csv
from biggan.cli.output import TolerantStream, say, tolerant_output

SOURCE = Path(__file__).resolve().parents[2] / "src"


def shell(command, folder, **environment):
    """Exit code, standard output and standard error of a shell command in which $BIGGAN is the program."""
    words = f"{sys.executable} -m biggan"
    variables = os.environ | {"PYTHONPATH": str(SOURCE), "BIGGAN": words, "OMP_NUM_THREADS": "1"} | environment
    found = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env=variables, capture_output=True)
    return found.returncode, found.stdout.decode(errors="replace"), found.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "set", {"cat": 3, "h\u00e9ron \u732b": 3, "\x1b]0;title\x07\u202e": 2})
    return folder


@pytest.mark.parametrize(
    ("command", "code", "err_lines"),
    [
        ("$BIGGAN data inspect set | head -1", 0, 0),
        ("$BIGGAN --help | head -1", 0, 0),
        ("$BIGGAN data inspect set > /dev/full", 2, 1),
        ("$BIGGAN sample --help > /dev/full", 2, 1),
        ("$BIGGAN --help > /dev/full", 2, 1),
        ("$BIGGAN --help >&-", 0, 0),
        ("$BIGGAN data inspect set >&- 2>&- <&-", 0, 0),
        ("$BIGGAN absent 2>&-", 2, 0),
        ("$BIGGAN absent 2> /dev/full", 2, 0),
        ("$BIGGAN absent > /dev/full", 2, 1),
    ],
)
def test_streams_that_fail(pictures, command, code, err_lines):
    found, _, err = shell(command, pictures)
    assert (found, len(err.splitlines())) == (code, err_lines), err
    if err:
        assert err.startswith("biggan: ")


def test_a_file_is_not_taken_for_a_closed_standard_output(pictures):
    """The first file that is opened would have descriptor 1."""
    assert shell("$BIGGAN data inspect set --out sheet.png >&-", pictures)[0] == 0
    assert (pictures / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_names_on_an_ascii_terminal(pictures):
    code, out, err = shell("$BIGGAN data inspect set", pictures, PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "")
    assert "h\\xe9ron \\u732b" in out
    assert "\\x1b]0;title\\x07\\u202e" in out
    code, out, err = shell("$BIGGAN 'h\u00e9ron'; $BIGGAN mix --help", pictures, PYTHONIOENCODING="ascii")
    assert (code, len(err.splitlines()), "h\\xe9ron" in err, "--truncation" in out) == (0, 1, True, True)


def test_names_that_are_no_text_in_this_locale(pictures):
    """File names are then bytes to Python; they are read as UTF-8 all the same."""
    code, out, err = shell("$BIGGAN data inspect set", pictures, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, err) == (0, "")
    assert "h\\xe9ron \\u732b" in out
    assert out.isascii()


def test_control_characters_are_escaped(capsys, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    _, out, _ = call(capsys, "data", "inspect", "set")
    assert "h\u00e9ron \u732b" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_help_on_a_terminal_of_one_column(pictures):
    code, out, _ = shell("timeout 60 $BIGGAN sample --help", pictures, COLUMNS="1")
    assert (code, "--truncation" in out) == (0, True)


def test_work_goes_on_after_a_failed_line(capsys, monkeypatch):
    done = []
    monkeypatch.setattr(sys, "stdout", Failing())

    @tolerant_output()
    def command(code):
        say("lost")
        done.append(True)
        sys.exit(code)

    for code in (0, None):
        with pytest.raises(SystemExit) as exit_:
            command(code)
        assert (exit_.value.code, done.pop()) == (2, True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        command(130)
    assert exit_.value.code == 130, "another ending stays"
    assert capsys.readouterr().err == ""


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with tolerant_output():
        assert isinstance(sys.stdout, TolerantStream)
        say("text")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "text\n"


def test_csv_holds_any_file_name(tmp_path):
    names = ["\u00e9.png", "undecodable\udcff.png", 'quote",\n.png', "cat"]
    write_csv(tmp_path / "below" / "all.csv", [(name, "\u732b", 0.5) for name in names])
    data = (tmp_path / "below" / "all.csv").read_bytes()
    rows = list(csv.reader(io.StringIO(data.decode(errors="surrogateescape"), newline="")))
    assert rows == [["image", "class", "probability"], *([name, "\u732b", "0.500000"] for name in names)]
    write_csv(tmp_path / "other.csv", [("a", "\ud800", 1.0)])  # in no encoding
    assert (tmp_path / "other.csv").read_text().splitlines()[1] == "a,\\ud800,1.000000"
