"""Which files count as images: by suffix, and where the suffix says nothing by their first bytes."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from biggan.data.image_decoding import IMAGE_FORMATS
from biggan.data.listing import HIDDEN, LOOKS_LIKE_IMAGE
from biggan.runtime.bounded_io import open_regular_file

SUFFIXES_OF_FORMATS = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif"},
}

IMAGE_SUFFIXES = {suffix for name in IMAGE_FORMATS for suffix in SUFFIXES_OF_FORMATS.get(name, ())}
"""Suffixes of the image formats that can be decoded here, in lower case."""

OTHER_SUFFIXES = set(
    re.findall(
        r"\S+",
        ".txt .md .rst .json .jsonl .ndjson .csv .tsv .xml .yaml .yml .toml .ini .cfg .conf .html .htm .css .js "
        ".log .pdf .doc .docx .xls .xlsx .ods .ppt .pptx .npy .npz .pt .pth .ckpt .safetensors .onnx .pb .mat .pkl "
        ".h5 .hdf5 .parquet .arrow .feather .tfrecord .tfrecords .lmdb .mdb .db .sqlite .rec .idx .bin "
        ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wav .mp3 .flac .ogg .m4a .zip .tar .gz .tgz .bz2 .xz .zst .7z "
        ".rar .py .ipynb .m .c .cpp .h .java .sh .bat .ps1 .exe .dll .so .lock .lnk .url .svg .psd .ai .eps .ps "
        ".dcm .nii .obj .ply .stl .md5 .sha256 .torrent ",
    )
)
"""Suffixes of files that are no images of any format read here: they are never opened."""

SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", ".gitignore", ".gitkeep", ".gitattributes", ".keep"}
"""Files that operating systems and Git leave in folders, in lower case: nobody misses them."""

LABEL_FILES = ("dataset.json", "metadata.csv", "metadata.jsonl")
"""Names of files that may hold labels: StyleGAN's, and those of Hugging Face's imagefolder."""

HEAD_BYTES = 16

MAX_FILE_BYTES = 1 << 28  # of one image file, unpacked where it is compressed; larger ones are not read

NO_SUFFIX = "without suffix"


def is_system(name: str) -> bool:
    """Whether a path is one of SYSTEM_FILES, or what macOS adds to archives and foreign disks."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].lower() in SYSTEM_FILES or parts[-1].startswith("._")


def is_hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot."""
    return name.startswith(".") or "/." in name


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; empty if there is none, or if what follows the last dot is no suffix, as in
    "no. 7" or "scan.0001"."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9_~]*[a-z][a-z0-9_~]*", suffix) and len(suffix) <= 16 else ""


def reason_to_leave_out(name: str, read_head: Callable[[], bytes]) -> str | None:
    """Why a file is not listed as an image: a kind of LeftOut, or "" for a file that need not be mentioned; None: it is an
    image.

    `read_head` returns the first HEAD_BYTES bytes. It is called only if the name does not decide. A file without a suffix
    that begins as an image is one; with an unknown suffix (photo.jpg.part, photo.bak) it is only reported."""
    if is_system(name) or PurePosixPath(name).name in LABEL_FILES:
        return ""
    if is_hidden(name):
        return HIDDEN
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix not in OTHER_SUFFIXES and begins_as_image(read_head()):
        return LOOKS_LIKE_IMAGE if suffix else None
    return suffix or NO_SUFFIX


def is_image(path: Path) -> bool:
    """Whether a file would be listed as an image. Raises OSError where it cannot be read, and its name does not decide."""
    return reason_to_leave_out(path.name, lambda: read_head(path)) is None


def read_head(path: Path | str) -> bytes:
    """The first HEAD_BYTES bytes of a file. Raises OSError."""
    with open_regular_file(path) as stream:
        return stream.read(HEAD_BYTES)


def begins_as_image(head: bytes) -> bool:
    """Whether the first HEAD_BYTES bytes of a file are those of an image in one of the formats read here."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head[:2] == b"BM" and len(head) == HEAD_BYTES and head[6:10] == bytes(4):  # two letters alone could begin a text
        return True
    if re.match(rb"P[1-6]\s+(\d|#)", head):
        return True
    return head[4:8] == b"ftyp" and (
        ("AVIF" in IMAGE_FORMATS and head[8:12] in (b"avif", b"avis"))
        or ("HEIF" in IMAGE_FORMATS and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"))
    )
