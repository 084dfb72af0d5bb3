"""Listings of folders and zips, and the way an image becomes a square."""

import io
import zipfile

import numpy as np
import pytest
from conftest import write_pictures
from PIL import Image
from sklearn.datasets import load_digits

from biggan.data import archives
from biggan.data.dataset import open_source
from biggan.data.image_decoding import decode
from biggan.data.image_names import IMAGE_SUFFIXES
from biggan.data.sources import list_source
from biggan.runtime.bounded_io import RefusedFile
from biggan.runtime.errors import DataError


def zip_of(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_class_folders_and_the_same_in_a_zip(tmp_path):
    write_pictures(tmp_path / "set", {"cat": 2, "ant": 1})
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    (tmp_path / "set" / ".hidden.png").write_bytes(b"not an image")
    for spec in (f"folder:{tmp_path / 'set'}", str(tmp_path / "set"), f"zip:{zip_of(tmp_path / 'set', tmp_path / 's.zip')}"):
        listing = list_source(spec)
        assert listing.class_names == ("ant", "cat")
        assert listing.images == ("ant/0.png", "cat/0.png", "cat/1.png")
        assert listing.labels == (0, 1, 1)
        assert Image.open(io.BytesIO(listing.read("cat/1.png"))).size == (40, 32)


def test_a_flat_folder_is_one_class(tmp_path):
    write_pictures(tmp_path, {"dogs": 3})
    assert list_source(str(tmp_path / "dogs")).class_names == ("dogs",)


def test_common_outer_folders_are_not_classes(tmp_path):
    write_pictures(tmp_path / "a" / "b", {"cat": 1, "dog": 1})
    assert list_source(str(tmp_path)).class_names == ("cat", "dog")


def test_classes_may_hold_folders(tmp_path):
    write_pictures(tmp_path / "cat", {"x": 1, "y": 1})
    write_pictures(tmp_path, {"dog": 1})
    assert list_source(str(tmp_path)).labels == (0, 0, 1)


def test_what_cannot_be_a_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "mixed", {"": 1, "cat": 1})
    write_pictures(tmp_path / "splits", {"train": 1, "val": 1})
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    for spec, message in {
        str(tmp_path / "empty"): "holds no image",
        str(tmp_path / "mixed"): "beside class folders",
        str(tmp_path / "splits"): "look like splits",
        f"zip:{tmp_path / 'broken.zip'}": "cannot be read as a zip",
        f"zip:{tmp_path / 'absent.zip'}": "is not a file that can be read",
        f"folder:{tmp_path / 'absent'}": "is not a folder",
        "nonsense": "no such file or folder",
        "embedded:digit": "did you mean 'digits'",
    }.items():
        with pytest.raises(DataError, match=message):
            list_source(spec)


def test_embedded_digits_are_the_real_ones():
    listing = list_source("embedded:digits")
    assert len(listing.images) == 1797
    assert listing.class_names == tuple("0123456789")
    theirs = load_digits()
    for index in (0, 1, 1796):
        (name,) = (image for image in listing.images if image.endswith(f"/{index:04d}.png"))
        assert name.startswith(f"{theirs.target[index]}/")
        ours = np.asarray(Image.open(io.BytesIO(listing.read(name))))
        assert np.array_equal(ours, (theirs.images[index] * 255 / 16).round())


def picture(pixels, mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def test_crop_is_central_and_shrinking_averages_areas():
    pixels = np.arange(4 * 8 * 3).reshape(4, 8, 3) * 2
    image, size = decode(picture(pixels), 2)
    assert size == (8, 4)
    square = np.asarray(image).astype(float)
    central = pixels[:, 2:6]
    expected = central.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(square - expected).max() <= 0.5


def test_grey_becomes_rgb():
    square = np.asarray(decode(picture(np.full((32, 32, 3), 77), "L"), 32)[0])
    assert square.shape == (32, 32, 3)
    assert (square == 77).all()


def test_16_bit_grey_is_scaled():
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 77 * 256, dtype=np.uint16)).save(buffer, "PNG")
    assert (np.asarray(decode(buffer.getvalue(), 32)[0]) == 77).all()


def test_a_cameras_orientation_is_obeyed():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # turned upside down
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    square = np.asarray(decode(buffer.getvalue(), 32)[0])
    assert (square[16:] == 255).all()
    assert (square[:16] == 0).all()


def test_links_to_class_folders_are_followed(tmp_path):
    write_pictures(tmp_path / "elsewhere", {"cat": 2})
    write_pictures(tmp_path / "set", {"dog": 1})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert list_source(str(tmp_path / "set")).images == ("cat/0.png", "cat/1.png", "dog/0.png")


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_format_that_has_a_suffix_is_read(suffix):
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 77).save(buffer, Image.registered_extensions()[suffix])
    assert np.abs(np.asarray(decode(buffer.getvalue(), 16)[0]).astype(int) - 77).max() <= 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    """A PNG that claims a size: its head is enough to refuse it."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 8_000, 8, 2, 0, 0, 0))
    with pytest.raises(ValueError, match="20000x8000 pixels are more than 100,000,000"):
        decode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""), 32)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(2_000_000))
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1_000_000)
    listing = list_source(f"zip:{tmp_path / 'bomb.zip'}")
    with pytest.raises(RefusedFile, match="2,000,000 bytes unpacked"):
        listing.read(listing.images[0])


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A folder as the `datasets` library reads it: five red, blue and red pictures of two of three classes."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "fetched"))
    pictures = [Image.new("RGB", (20, 16), color) for color in ("red", "blue", "red", "blue", "red")]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "none", "ape"])})
    made = datasets.Dataset.from_dict({"img": pictures, "label": [0, 2, 0, 2, 0]}, features=features)
    (tmp_path / "table").mkdir()
    made.to_parquet(str(tmp_path / "table" / "test-00000-of-00001.parquet"))
    made.remove_columns("img").to_parquet(str(tmp_path / "table" / "train-00000-of-00001.parquet"))
    return tmp_path / "table"


def test_hugging_face_data_sets(table, tmp_path):
    (table / "train-00000-of-00001.parquet").unlink()
    source = open_source(f"hf:{table}:test", 16, cache=tmp_path / "cache")
    assert (source.class_names, source.sizes) == (("ape", "zebra"), ((20, 16), (20, 16)))
    assert source.labels.tolist() == [1, 0, 1, 0, 1]
    assert source.images[:, 0, 0, 0].tolist() == [255, 0, 255, 0, 255]
    assert open_source(f"hf:{table}:test", 16, cache=tmp_path / "cache").from_cache
    with pytest.raises(DataError, match=r"hf:.* cannot be read .*split .train"):
        list_source(f"hf:{table}")


def test_tables_cannot_name_other_files_of_this_machine(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "fetched"))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    (tmp_path / "table").mkdir()
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "table" / "own.png")
    features = datasets.Features({"img": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    for path, allowed in ((tmp_path / "table" / "own.png", True), (tmp_path / "secret.png", False)):
        cells = {"img": [{"bytes": None, "path": str(path)}]}
        datasets.Dataset.from_dict(cells, features=features).to_parquet(str(tmp_path / "table" / "train.parquet"))
        if allowed:
            listing = list_source(f"hf:{tmp_path / 'table'}")
            assert listing.read("0") == path.read_bytes()
            Image.new("RGB", (9, 9), "blue").save(path)
            assert list_source(f"hf:{tmp_path / 'table'}").stamp != listing.stamp, "the file has changed"
        else:
            with pytest.raises(DataError, match=r"names the file .*secret\.png, not in that folder"):
                list_source(f"hf:{tmp_path / 'table'}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/table/*.parquet\n---\n"
    )
    with pytest.raises(DataError, match=r"names the file .*train\.parquet, not in that folder"):
        list_source(f"hf:{tmp_path / 'other'}")


def test_hugging_face_data_sets_without_images(table):
    (table / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"needs one Image column; it has label \(ClassLabel\)"):
        list_source(f"hf:{table}")
    with pytest.raises(DataError, match=r"hf:.*absent cannot be read"):
        list_source(f"hf:{table / 'absent'}")
