"""Classes from label files and tables, and what is asked where several readings are possible."""

import io
import json
import zipfile

import pytest
from conftest import call
from PIL import Image
from test_listing import png

from biggan.data.dataset import DataConfig, count_images_and_classes, open_source
from biggan.data.prepare import filter_listing
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError


def stylegan_files(labels):
    """Forty images in four buckets, as StyleGAN's dataset tool writes them: name -> bytes."""
    names = [f"{number // 10:05d}/img{number:08d}.png" for number in range(40)]
    files = {name: png(number) for number, name in enumerate(names)}
    pairs = None if labels is None else [[name, labels(number)] for number, name in enumerate(names)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def write(where, files):
    """The files in a folder, or in an archive if the name ends in .zip."""
    if where.suffix == ".zip":
        with zipfile.ZipFile(where, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(data)
    return str(where)


@pytest.fixture(params=["set", "set.zip", "outer/mine"])
def where(request, tmp_path):
    return tmp_path / request.param


def test_stylegan_labels_are_the_classes(where, capsys, tmp_path, notes):
    spec = write(where, stylegan_files(lambda number: number % 3))
    listing = list_source(spec)
    assert (listing.class_names, listing.origin) == (("0", "1", "2"), "dataset.json")
    assert listing.labels == tuple(number % 3 for number in range(40))
    assert (listing.left_out, listing.empty_classes) == ((), ())
    code, out, _ = call(capsys, "data", "inspect", spec, "--out", tmp_path / "sheet.png")
    assert (code, "images 40 of 3 classes" in out, "classes from dataset.json" in out) == (0, True, True)
    assert open_source(spec, 16, cache=tmp_path / "cache").num_classes == 3
    assert "data: classes from dataset.json" in notes
    assert list_source(spec, "folders").class_names == ("00000", "00001", "00002", "00003")
    assert list_source(spec, "none").class_names == (("mine",) if where.name == "mine" else ("set",))
    for labels in ("file", "dataset.json"):
        assert list_source(spec, labels).labels == listing.labels
    assert count_images_and_classes(DataConfig(source=spec))[1] == ("0", "1", "2")
    assert count_images_and_classes(DataConfig(source=spec, labels="folders"))[0] == 40


def test_integer_labels_are_in_numerical_order(tmp_path):
    listing = list_source(write(tmp_path / "set", stylegan_files(lambda number: number % 12)))
    assert listing.class_names == tuple(map(str, range(12)))
    assert listing.labels[:13] == (*range(12), 0)


def test_the_stamp_changes_with_the_labels(tmp_path):
    spec = write(tmp_path / "set", stylegan_files(lambda number: number % 3))
    before = open_source(spec, 16, cache=tmp_path / "cache")
    stamp = list_source(spec).stamp
    write(tmp_path / "set", {"dataset.json": stylegan_files(lambda number: number % 3 + 5)["dataset.json"]})
    assert list_source(spec).stamp != stamp, "other names of the same classes"
    assert open_source(spec, 16, cache=tmp_path / "cache").class_names == ("5", "6", "7")
    write(tmp_path / "set", {"dataset.json": stylegan_files(lambda number: number % 2)["dataset.json"]})
    after = open_source(spec, 16, cache=tmp_path / "cache")
    assert (after.num_classes, after.content_hash != before.content_hash) == (2, True)


def test_buckets_without_labels_are_one_class_or_a_question(tmp_path):
    listing = list_source(write(tmp_path / "null", stylegan_files(None)))
    assert (listing.class_names, listing.origin) == (("null",), "none: dataset.json says that there are no labels")
    files = stylegan_files(None)
    del files["dataset.json"]
    spec = write(tmp_path / "bare", files)
    with pytest.raises(DataError, match=r"--data.labels none for one class, or --data.labels folders"):
        list_source(spec)
    assert list_source(spec, "none").class_names == ("bare",)
    numbers = range(0, 4000, 500)
    spec = write(tmp_path / "ffhq", {f"{number // 1000 * 1000:05d}/{number:05d}.png": png() for number in numbers})
    with pytest.raises(DataError, match="numbered files"):
        list_source(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: [*labels, ["gone.png", 1], ["gone2.png", 1]], r"2 entries are for files .*first: gone\.png"),
        (lambda labels: labels[2:], r"2 images have no label \(first: 00000/img00000000\.png\)"),
        (lambda labels: [[labels[0][0], None], *labels[1:]], r"1 image has no label"),
        (lambda labels: [[labels[0][0], -1], *labels[1:]], r"1 image has no label"),
        (lambda labels: [[name, [0, 1]] for name, _ in labels], r"40 labels of another kind"),
        (lambda labels: [[labels[0][0], 0.5], *labels[1:]], r"1 label of another kind .*has 0\.5"),
        (lambda labels: [[labels[0][0], float("nan")], *labels[1:]], r"no label"),
        (lambda labels: [[labels[0][0], 1 << 70], *labels[1:]], r"1 label of another kind"),
        (lambda labels: [[labels[0][0], True], *labels[1:]], r"1 label of another kind .*has True"),
        (lambda labels: [[labels[0][0], {}], *labels[1:]], r"1 label of another kind"),
        (lambda labels: [[labels[0][0], "cat"], *labels[1:]], r"of another kind"),
        (lambda labels: [labels[0], *labels], r"names 1 file twice \(first: 00000/img00000000\.png\)"),
        (lambda labels: [[1, 2]], r"not a list of \[file, label\]"),
        (lambda labels: 7, r"not a list of \[file, label\]"),
    ],
)
def test_dataset_json_that_does_not_fit(tmp_path, change, message):
    files = stylegan_files(lambda number: number % 3)
    labels = change(json.loads(files["dataset.json"])["labels"])
    files["dataset.json"] = json.dumps({"labels": labels}).encode()
    spec = write(tmp_path / "set.zip", files)
    with pytest.raises(DataError, match=message) as caught:
        list_source(spec)
    assert len(str(caught.value).splitlines()) == 1
    assert "--data.labels none" in str(caught.value)
    assert list_source(spec, "none").class_names == ("set",), "as the message says"


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"labels": [["\xff"', b'{"labels": "x"}'])
def test_damaged_dataset_json(tmp_path, data):
    spec = write(tmp_path / "set", stylegan_files(None) | {"dataset.json": data})
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        list_source(spec)


def test_a_dataset_json_of_something_else_is_mentioned(tmp_path):
    spec = write(tmp_path / "set", {"cat/0.png": png(), "dog/0.png": png(), "dataset.json": b'{"name": "pets"}'})
    listing = list_source(spec)
    assert listing.class_names == ("cat", "dog")
    assert listing.left_out == ('label file without labels: dataset.json (no "labels" in it)',)


CSV = "file_name,label\n0.png,cat\n1.png,dog\n2.png,cat\n"
JSONL = (
    b'{"file_name": "0.png", "label": "cat"}\n{"label": "dog", "file_name": "1.png"}\n\n{"file_name":"2.png","label":"cat"}'
)
IMAGES = {f"{number}.png": png(number) for number in range(3)}


@pytest.mark.parametrize(
    "metadata",
    [
        {"metadata.csv": CSV.encode()},
        {"metadata.csv": b"\xef\xbb\xbf" + CSV.replace(",", ";").replace("\n", "\r\n").encode()},
        {"metadata.csv": CSV.replace(",", "\t").encode()},
        {"metadata.csv": b'file_name;"a, b, c, d";label\n0.png;x;cat\n1.png;y, z;dog\n2.png;x;cat\n'},
        {"metadata.csv": CSV.replace("label", "Species").encode()},
        {"metadata.csv": CSV.replace("0.png", "./0.png").encode()},
        {"metadata.csv": b"id,file_name,caption,class_name\n7,0.png,a b,cat\n8,1.png,c d,dog\n9,2.png,e f,cat\n"},
        {"metadata.csv": b"file_name,label,label_name\n0.png,0,cat\n1.png,1,dog\n2.png,0,cat\n"},
        {"metadata.jsonl": JSONL},
    ],
)
@pytest.mark.parametrize("folder", ["", "photos/"])
def test_metadata_files_are_the_classes(where, metadata, folder):
    files = {f"{folder}{name}": data for name, data in (IMAGES | metadata).items()}
    listing = list_source(write(where, files))
    assert (listing.class_names, listing.labels) == (("cat", "dog"), (0, 1, 0))
    assert listing.origin.startswith("column ")
    assert listing.origin.endswith(f"of {folder}{next(iter(metadata))}".replace("of outer/", "of "))


def test_labels_of_the_types_that_json_lines_have(tmp_path):
    for values, names, numbers in (
        ((10, 9, 10), ("9", "10"), (1, 0, 1)),
        ((True, False, True), ("False", "True"), (1, 0, 1)),
        (("10", "9", "10"), ("9", "10"), (1, 0, 1)),
    ):
        lines = [json.dumps({"file_name": f"{number}.png", "label": value}) for number, value in enumerate(values)]
        listing = list_source(write(tmp_path / "set.zip", IMAGES | {"metadata.jsonl": "\n".join(lines).encode()}))
        assert (listing.class_names, listing.labels) == (names, numbers)


def test_metadata_in_each_split_folder(tmp_path):
    one = IMAGES | {"metadata.csv": CSV.encode()}
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in one.items()}
    spec = write(tmp_path / "set", files)
    with pytest.raises(DataError, match="look like splits"):
        list_source(spec)
    assert list_source(f"{spec}/train").class_names == ("cat", "dog")
    both = list_source(spec, "label")
    assert (both.class_names, both.labels) == (("cat", "dog"), (0, 1, 0) * 2)
    assert both.origin == "column label of 2 files metadata.csv"


def test_captions_and_names_are_no_classes(tmp_path):
    listing = list_source(write(tmp_path / "set", IMAGES | {"metadata.csv": b"file_name,text\n0.png,a\n1.png,b\n2.png,c\n"}))
    assert listing.class_names == ("set",)
    listing = list_source(str(tmp_path / "set"), "text")
    assert listing.class_names == ("a", "b", "c")


def test_a_question_where_several_readings_are_possible(tmp_path, capsys):
    images = {"cat/0.png": png(0), "cat/1.png": png(1), "dog/0.png": png(2)}
    other = b"file_name,label\ncat/0.png,wild\ncat/1.png,tame\ndog/0.png,tame\n"
    spec = write(tmp_path / "set", images | {"metadata.csv": other})
    with pytest.raises(DataError) as caught:
        list_source(spec)
    message = "folders (2 classes: cat, dog), label (2 classes: wild, tame)"
    assert message in str(caught.value) or message.replace("wild, tame", "tame, wild") in str(caught.value)
    assert "--data.labels folders or --data.labels label" in str(caught.value)
    assert list_source(spec, "folders").class_names == ("cat", "dog")
    assert list_source(spec, "column:label").labels == list_source(spec, "metadata.csv").labels == (1, 0, 0)
    for option in ("--labels", "--data.labels"):
        code, out, _ = call(capsys, "data", "inspect", spec, "--out", tmp_path / "sheet.png", option, "label")
        assert (code, "classes from column label of metadata.csv" in out) == (0, True)
    words = ("data", "prepare", spec, tmp_path / "out", "--resolution", 16)
    assert call(capsys, *words)[0] == 2
    code, out, _ = call(capsys, *words, "--labels", "folders")
    assert (code, "of 2 classes" in out) == (0, True)
    with pytest.raises(DataError, match="choose their labels when they are prepared"):
        open_source(f"packed:{tmp_path / 'out'}", 16, labels="folders")
    write(tmp_path / "set", {"metadata.csv": b"file_name,label\ncat/0.png,felis\ncat/1.png,felis\ndog/0.png,canis\n"})
    listing = list_source(spec)
    assert (listing.class_names, listing.origin) == (("cat", "dog"), "folders (column label of metadata.csv agrees)")


def test_labels_exchanged_against_folders_do_not_agree(tmp_path):
    images = {"cat/0.png": png(0), "cat/1.png": png(1), "dog/0.png": png(2)}
    other = b"file_name,label\ncat/0.png,dog\ncat/1.png,dog\ndog/0.png,cat\n"
    spec = write(tmp_path / "set", images | {"metadata.csv": other})
    with pytest.raises(DataError, match=r"choose with --data\.labels folders or --data\.labels label"):
        list_source(spec)
    assert list_source(spec, "label").labels == (1, 1, 0)


def test_a_file_with_two_labels_in_a_json_object(tmp_path):
    text = b'{"labels": {"0.png": 0, "1.png": 1, "2.png": 0, "0.png": 1}}'
    with pytest.raises(DataError, match=r"'0\.png' is there twice"):
        list_source(write(tmp_path / "set", IMAGES | {"dataset.json": text}))


def test_a_dataset_json_of_something_else_blocks_no_other_choice(tmp_path):
    files = IMAGES | {"dataset.json": b'{"labels": ["x", "y"]}', "metadata.csv": CSV.encode()}
    spec = write(tmp_path / "set", files)
    assert list_source(spec, "label").class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        list_source(spec)


def test_labels_compressed_beyond_reason_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dataset.json", b'{"labels": [' + b"[]," * 1_000_000 + b"[]]}")
        for name, data in IMAGES.items():
            archive.writestr(name, data)
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        list_source(str(tmp_path / "set.zip"))


def test_numeric_classes_keep_their_order_when_filtered(tmp_path):
    names = [f"{number:02d}.png" for number in range(12)]
    text = "file_name,label\n" + "".join(f"{name},{number}\n" for number, name in enumerate(names))
    spec = write(tmp_path / "set", {name: png() for name in names} | {"metadata.csv": text.encode()})
    listing = list_source(spec, "label")
    assert filter_listing(listing, max_per_class=1000) == listing
    assert filter_listing(listing, classes=("2", "10", "1")).class_names == ("1", "2", "10")


def test_several_label_columns_are_a_question(tmp_path):
    text = b"file_name,fine_label,coarse_label\n0.png,tabby,cat\n1.png,siamese,cat\n2.png,pug,dog\n"
    spec = write(tmp_path / "set", IMAGES | {"metadata.csv": text})
    with pytest.raises(DataError, match=r"--data\.labels fine_label or --data\.labels coarse_label"):
        list_source(spec)
    assert list_source(spec, "coarse_label").class_names == ("cat", "dog")
    with pytest.raises(DataError, match="more than one label"):
        list_source(spec, "file")
    with pytest.raises(DataError, match=r"no such label file or column; known: folders, none, fine_label, coarse_label"):
        list_source(spec, "species")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file_name,label\n0.png,cat\n1.png,\n2.png,cat\n", r"1 image has no label \(first: 1\.png\)"),
        (b"file_name,label\n0.png,cat\n1.png,dog\n", r"1 image has no label \(first: 2\.png\)"),
        (CSV.encode() + b"../3.png,cat\n", r"1 entry .*first: \.\./3\.png"),
        (CSV.encode() + b"/etc/passwd,cat\n", r"1 entry .*first: etc/passwd"),
        (CSV.encode() + b"0.png,cat\n", r"names 1 file twice"),
        (CSV.encode() + b"3.png\n", r"line 5 has 1 cells, the header 2"),
        (b"file_name,label\n\n\n0.png\n", r"line 4 has 1 cells"),
        (CSV.encode() + b'3.png,"cat\n', r"invalid CSV"),
        *(
            (CSV.replace("dog", text).encode(), r"1 image has no label \(first: 1\.png\)")
            for text in ("-1", "nan", "NaN", "-1.0")
        ),
        (b"file_name,label,label\n", r"two columns"),
        (b"\xff\xfe", r"cannot be read"),
        (b"file_name,label\n0.png," + b"x" * 200_000 + b"\n", r"invalid CSV: field larger"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path, text, message):
    spec = write(tmp_path / "set", IMAGES | {"metadata.csv": text})
    with pytest.raises(DataError, match=message) as caught:
        list_source(spec)
    assert len(str(caught.value).splitlines()) == 1
    assert list_source(spec, "none").class_names == ("set",)


LINES = [b"{", b"[1]", b'{"file_name": 7}', b'{"file_name": "3.png", "label": [1]}', b"[" * 100_000]


@pytest.mark.parametrize("line", LINES)
def test_damaged_metadata_jsonl(tmp_path, line):
    lines = [json.dumps({"file_name": f"{number}.png", "label": "cat"}).encode() for number in range(3)]
    spec = write(tmp_path / "set", IMAGES | {"3.png": png(), "metadata.jsonl": b"\n".join([*lines, line])})
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read|another kind"):
        list_source(spec)


def cell(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def table_of(tmp_path, monkeypatch):
    """A function that writes columns as a parquet file without features, as pandas or pyarrow do: its hf: spec."""
    datasets = pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "fetched"))

    def made(name="table", **columns):
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pa.table(columns), tmp_path / name / "train-00000-of-00001.parquet")
        return f"hf:{tmp_path / name}"

    return made


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        ([10, 9, 2, 10], ("2", "9", "10"), (2, 1, 0, 2)),
        (["cat", "dog", "cat", "cat"], ("cat", "dog"), (0, 1, 0, 0)),
        ([True, False, True, True], ("False", "True"), (1, 0, 1, 1)),
    ],
)
def test_columns_of_plain_types_are_labels(table_of, tmp_path, values, names, numbers):
    spec = table_of(image=[cell("blue")] * 4, label=values)
    listing = list_source(spec)
    assert (listing.class_names, listing.labels, listing.origin) == (names, numbers, "column label")
    assert open_source(spec, 16, cache=tmp_path / "cache").images[:, 2].unique().tolist() == [255]


def test_images_as_plain_bytes(table_of):
    listing = list_source(table_of(picture=[cell()["bytes"]] * 4, digit=[3, 5, 5, 3], text=list("abcd")))
    assert (listing.class_names, listing.origin) == (("3", "5"), "column digit")
    assert listing.read("0") == cell()["bytes"]


def test_several_columns_of_a_table(table_of):
    spec = table_of(image=[cell()] * 4, label=[0, 1, 1, 0], breed=["a", "b", "c", "c"], size=[1.5] * 4)
    with pytest.raises(DataError, match=r"columns label, breed: choose with --data\.labels label or --data\.labels breed"):
        list_source(spec)
    assert list_source(spec, "breed").class_names == ("a", "b", "c")
    assert len(list_source(spec, "none").class_names) == 1
    for labels in ("size", "folders", "file", "absent"):
        with pytest.raises(DataError, match=r"no such column of labels; known: none, label, breed"):
            list_source(spec, labels)


def test_a_table_with_captions_is_one_class(table_of):
    listing = list_source(table_of(image=[cell()] * 4, text=["a", "b", "c", "d"]))
    assert len(listing.class_names) == 1
    assert "no column of labels among image (dict), text (string)" in listing.origin


def test_tables_with_labels_missing(table_of):
    with pytest.raises(DataError, match=r"1 image has no label \(first: 1\)"):
        list_source(table_of("nulls", image=[cell()] * 3, label=["a", None, "b"]))
    with pytest.raises(DataError, match=r"2 images have no label"):
        list_source(table_of("negative", image=[cell()] * 3, label=[0, -1, -1]))
    with pytest.raises(DataError, match=r"Should be one of \['train'\]"):
        list_source(table_of("splits", image=[cell()] * 3, label=[0, 1, 1]) + ":validation")
