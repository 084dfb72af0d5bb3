"""Small inputs like those that users reported to programs of this kind (tests/field), each with what is right for it.

Cases that are no files (systems without a home folder or folder sync, Windows) are in runtime/test_environment.py, and
runs that began from a folder that was moved in training/test_interruptions.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from PIL import Image

from biggan.data.dataset import open_source
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError

FIELD = Path(__file__).resolve().parent / "field"


@pytest.fixture
def field(tmp_path, monkeypatch):
    """A copy of the cases, which is the current folder."""
    shutil.copytree(FIELD, tmp_path / "field")
    monkeypatch.chdir(tmp_path / "field")


def counts(source):
    listing = list_source(source)
    return {name: listing.labels.count(index) for index, name in enumerate(listing.class_names)}


def test_a_zip_with_backslashes(field):
    """Entries named photos\\\\cat\\\\0.png, as PowerShell 5 writes them."""
    assert counts("backslash_zip/photos.zip") == {"cat": 6, "dog": 6}


def test_damaged_metadata_costs_no_image(field):
    source, names = open_source("bad_exif/set", 40), list_source("bad_exif/set").images
    assert (source.count, source.broken) == (12, 0)
    for name, image in zip(names, source.images, strict=True):
        if name in ("cat/png_big_text.png", "cat/png_raw_profile.png"):  # Pillow does not open these
            continue
        with Image.open(Path("bad_exif/set") / name) as file:
            file._exif, pixels = None, np.asarray(Image.frombytes("RGB", file.size, file.convert("RGB").tobytes()))
        turned = np.rot90(pixels, 3) if name == "cat/orient_ok_badtag.jpg" else pixels
        assert np.array_equal(image.permute(1, 2, 0).numpy(), turned), name


def test_a_broken_link_is_named(field, notes):
    Path("broken_link/set/cat/4.png").symlink_to("../../annex/objects/4.png")
    assert open_source("broken_link/set", 16).count == 4
    assert "data: left out: 1 broken link (cat/4.png)" in notes


def test_an_empty_class_stops_the_run_unless_allowed(field, capsys):
    Path("empty_class/set/b").mkdir(exist_ok=True)
    code, out, _ = call(capsys, "data", "inspect", "empty_class/set")
    assert (code, "without an image: b" in out) == (0, True)
    words = ["train", "cifar10", "--dry-run", "--data", "empty_class/set"]
    code, _, err = call(capsys, *words)
    assert (code, "--data.allow-empty-classes" in err.splitlines()[-1]) == (2, True), err
    code, out, _ = call(capsys, *words, "--data.allow-empty-classes")
    assert (code, '"num_classes": 2' in out) == (0, True)


def test_formats(field, capsys):
    code, out, _ = call(capsys, "data", "inspect", "formats/set")
    assert (code, "images 11 of 1 class" in out, "broken 3" in out) == (0, True, True)
    for name in ("cut.jpg", "html.jpg", "zero.png"):
        assert f"  a/{name}: " in out
    with pytest.raises(DataError, match=r"image a/cut\.jpg .*--skip-broken"):
        open_source("formats/set", 16)
    source = open_source("formats/set", 16, skip_broken=True)
    assert (source.count, source.broken, source.sizes) == (11, 3, ((1, 1), (2000, 3)))


@pytest.mark.parametrize(("part", "names"), [("int", ("0", "1", "2")), ("str", ("cat", "dog", "eel"))])
def test_labels_of_hugging_face_that_are_plain_values(field, part, names):
    pytest.importorskip("datasets")
    source = open_source(f"hf:hf_int_labels/{part}", 32)
    assert source.class_names == names
    assert source.labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize(
    ("case", "parts", "chosen", "classes"),
    [
        ("catsdogs", "test_set, training_set", "training_set", {"cats": 3, "dogs": 3}),
        ("intel", "seg_pred, seg_test, seg_train", "seg_train", {"forest": 3, "sea": 3}),
        ("stl", "test, train, unlabeled", "train", {"bird": 3, "car": 3}),
        ("masks", "images, masks", "images", {"all": 3}),
    ],
)
def test_splits_are_asked_about_not_taken_for_classes(field, case, parts, chosen, classes):
    with pytest.raises(
        DataError, match=f"{parts} look like splits .*such as folder:split_names/{case}/{chosen}; .*--data.labels"
    ):
        list_source(f"split_names/{case}")
    assert list(counts(f"split_names/{case}/{chosen}").values()) == list(classes.values())
    if len(classes) > 1:
        assert counts(f"split_names/{case}/{chosen}") == classes
    assert set(list_source(f"split_names/{case}", "folders").class_names) == set(parts.split(", "))


def test_labels_of_stylegan(field):
    """The folders of such a zip are buckets of images, no classes."""
    source = open_source("stylegan_zip/mine.zip", 32)
    assert source.class_names == ("0", "1", "2")
    assert source.labels.tolist() == [index % 3 for index in range(40)]


@pytest.mark.parametrize(
    ("background", "ground"), [(None, [255, 255, 255]), ("black", [0, 0, 0]), ("#0a141e", [10, 20, 30])]
)
def test_transparency_is_composed_on_the_background(field, background, ground):
    """Sprites with hidden noise, gray with alpha, and a palette with a transparent color."""
    options = {} if background is None else {"background": background}
    names, source = list_source("transparent_png/set").images, open_source("transparent_png/set", 32, **options)
    images = dict(zip(names, source.images, strict=True))
    for name, image in images.items():
        assert image[:, 0, 0].tolist() == ground, name
    for name in ("palette", "rgba_black", "rgba_hidden"):
        assert images[f"sprite/{name}.png"][:, 16, 16].tolist() == [255, 0, 0]
    assert images["sprite/la_black_ink.png"][:, 16, 16].tolist() == [0, 0, 0]


def test_odd_zips(field):
    assert counts("zip_odd/dirs.zip") == {"dog": 4, "logo.png": 4}
    with pytest.raises(DataError, match=r"holds 1 name twice with different content \(cat/0\.jpg\)"):
        list_source("zip_odd/twice.zip")


def test_a_second_sampling_does_not_mix_with_the_first(capsys, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "samples"
    words = "--train.steps 2 --train.batch 4 --train.discriminator-steps 1 --model.width 2 --train.device cpu"
    assert call(capsys, "train", "digits", "--run", run, "--train.standing-stats-batches", 1, *words.split())[0] == 0
    assert call(capsys, "sample", run, "--n", 30, "--out", folder)[0] == 0
    second = ["sample", run, "--n", 10, "--truncation", 0.5, "--out", folder]
    code, _, err = call(capsys, *second)
    assert (code, len(err.splitlines()), "--overwrite" in err) == (2, 1, True), err
    assert call(capsys, *second, "--overwrite")[0] == 0
    code, out, _ = call(capsys, "data", "inspect", folder, "--out", tmp_path / "sheet.png")
    assert (code, "images 10 of 1 class" in out) == (0, True), out
    assert (tmp_path / "samples-grid.png").exists()


def test_names_on_an_ascii_terminal(tmp_path):
    (tmp_path / "set" / "é").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "é" / "猫.png")
    words = [sys.executable, "-m", "biggan", "data", "inspect", "set"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path)
    assert (done.returncode, b"1 \\xe9" in done.stdout, done.stderr) == (0, True, b"")
