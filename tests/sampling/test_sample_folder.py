"""A folder of samples holds the samples and nothing else that is an image, and no file of others is touched."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from biggan.data.sources import list_source
from biggan.runtime.errors import ConfigError
from biggan.sampling.sample_folder import default_grid, sample_names, write_samples
from biggan.sampling.sampler import Samples

NAMES = ("ant", "bee/b", "walrus")


def images(count: int, value: int = 7) -> torch.Tensor:
    """uint8 (count, 3, 4, 4) of one value."""
    return torch.full((count, 3, 4, 4), value, dtype=torch.uint8)


def write(folder, count=5, value=7, **options):
    """Samples of the three classes in turn."""
    return write_samples([images(count, value)], torch.arange(count) % 3, NAMES, folder, **options)


def test_what_the_folder_holds(tmp_path):
    grid = write(tmp_path / "out", recipe={"seed": 3, "truncation": 0.5, "classes": ["ant"]})
    assert grid == tmp_path / "out-grid.png"
    listing = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert {name: listing[name] for name in ("complete", "count", "seed", "truncation", "classes")} == {
        "complete": True,
        "count": 5,
        "seed": 3,
        "truncation": 0.5,
        "classes": ["ant"],
    }
    assert listing["files"] == ["00000-ant.png", "00001-bee_b.png", "00002-walrus.png", "00003-ant.png", "00004-bee_b.png"]
    assert list_source(str(tmp_path / "out")).images == tuple(listing["files"])
    with Image.open(grid) as picture:
        assert picture.size == (3 * 5 + 1, 2 * 5 + 1)


def test_a_second_set_never_mixes_with_the_first(tmp_path):
    write(tmp_path / "out", 30)
    before = sorted(os.listdir(tmp_path / "out"))
    with pytest.raises(ConfigError, match="holds samples: --overwrite"):
        write(tmp_path / "out", 10)
    assert sorted(os.listdir(tmp_path / "out")) == before
    write(tmp_path / "out", 10, value=9, overwrite=True)
    assert len(list_source(str(tmp_path / "out")).images) == 10
    with Image.open(tmp_path / "out" / "00000-ant.png") as picture:
        assert (np.asarray(picture) == 9).all()
    with Image.open(tmp_path / "out-grid.png") as picture:
        assert picture.size == (4 * 5 + 1, 3 * 5 + 1)


def test_files_of_others_are_kept(tmp_path):
    out = tmp_path / "out"
    write(out)
    (out / "notes.txt").write_text("mine")
    write(out, 2, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list_source(str(out)).images) == 2
    for name in ("photo.jpg", "00009-cat.png"):  # as a sample is called, but not listed
        (out / name).write_bytes(b"mine")
        with pytest.raises(ConfigError, match=f"other things than samples \\({name}\\)"):
            write(out, 2, overwrite=True)
        assert (out / name).read_bytes() == b"mine"
        (out / name).unlink()
    (out / "class").mkdir()
    with pytest.raises(ConfigError, match="other things than samples"):
        write(out, overwrite=True)


def test_a_listing_cannot_name_other_files(tmp_path):
    (tmp_path / "victim.png").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    files = ["../victim.png", "notes.txt", 3, "00000-../../victim.png", None]
    (tmp_path / "out" / "samples.json").write_text(json.dumps({"complete": True, "files": files}))
    write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "victim.png").read_bytes() == (tmp_path / "out" / "notes.txt").read_bytes() == b"mine"


def test_links_are_not_written_through(tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"mine")
    out.mkdir()
    (out / "00000-ant.png").symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="other things than samples"):
            write(out, overwrite=overwrite)
    (out / "00000-ant.png").unlink()
    write(out)
    (out / "00001-bee_b.png").unlink()
    (out / "00001-bee_b.png").symlink_to(victim)  # under a listed name
    with pytest.raises(ConfigError, match="other things than samples"):
        write(out, overwrite=True)
    (out / "00001-bee_b.png").unlink()
    for name in ("samples.json", "../out-grid.png"):
        (out / name).unlink()
        (out / name).symlink_to(victim)
        with pytest.raises(ConfigError):
            write(out, overwrite=True)
        (out / name).unlink()
        (out / "samples.json").write_text(json.dumps({"files": sample_names(torch.arange(5) % 3, NAMES)}))
    assert victim.read_bytes() == b"mine"


def test_an_interrupted_sampling_is_recognized(tmp_path):
    def interrupted():
        yield images(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(interrupted(), torch.arange(6) % 3, NAMES, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["complete"] is False
    with pytest.raises(ConfigError, match="interrupted"):
        write(tmp_path / "out")
    write(tmp_path / "out", 1, overwrite=True)
    assert len(list_source(str(tmp_path / "out")).images) == 1
    with pytest.raises(KeyboardInterrupt):  # while another set is replaced
        write_samples(interrupted(), torch.arange(6) % 3, NAMES, tmp_path / "out", overwrite=True)
    write(tmp_path / "out", 1, overwrite=True)
    assert len(list_source(str(tmp_path / "out")).images) == 1


def test_where_the_grid_goes(tmp_path):
    assert write(tmp_path / "a", grid=tmp_path / "sheets" / "a.png") == tmp_path / "sheets" / "a.png"
    assert not (tmp_path / "a-grid.png").exists()
    for grid, message in ((tmp_path / "b" / "grid.png", "among the samples"), (tmp_path / "b.jpg", ".png file")):
        with pytest.raises(ConfigError, match=message):
            write(tmp_path / "b", grid=grid)
    (tmp_path / "b-grid.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="something else"):
        write(tmp_path / "b")
    assert (tmp_path / "b-grid.png").read_bytes() == b"mine"
    assert not (tmp_path / "b").exists()
    write(tmp_path / "c")
    for file in (tmp_path / "c").iterdir():
        file.unlink()
    (tmp_path / "c").rmdir()
    write(tmp_path / "c")  # the grid that was left is one, and replaced
    assert default_grid(tmp_path / "x" / "..") == tmp_path.parent / f"{tmp_path.name}-grid.png"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is a file"):
        write(tmp_path / "file")


def test_samples_without_classes(tmp_path):
    Samples(images(3), torch.zeros(3, dtype=torch.int64), ()).save(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["00000.png", "00001.png", "00002.png", "samples.json"]


def test_long_class_names(tmp_path):
    long = "\u732b" * 300  # 900 bytes of UTF-8
    write_samples([images(1)], torch.zeros(1, dtype=torch.int64), [long], tmp_path / "out")
    assert list_source(str(tmp_path / "out")).images == (f"00000-{long[:50]}.png",)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "generator.safetensors"])
def test_the_folder_of_a_model_or_a_set_is_no_place_for_samples(name, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"holds other things than samples \\({name}\\)"):
        write(tmp_path / "out")
