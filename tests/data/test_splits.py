"""Folders that look like classes and are none, and real classes with such names."""

import pytest
from conftest import call, write_pictures

from biggan.data.listing import Found
from biggan.data.sources import list_source
from biggan.data.splits import split_question, words_of
from biggan.runtime.errors import DataError


def found(*folders):
    """Found files: two images in each folder."""
    images = sorted(f"{folder}/{number}.png" for folder in folders for number in range(2))
    nothing = {"read": None, "read_label_file": None}
    return Found(source="folder:X", flat_name="X", subfolder="folder:X/{}".format, images=images, **nothing)


LAYOUTS = {
    "seg_train": [
        "seg_train/seg_train/sea",
        "seg_train/seg_train/ice",
        "seg_test/seg_test/sea",
        "seg_test/seg_test/ice",
        "seg_pred/seg_pred",
    ],
    "training_set": ["training_set/cats", "training_set/dogs", "test_set/cats", "test_set/dogs"],
    "train": ["train/bird", "train/car", "test/bird", "test/car", "unlabeled"],
    "images": ["images", "masks"],
    "Train": ["Train/a", "Train/b", "test (1)/a", "test (1)/b"],
    "train_images": ["train_images", "test_images"],
    "outer/train2017": ["outer/train2017", "outer/val2017"],
    "trainA": ["trainA", "trainB", "testA", "testB"],
    "cats_train": ["cats_train", "dogs_train", "cats_test", "dogs_test"],
    "amazon": ["amazon/images/desk", "amazon/images/lamp", "dslr/images/desk", "dslr/images/lamp"],
    "fold1": ["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog", "fold3/cat", "fold3/dog"],
    "TRAIN": ["TRAIN", "VALID"],
    "traindata": ["traindata", "testdata"],
    "trainingset": ["trainingset", "testingset"],
    "xtrain": ["xtrain", "xtest"],
    "Fold 1": ["Fold 1", "Fold 2", "Fold 10"],
    "part_01": ["part_01", "part_02"],
    "bounding_box_train": ["bounding_box_train", "bounding_box_test", "query"],
    "imagesTr": ["imagesTr", "imagesTs"],
    "train_hr": ["train_hr", "train_lr"],
    "train.1": ["train.1", "train.2"],
}


@pytest.mark.parametrize("first", LAYOUTS)
def test_splits_are_asked_about(first):
    assert f"such as folder:X/{first}; if they are classes, add --data.labels folders" in split_question(
        found(*LAYOUTS[first])
    )


PARTS = [
    "traindata",
    "TestImages",
    "unlabeled",
    "Unlabelled",
    "test",
    "train",
    "val",
    "test_set",
    "test (1)",
    "masks",
    "annotations",
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_beside_class_folders_is_asked_about(part):
    question = split_question(found("cat", "dog", part))
    assert part in question
    assert "--data.classes cat dog with it to leave it out" in question


@pytest.mark.parametrize(
    "folders",
    [
        ["with_mask", "without_mask", "mask_weared_incorrect"],
        ["training_real", "training_fake"],
        ["bullet_train", "steam_train"],
        ["valid", "invalid"],
        ["real_images", "fake_images"],
        ["test_tube", "beaker"],
        ["mask", "hat"],
        ["cat/indoor", "cat/outdoor", "dog/indoor", "dog"],
        ["n01/images", "n02/images"],
        ["train"],
        ["train/cat", "train/dog"],
        ["cat", "dog"],
        ["protest", "contest"],
    ],
)
def test_classes_are_not_asked_about(folders):
    assert split_question(found(*folders)) is None


def test_splits_in_every_class_folder_are_asked_about():
    question = split_question(found("cat/train", "cat/test", "dog/train", "dog/validation"))
    assert question.startswith("cat, dog hold folders that look like splits (test, train, validation)")


def test_names_with_spaces_are_quoted_in_advice():
    assert "--data.classes 'big cat' dog with it" in split_question(found("big cat", "dog", "test"))


def test_words_of_names():
    words = {
        "seg_train": ["seg", "train"],
        "trainA": ["train", "a"],
        "Test (1)": ["test", "1"],
        "train2017": ["train", "2017"],
        "TrainImages": ["train", "images"],
        "TRAIN": ["train"],
        "猫": ["猫"],
    }
    assert {name: words_of(name) for name in words} == words


def test_classes_called_test_and_train_are_possible(tmp_path, capsys):
    write_pictures(tmp_path / "set", {"train": 2, "test": 1})
    code, _, err = call(capsys, "data", "inspect", tmp_path / "set", "--out", tmp_path / "sheet.png")
    assert (code, len(err.splitlines()), f"folder:{tmp_path / 'set' / 'train'}" in err) == (2, 1, True)
    words = ("data", "inspect", tmp_path / "set", "--out", tmp_path / "sheet.png", "--labels", "folders")
    assert "images 3 of 2 classes" in call(capsys, *words)[1]
    listing = list_source(str(tmp_path / "set"), "none")
    assert (listing.class_names, listing.labels) == (("set",), (0, 0, 0))
    assert list_source(str(tmp_path / "set" / "train")).class_names == ("train",)


def test_unlabeled_beside_classes_is_left_out_as_the_message_says(tmp_path, capsys):
    write_pictures(tmp_path / "set", {"cat": 1, "dog": 2, "unlabelled": 3})
    with pytest.raises(DataError, match="unlabelled beside cat, dog"):
        list_source(str(tmp_path / "set"))
    words = ("data", "prepare", tmp_path / "set", tmp_path / "out", "--resolution", 16)
    code, out, _ = call(capsys, *words, "--data.labels", "folders", "--data.classes", "cat", "dog")
    assert (code, "images 3 of 2 classes" in out) == (0, True)
