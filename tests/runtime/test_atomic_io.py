"""Files appear under their final name whole or not at all; links are replaced and devices left alone."""

import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from biggan.analysis.run_plots import new_figure, save_figure, stack_sheets
from biggan.cli.classify import write_csv
from biggan.cli.common import save_image_grid
from biggan.cli.explore import write_video
from biggan.metrics.evaluate import Evaluation
from biggan.runtime.atomic_io import atomic_path, write_file, write_stream
from biggan.runtime.errors import ConfigError
from biggan.sampling.sample_folder import write_samples

NOISE = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def draw(file):
    figure = new_figure(4, 4)
    figure.subplots().plot(np.random.default_rng(0).normal(size=500))
    save_figure(figure, file, dpi=100)


def write_sheets(file):
    sheet = file.parent.parent / "sheet.png"
    if not sheet.exists():
        Image.fromarray(NOISE[0].permute(1, 2, 0).numpy()).resize((512, 512)).save(sheet)
    stack_sheets({"a": sheet}, file)


def write_by_path(file):
    with atomic_path(file) as scratch:
        scratch.write_bytes(b"x" * 30_000)


WRITERS = {
    "plain.bin": lambda file: write_file(file, b"x" * 30_000),
    "stream.bin": lambda file: write_stream(file, [b"x" * 3000] * 10),
    "path.bin": write_by_path,
    "figure.png": draw,
    "stacked.png": write_sheets,
    "scores.json": lambda file: Evaluation({"fid": {f"class_{i}": i / 3 for i in range(1000)}}, {}).save(file),
    "classes.csv": lambda file: write_csv(file, [(f"{i}.png", "class", 0.5) for i in range(2000)]),
    "sheet.png": lambda file: save_image_grid(NOISE, 2, file),
    "walk.gif": lambda file: write_video(NOISE[:, None], file),
    "walk.mp4": lambda file: write_video(NOISE[:, None].repeat(1, 4, 1, 1, 1), file),
}


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 KiB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_leaves_no_file_under_a_final_name(name, older, tmp_path, small_disk):
    if name.endswith(".mp4"):
        pytest.importorskip("imageio")
    file = tmp_path / "out" / name
    file.parent.mkdir()
    if older:
        file.write_bytes(b"before")
    with pytest.raises((OSError, ConfigError)):
        WRITERS[name](file)
    left = sorted(path.name for path in file.parent.iterdir())
    assert left == ([name] if older else [])
    assert not older or file.read_bytes() == b"before"
    small_disk()
    WRITERS[name](file)
    assert file.stat().st_size > 4096
    assert not [path.name for path in file.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("image_fits", [False, True])
def test_samples_on_a_full_disk_are_told_from_whole_ones(image_fits, tmp_path, small_disk):
    """No image is there that is not whole, and the folder says that it is not complete."""
    folder, images = tmp_path / "samples", [NOISE[:, :, :32, :32] if image_fits else NOISE]
    classes = torch.zeros(4, dtype=torch.int64), ("a",)
    with pytest.raises(OSError, match="File too large"):
        write_samples(images, *classes, folder)
    names = [f"{index:05d}-a.png" for index in range(4)] if image_fits else []
    assert sorted(path.name for path in folder.iterdir()) == [*names, "samples.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["samples"], "no grid"
    for name in names:
        with Image.open(folder / name) as image:
            image.load()
    with pytest.raises(ConfigError, match="samples of an interrupted command"):
        write_samples(images, *classes, folder)
    small_disk()
    write_samples(images, *classes, folder, overwrite=True)
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("name", ["plain.bin", "path.bin", "sheet.png", "walk.gif"])
@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_replaced_not_followed(name, dangling, tmp_path):
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_bytes(b"mine")
    folder = tmp_path / "out"
    folder.mkdir()
    for link in (name, f".{name}.writing", f".writing-{name}"):
        (folder / link).symlink_to(outside)
    WRITERS[name](folder / name)
    assert not (folder / name).is_symlink()
    assert (folder / name).stat().st_size > 1000
    assert outside.read_bytes() == b"mine" if not dangling else not outside.exists()


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("fifo", "link", "null"):
        for write in (WRITERS["plain.bin"], WRITERS["path.bin"]):
            with pytest.raises(OSError, match="not a regular file"):
                write(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_leaves_the_target_as_it_was(error, tmp_path):
    (tmp_path / "file.txt").write_text("before")

    def write_half():
        with atomic_path(tmp_path / "file.txt") as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "before"


def test_the_scratch_file_has_the_suffix_by_which_libraries_know_the_format(tmp_path):
    with atomic_path(tmp_path / "a.b.png") as scratch:
        assert (scratch.suffix, scratch.parent) == (".png", tmp_path)
        scratch.touch()
    assert Path(tmp_path / "a.b.png").exists()


def test_file_names_that_are_no_text_are_kept_in_csv(tmp_path):
    write_csv(tmp_path / "out.csv", [("a\udcff.png", 'käse, "alt"', 0.25)])
    assert (tmp_path / "out.csv").read_bytes() == b'image,class,probability\r\na' + b"\xff" + (
        '.png,"käse, ""alt""",0.250000\r\n'.encode()
    )  # fmt: skip
