"""Variables of the environment that make no sense, and systems that lack something."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_pictures

from biggan.checkpoints.model_dir import ModelDir
from biggan.data.dataset import open_source
from biggan.runtime import atomic_io, memory
from biggan.runtime.atomic_io import default_cache, sync_folder, write_file
from biggan.runtime.environment import environment_world, local_world_size
from biggan.runtime.errors import ConfigError, remedy_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE=0 .* must be a number from 1"),
        ({"WORLD_SIZE": "-2"}, r"WORLD_SIZE=-2 .* must be"),
        ({"WORLD_SIZE": ""}, r"WORLD_SIZE= .* must be"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE=two .* must be"),
        ({"WORLD_SIZE": "²"}, r"WORLD_SIZE=² .* must be"),
        ({"WORLD_SIZE": "9" * 5000}, r"WORLD_SIZE=9{40} in"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set but RANK is not"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK=2 must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "9"}, "LOCAL_RANK=9 must be below"),
    ],
)
def test_ranks_that_make_no_sense(variables, message, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as error:
        environment_world()
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_a_bad_local_world_size_is_an_error_and_deletes_no_cache(value, tmp_path, monkeypatch):
    write_pictures(tmp_path / "set", {"a": 2, "b": 2})
    first = open_source(str(tmp_path / "set"), 16, cache=tmp_path / "cache")
    before = sorted((tmp_path / "cache").rglob("*"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    with pytest.raises(ConfigError, match=f"LOCAL_WORLD_SIZE={value} in the environment"):
        open_source(str(tmp_path / "set"), 16, cache=tmp_path / "cache")
    assert sorted((tmp_path / "cache").rglob("*")) == before
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    assert local_world_size() == 1
    assert open_source(str(tmp_path / "set"), 16, cache=tmp_path / "cache").content_hash == first.content_hash


def no_user():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BIGGAN_CACHE": "/some/where"}, "/some/where"),
        ({"BIGGAN_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/biggan"),
        ({"BIGGAN_CACHE": "", "XDG_CACHE_HOME": "relative", "HOME": "HOME"}, "HOME/.cache/biggan"),
        ({"BIGGAN_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "HOME"}, "HOME/.cache/biggan"),
        ({"BIGGAN_CACHE": "~/own", "HOME": "HOME"}, "HOME/own"),
        ({"BIGGAN_CACHE": "relative"}, "relative"),
    ],
)
def test_where_the_cache_is(variables, expected, tmp_path, monkeypatch):
    for name in ("BIGGAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    assert default_cache() == Path(expected.replace("HOME", str(tmp_path)))


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user without a home folder; the folder for temporary files."""
    atomic_io.temporary_cache.cache_clear()
    for name in ("BIGGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_user)
    monkeypatch.setattr(atomic_io.tempfile, "gettempdir", lambda: str(tmp_path))
    yield tmp_path
    atomic_io.temporary_cache.cache_clear()


def test_without_a_home_the_cache_is_a_folder_of_this_user_alone(homeless, notes):
    cache = default_cache()
    assert cache.parent == homeless
    assert cache.stat().st_mode & 0o077 == 0
    assert "set BIGGAN_CACHE to keep it" in notes[0]


def test_a_temporary_cache_that_others_can_write_is_not_used(homeless):
    cache = homeless / f"biggan-cache-{os.getuid()}"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    with pytest.raises(ConfigError, match="somebody else's: set BIGGAN_CACHE"):
        default_cache()


def test_a_link_in_place_of_the_temporary_cache_is_not_followed(homeless, tmp_path_factory):
    (homeless / f"biggan-cache-{os.getuid()}").symlink_to(tmp_path_factory.mktemp("other"))
    with pytest.raises(ConfigError, match="set BIGGAN_CACHE"):
        default_cache()


NO_USER = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""

NO_FOLDER_SYNC = """
import errno, os, stat
real = os.fsync
def fsync(descriptor):
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    if stat.S_ISDIR(os.fstat(number).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    return real(descriptor)
os.fsync = fsync
"""

LIKE_WINDOWS = """
import os, signal
del signal.SIGUSR1, signal.SIGHUP, os.sysconf
real = os.open
def open(path, flags, *others, **named):
    if not isinstance(path, int) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real(path, flags, *others, **named)
os.open = open
"""


@pytest.mark.parametrize(
    ("patch", "without"),
    [(NO_USER, ("HOME", "BIGGAN_CACHE")), (NO_FOLDER_SYNC, ()), (LIKE_WINDOWS, ())],
    ids=["no home", "no sync", "like Windows"],
)
def test_a_run_on_a_system_that_lacks_something(patch, without, tmp_path):
    """Containers of a user with a number alone; CIFS and shared folders, which sync no folders; Windows."""
    (tmp_path / "sitecustomize.py").write_text(patch)
    words = "train digits --train.steps 2 --train.batch 4 --train.discriminator-steps 1 --model.width 2 --train.device cpu"
    run = ["--run", str(tmp_path / "run"), "--train.checkpoint-every", "1", "--train.standing-stats-batches", "1"]
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}", "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "biggan", *words.split(), *run]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ModelDir(tmp_path / "run").load("generator")


def test_only_what_a_file_system_cannot_do_is_tolerated(tmp_path, monkeypatch):
    def failing(number):
        def fsync(descriptor):
            raise OSError(number, os.strerror(number))

        return fsync

    for number in (errno.EINVAL, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", failing(number))
        sync_folder(tmp_path)
        write_file(tmp_path / "file", b"x")
    for number in (errno.EIO, errno.ENOSPC):
        monkeypatch.setattr(os, "fsync", failing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            write_file(tmp_path / "other", b"x")
        assert not (tmp_path / "other").exists()


def test_the_remedy_is_that_of_the_error():
    remedies = {number: remedy_for(OSError(number, os.strerror(number))) for number in errno.errorcode}
    assert [errno.errorcode[number] for number, text in remedies.items() if "free some space" in text] == [
        "ENOSPC",
        "EDQUOT",
    ]
    assert remedies[errno.EROFS] == "that file system is read-only: name another folder"
    assert all("{" not in text for text in remedies.values())


def test_where_the_system_does_not_tell_its_memory(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "none",))
    assert memory.total_memory() is None
    write_pictures(tmp_path / "set", {"a": 2})
    for _ in range(2):
        assert open_source(str(tmp_path / "set"), 16, cache=tmp_path / "cache").count == 2


def test_a_container_has_the_memory_it_is_given(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("123456789\n")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max",))
    assert memory.total_memory() == 123456789
    for text in ("max\n", "", "-1", "0"):
        (tmp_path / "memory.max").write_text(text)
        assert memory.total_memory() > 123456789
