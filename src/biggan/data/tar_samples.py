"""The samples of a tar file in WebDataset's layout: files that follow one another and share a name up to its first dot.

    cat/0001.jpg  cat/0001.cls     an image and its class, a number or a name
    0002.png      0002.json        the class is "cls", "class", "label" or "class_name" in the JSON; captions are no classes

A name is split at the first dot of its last part, as the webdataset library does it: a.b.jpg is the file "b.jpg" of the
sample "a". tar files may be compressed (gzip, bzip2, xz). Devices and folders in them are ignored; links are errors."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from biggan.data.image_names import IMAGE_SUFFIXES, MAX_FILE_BYTES
from biggan.runtime.errors import first_line
from biggan.runtime.json_text import parse_json

CLASS_KEYS = ("cls", "class", "label", "class_name")  # in a .json file; the first that is there counts

MAX_CLASS_NAME = 200  # characters

MAX_BYTES = {"cls": 1 << 12, "json": 1 << 20}
"""Of a file of a sample, by suffix; of all others MAX_FILE_BYTES."""

MAX_HEADER_BYTES = 1 << 20  # of a long name or other extended header

EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

MAX_RATIO = 200  # bytes unpacked for each byte of a compressed tar file, beside UNPACKED_AT_ONCE

UNPACKED_AT_ONCE = 1 << 28

NO_CLASS = ""


class Sample(NamedTuple):
    """An encoded image file of a shard with its class: a decimal number, a name, or NO_CLASS."""

    name: str
    data: bytes
    label: str


class CheckedTarInfo(tarfile.TarInfo):
    """A header of a tar file. One that is damaged or missing is an error, where tarfile would take it for the end; an absurd
    size is one too, because tarfile reads extended headers into memory as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "CheckedTarInfo":
        """The header in a block of 512 bytes. Raises ValueError if it is damaged or has an absurd size."""
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # zeros: the end
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise ValueError("it ends without an end mark: it was cut off, or is no tar file") from None
        except tarfile.HeaderError as error:
            raise ValueError(f"it has a damaged header ({first_line(error)}), or is no tar file") from error
        limit = MAX_HEADER_BYTES if info.type in EXTENDED_HEADERS else MAX_FILE_BYTES
        if not 0 <= info.size <= limit:
            raise ValueError(f"{info.name!r:.100} has {info.size:,} bytes, more than {limit:,}")
        return info


class CountedReader(io.RawIOBase):
    """A stream that counts what is read from it, and can show its beginning before."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.count, self.ahead = stream, 0, b""

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which will be read again."""
        while len(self.ahead) < size and (data := self.stream.read(size - len(self.ahead))):
            self.ahead += data
        return self.ahead

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; the number of bytes, 0 at the end."""
        data = self.ahead[: len(buffer)] or self.stream.read(len(buffer))
        self.ahead = self.ahead[len(data) :]
        self.count += len(data)
        buffer[: len(data)] = data
        return len(data)


def decompressed(stream: CountedReader) -> Any:
    """The stream, or what is compressed in it by gzip, bzip2 or xz, in one part or several, with its checksums verified."""
    head, buffered = stream.peek(6), io.BufferedReader(stream)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=buffered)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(buffered)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(buffered)
    return stream  # as it comes: what was read before a failure counts


def read_samples_of(stream: IO[bytes], file: str, left_out: Counter[str] | None = None) -> Iterator[Sample]:
    """The samples of a tar file with the name `file`, in order. `left_out` counts those without an image of a known format,
    by the suffixes of their files. Raises ValueError and tarfile.TarError on damaged files and on files in another layout,
    and what the stream raises."""
    key, files = "", dict[str, bytes]()
    seen, left_out = set[str](), Counter[str]() if left_out is None else left_out
    for name, data in read_files(stream):
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        this = f"{folder}/{stem}" if folder else stem
        if this != key:
            yield from sample_of(key, files, file, seen, left_out)
            key, files = this, {}
        if suffix.lower() in files:
            raise ValueError(f"{name!r} is there twice")
        files[suffix.lower()] = data
    yield from sample_of(key, files, file, seen, left_out)


def read_files(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the images and class files of a tar file; of other files that belong to a sample the content is
    left out. Raises as `read_samples_of`."""
    counted: Any = CountedReader(stream)
    try:
        with tarfile.open(fileobj=decompressed(counted), mode="r|", tarinfo=CheckedTarInfo) as tar:
            for info in tar:
                if tar.offset > UNPACKED_AT_ONCE + MAX_RATIO * counted.count:
                    raise ValueError(f"it unpacks to more than {MAX_RATIO} times its size")
                name = info.name.removeprefix("./")
                stem, _, suffix = name.rpartition("/")[2].lower().partition(".")
                if not stem or not suffix or re.match(r"__[^/]*__($|/)|__MACOSX/", name):
                    continue
                wanted = suffix in MAX_BYTES or f".{suffix}" in IMAGE_SUFFIXES
                if wanted and (info.islnk() or info.issym()):
                    raise ValueError(
                        f"{name!r:.100} is a link, not a file: make it again (tar --dereference --hard-dereference)"
                    )
                if not info.isreg():
                    continue
                limit = MAX_BYTES.get(suffix, MAX_FILE_BYTES)
                if info.issparse() or not 0 <= info.size <= limit:
                    raise ValueError(f"{name!r:.100} has {info.size:,} bytes, more than {limit:,}, or holes")
                yield name, tar.extractfile(info).read() if wanted else b""
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers all
            while rest := tar.fileobj.read(1 << 16):  # type: ignore[union-attr]
                if rest.strip(b"\0"):
                    raise ValueError("it goes on after its end mark: a header is damaged, or it is two tar files in one")
    except (OSError, EOFError, ValueError, tarfile.TarError):
        raise
    except Exception as error:  # tarfile does not guard against all that a header may hold
        raise ValueError(f"it is damaged ({first_line(error)})") from error


def sample_of(key: str, files: dict[str, bytes], file: str, seen: set[str], left_out: Counter[str]) -> Iterator[Sample]:
    """The sample of files by suffix, or nothing if there is no image and no class among them. `seen` holds the keys of
    earlier samples and gets this one. Raises ValueError on a key that was seen, on a class without an image, on two images,
    and on what is no class."""
    images = [suffix for suffix in files if f".{suffix}" in IMAGE_SUFFIXES]
    if images or "cls" in files or "json" in files:
        if key in seen:
            raise ValueError(f"the files of {key!r} do not follow one another, or are there twice")
        seen.add(key)
    if len(images) > 1:
        raise ValueError(f"{key!r} has two images, {images[0]} and {images[1]}")
    if not images:
        dotted = [suffix for suffix in files if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        if dotted:
            name = f"{key}.{dotted[0]}"
            raise ValueError(f"{name!r} is no image, for names end at their first dot: rename it without more dots")
        if "cls" in files:
            raise ValueError(f"{key + '.cls'!r} has no image beside it")
        if files:
            left_out[" and ".join(f".{suffix}" for suffix in sorted(files))[:60]] += 1
        return
    yield Sample(f"{file}/{key}.{images[0]}", files[images[0]], class_of(key, files))


def class_of(key: str, files: dict[str, bytes]) -> str:
    """The class of a sample, from its .cls or its .json; NO_CLASS if it has none. Raises ValueError on what is no class."""
    if "cls" in files:
        try:
            text = files["cls"].decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise ValueError(f"{key + '.cls'!r} is not UTF-8") from None
        return class_name(text, f"{key}.cls")
    values = parse_json(files["json"], (dict, list, str, int, float, type(None))) if "json" in files else None
    for name in CLASS_KEYS if isinstance(values, dict) else ():
        if values.get(name) is not None:
            if isinstance(values[name], bool) or not isinstance(values[name], int | str):
                raise ValueError(f"{name} in {key + '.json'!r} is no number and no name")
            return class_name(str(values[name]).strip(), f"{key}.json")
    return NO_CLASS


def class_name(text: str, file: str) -> str:
    """A class as it was written; numbers in their shortest form. Raises ValueError on an empty, long or multi-line text."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return str(int(text)) if int(text) >= 0 else NO_CLASS  # as many tables say that there is none
    if not text or len(text) > MAX_CLASS_NAME or len(text.splitlines()) > 1:
        raise ValueError(f"{file!r} holds no class: a number, or a name of at most {MAX_CLASS_NAME} characters")
    return text
