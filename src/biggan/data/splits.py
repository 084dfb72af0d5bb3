"""Folders that look like classes and are none: splits of a data set, images and their masks, buckets of numbered files."""

import re
import shlex
from collections.abc import Sequence

from biggan.data.listing import Found
from biggan.runtime.text import shorten

KINDS = {
    "train": {"train", "training", "trainset", "trn", "trainval"},
    "test": {"test", "testing", "testset", "tst"},
    "validation": {"val", "valid", "validation", "valset", "eval", "evaluation", "holdout", "dev"},
    "predict": {"pred", "predict", "prediction", "predictions"},
    "unlabeled": {"unlabeled", "unlabelled", "nolabel", "nolabels"},
    "extra": {"extra"},
    "query": {"query", "gallery", "probe"},
    "high resolution": {"hr", "highres"},
    "low resolution": {"lr", "lowres"},
    "images": {"images", "image", "imgs", "img", "jpegimages"},
    "masks": {
        "masks",
        "mask",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "gt",
        "groundtruth",
    },
    "annotations": {"annotations", "annotation", "annots", "labels", "label", "bboxes"},
}
"""Words in the names of folders that hold parts of a data set, by what they mean."""

KIND_OF_WORD = {word: kind for kind, words in KINDS.items() for word in words}

SHORT_KINDS = {"tr": "train", "ts": "test", "te": "test", "va": "validation"}
"""Words that mean a part only beside another word, as in imagesTr."""

JOINED = re.compile(
    r"(?:x|y|my)?(train|training|test|testing|val|valid|validation|unlabeled|unlabelled)"
    r"(?:set|data|dataset|images?|imgs?|split|folder|files)s?|[xy](train|test|val|valid)"
)
"""Two words written as one: "traindata", "testingset", "xtrain"."""

NUMBERED = re.compile(r"(fold|split|part|chunk|batch|shard|subset|cv)[ _.-]*\d+", re.IGNORECASE)
"""Folders that are numbered parts of a data set if all of them are called so."""

NEVER_CLASSES = {
    "images",
    "imgs",
    "jpegimages",
    "masks",
    "segmentations",
    "annotations",
    "annots",
    "labels",
    "bboxes",
    "extra",
}
"""Of the words for parts, those that are asked about even beside folders that are called otherwise; so are all words of
train, test, validation, predict and unlabeled."""

NOT_ASKED = {"dev", "valid", "eval", "image", "mask", "label", "segmentation", "annotation", "gt", "groundtruth", "img"}
NOT_ASKED |= {"query", "gallery", "probe", "hr", "lr", "highres", "lowres"}
"""Words for parts that are ordinary names of classes too: a folder of such a name alone is not asked about."""

FILLERS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"}
"""Words that say nothing about which part a folder holds."""


def words_of(name: str) -> list[str]:
    """The words in a name, in lower case: "seg_train", "trainA", "Test (1)", "train2017"."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)]


def kinds_of(name: str) -> set[str]:
    """The parts of a data set that the words in a name mean: {"train"} of "seg_train", "TrainData" and "train (1)"."""
    words = words_of(name)
    joined = (JOINED.fullmatch(word) for word in ["".join(words), *words])
    kinds = {KIND_OF_WORD[match[1] or match[2]] for match in joined if match}
    kinds |= {KIND_OF_WORD[word] for word in words if word in KIND_OF_WORD}
    return kinds | ({SHORT_KINDS[word] for word in words if word in SHORT_KINDS} if len(words) > 1 else set())


def split_question(found: Found) -> str | None:
    """What to ask instead of taking the top folders for classes: the end of an error message; None: they may be classes.

    The top folders are those at the first level where the paths of the images differ. They are asked about if each is
    named as a different part of a data set (seg_train, seg_test), if one is (unlabeled beside cat and dog), or if several
    have the same folders in them."""
    depth, paths = top_level(found.images)
    tops = sorted({path[depth] for path in paths if len(path) > depth})
    if len(tops) < 2:
        return None
    prefix = "/".join((*paths[0][:depth], ""))
    kinds = {top: kinds_of(top) for top in tops}
    shown = ", ".join(shorten(top) for top in tops[:5]) + (", ..." if len(tops) > 5 else "")
    first = min(tops, key=lambda top: ("train" not in kinds[top], "images" not in kinds[top], top))
    name_one = (
        f"name one of them as the source, such as {found.subfolder(prefix + first)}; if they are classes, add "
        "--data.labels folders"
    )
    parts = [top for top in tops if is_part(top)]
    if are_parts(kinds) or len(parts) == len(tops) or all(NUMBERED.fullmatch(top) for top in tops):
        return f"{shown} look like splits or other parts, not classes: {name_one}"
    if parts:
        others = [top for top in tops if top not in parts]
        keep = " ".join(shlex.quote(name) for name in others[:3]) + (" ..." if len(others) > 3 else "")
        return (
            f"{', '.join(parts[:3])} beside {', '.join(others[:3])} {'looks' if len(parts) == 1 else 'look'} like a split, "
            f"not a class: add --data.labels folders if it is a class, and --data.classes {keep} with it to leave it out; "
            f"or name a folder as the source, such as {found.subfolder(prefix + parts[0])}"
        )
    below = folders_below(paths, depth, tops)
    if all(inner and all(is_part(name) for name in inner) for inner in below.values()):
        inner = ", ".join(sorted(set().union(*below.values()))[:4])
        return (
            f"{shown} hold folders that look like splits ({inner}): make one folder of classes for each split, or add "
            "--data.labels folders to use all of them"
        )
    common = set.intersection(*below.values())
    if len(common) >= 2 and all(below.values()):
        inner = ", ".join(sorted(common)[:3]) + (", ..." if len(common) > 3 else "")
        return f"{shown} hold the same folders ({inner}), so they look like splits, not classes: {name_one}"
    return None


def top_level(images: Sequence[str]) -> tuple[int, list[tuple[str, ...]]]:
    """The first level at which the paths of the images differ, or the number of folders that all share if there is none,
    and the folders of each image."""
    paths = [tuple(name.split("/")[:-1]) for name in images]
    depth = 0
    while all(len(path) > depth for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return depth, paths


def are_parts(kinds: dict[str, set[str]]) -> bool:
    """Whether all folders are named as parts of a data set, of at least two kinds that not all of them share."""
    shared = set.intersection(*kinds.values())
    rest = {top: found - shared for top, found in kinds.items()}
    return all(rest.values()) and len(set().union(*rest.values())) >= 2


def is_part(name: str) -> bool:
    """Whether a folder is named as a part of a data set and nothing else: "unlabeled", "test_set", "train (1)"."""
    words = [word for word in words_of(name) if not word.isdigit()]
    if JOINED.fullmatch("".join(words)):
        return True
    telling = [word for word in words if word not in FILLERS] or words
    return bool(telling) and all(
        word in NEVER_CLASSES
        or (word in KIND_OF_WORD and word not in NOT_ASKED and KIND_OF_WORD[word] not in ("images", "masks", "annotations"))
        for word in telling
    )


def folders_below(paths: Sequence[tuple[str, ...]], depth: int, tops: Sequence[str]) -> dict[str, set[str]]:
    """For each top folder the folders in it at the first level where its paths differ; none if images lie beside them."""
    by_top: dict[str, set[tuple[str, ...]]] = {top: set() for top in tops}
    for path in paths:
        if len(path) > depth:
            by_top[path[depth]].add(path[depth + 1 :])
    below = {}
    for top, inner in by_top.items():
        level = 0
        while all(len(path) > level for path in inner) and len({path[level] for path in inner}) == 1:
            level += 1
        below[top] = {path[level] for path in inner} if all(len(path) > level for path in inner) else set()
    return below


def are_buckets(images: Sequence[str]) -> bool:
    """Whether several folders hold files numbered on from folder to folder, and so are no classes: those of StyleGAN's tool
    (00003/img00003012.png) and of FFHQ (03000/03012.png)."""
    folders = set()
    for name in images:
        folder, _, base = name.rpartition("/")
        folder, stem = folder.rpartition("/")[2], base.partition(".")[0]
        if not re.fullmatch(r"\d{5}", folder):
            return False
        numbered = re.fullmatch(r"\d{5,}", stem) and int(stem) // 1000 * 1000 == int(folder)
        if not numbered and not re.fullmatch(r"img\d{8}", stem):
            return False
        folders.add(folder)
    return len(folders) > 1
