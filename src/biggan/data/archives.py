"""The files of a zip archive, which is never unpacked to disk: names in it are only names."""

import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from biggan.data.image_names import HEAD_BYTES, LABEL_FILES, MAX_FILE_BYTES, is_hidden, is_system, reason_to_leave_out
from biggan.data.listing import HIDDEN, MAX_ENTRIES, NO_FILE, NO_IMAGE, NOT_REGULAR, REPEATED, Found
from biggan.runtime.bounded_io import check_zip_layout, open_regular_file, read_zip_entry
from biggan.runtime.errors import DataError, first_line, suggestion
from biggan.runtime.text import shorten

BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    EOFError,
    LookupError,
    struct.error,
)
"""What zipfile raises on damaged directories of archives."""

COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA} | {
    getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED)
}

MAX_RATIO = 100  # bytes unpacked for each byte of a label file, beyond 400 KB

UTF8_FLAG, ENCRYPTED_FLAG, DOS_FOLDER = 0x800, 0x1, 0x10

MAX_NAME = 4096  # letters of one name; folders in folders in folders would fill the memory

UNICODE_PATH = 0x7075  # kind of an extra field

JAPANESE = re.compile(
    r"[\u3040-\u30ff\u4e00-\u9fff]*([\u3040-\u30ff][\u3040-\u30ff\u4e00-\u9fff]|[\u4e00-\u9fff][\u3040-\u30ff])"
)
"""Two adjacent Japanese characters, one of them kana: no accident of a wrong decoding."""


def split_zip_location(location: str) -> tuple[str, str]:
    """The path of an archive and the folder in it ("" for all of it), of "FILE" or "FILE:FOLDER"."""
    at = len(location)
    while at >= 0:
        try:
            if Path(location[:at]).expanduser().is_file():
                return location[:at], location[at + 1 :].strip("/")
        except OSError:  # a name that is too long
            pass
        at = location.rfind(":", 0, at)
    return location, ""


def find_in_zip(file: Path, inner: str = "") -> Found:
    """All images in a zip archive, or in the folder `inner` of it, and an account of all other files. The archive stays open
    for reading.

    A backslash in a name separates folders, as Windows writes it. Raises DataError if the archive cannot be read, is
    encrypted or compressed by an unknown method, or names an image twice with different content."""
    archive, members = read_directory(file)
    spec = f"zip:{file}:{inner}" if inner else f"zip:{file}"
    entries: dict[str, zipfile.ZipInfo] = {}
    found = Found(
        source=spec,
        flat_name=inner.rpartition("/")[2] or file.stem,
        read=lambda name: read_zip_entry(archive, entries[name], MAX_FILE_BYTES),
        read_label_file=lambda name, limit: read_label_file(archive, entries[name], limit),
        subfolder=lambda name: f"zip:{file}:{inner}/{name}" if inner else f"zip:{file}:{name}",
    )
    tops: set[str] = set()
    twice: list[str] = []
    try:
        names = member_names(members)
    except ValueError as error:
        raise DataError(f"data zip {file} cannot be read ({error}, more than {MAX_NAME:,}): make it again") from error
    for name, info in zip(names, members, strict=True):
        tops.add(name.partition("/")[0])
        if inner:
            if not name.startswith(f"{inner}/"):
                continue
            name = name.removeprefix(f"{inner}/")
        if is_folder(info):
            if not is_system(name) and not is_hidden(name):
                add_folder(found, name, occupied=False)
            continue
        if not is_hidden(name) and not is_system(name):
            add_folder(found, name.rpartition("/")[0], occupied=True)
        if not is_listed(archive, name, info, found):
            if name.rpartition("/")[2] in LABEL_FILES and not is_hidden(name):
                found.label_files.append(name)
                entries[name] = info
        elif name not in entries:
            entries[name] = info
            found.images.append(name)
        elif (entries[name].CRC, entries[name].file_size) == (info.CRC, info.file_size):
            found.left_out.add(REPEATED, name)
        else:
            twice.append(name)
    if inner and not found.folders:
        raise DataError(f"data source {spec}: no folder {inner!r} in the archive; {suggestion(inner, tops)}")
    if twice:
        raise DataError(
            f"data zip {file} holds {len(twice)} name{'s' if len(twice) > 1 else ''} twice with different content "
            f"({shorten(twice[0])}): make it again"
        )
    found.images.sort()
    found.label_files.sort()
    check_members(file, found, entries)
    found.facts = [(name, entries[name].file_size, entries[name].CRC) for name in found.images]
    return found


def read_label_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """A label file in an archive. Raises ValueError if it is compressed as no labels are: repeated brackets, of which a few
    kilobytes unpack to gigabytes of lists."""
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1 << 12):
        raise ValueError(f"it unpacks to more than {MAX_RATIO} times its size")
    return read_zip_entry(archive, entry, limit)


def read_directory(file: Path) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """An opened archive and its entries. Raises DataError if it is not a zip archive or is damaged."""
    try:
        open_regular_file(file).close()
    except OSError as error:
        reason = error.strerror or "it is not a regular file"
        raise DataError(f"data zip {file} is not a file that can be read ({reason})") from error
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
        check_zip_layout(archive)
    except BROKEN_ARCHIVE as error:
        raise DataError(f"data zip {file} cannot be read as a zip archive ({first_line(error)}): make it again") from error
    if len(members) > MAX_ENTRIES:
        raise DataError(f"data zip {file} holds more than {MAX_ENTRIES:,} files: divide it")
    return archive, members


def member_names(members: list[zipfile.ZipInfo]) -> list[str]:
    """The names of all entries with "/" between folders, without empty parts, "." and "..", in readable letters. Raises
    ValueError on one of more than MAX_NAME letters.

    Entries without the UTF-8 flag are in whatever encoding the writer's system had. They are taken for UTF-8 if all of them
    are valid UTF-8, as macOS writes them, for Shift-JIS if they are valid and look Japanese, else for code page 437."""
    legacy = [legacy_bytes(info) for info in members]
    joined = b"\0".join(data for data in legacy if data is not None)
    encoding = "cp437"
    for candidate in ("utf-8", "cp932"):
        try:
            text = joined.decode(candidate)
        except UnicodeDecodeError:
            continue
        if candidate == "utf-8" or JAPANESE.search(text):
            encoding = candidate
            break
    names = []
    for info, data in zip(members, legacy, strict=True):
        name = unicode_path(info, data) or (info.orig_filename if data is None else data.decode(encoding))
        if len(name) > MAX_NAME:
            raise ValueError(f"a name in it has {len(name):,} letters")
        names.append(plain_path(name.partition("\0")[0].replace("\\", "/")))
    return names


def plain_path(name: str) -> str:
    """A path without empty parts and ".", in which ".." goes up, but not out of the archive."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def unicode_path(info: zipfile.ZipInfo, data: bytes | None) -> str | None:
    """The name in the extra field 0x7075 of Info-ZIP, which is in UTF-8; None if there is none, or it is of another name."""
    extra, stored = info.extra, info.orig_filename.encode("cp437", "replace") if data is None else data
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) == size > 5 and field[:5] == struct.pack("<BL", 1, zlib.crc32(stored)):
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def legacy_bytes(info: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a name that zipfile decoded as code page 437 for want of a flag; None if it is ASCII or flagged."""
    if info.flag_bits & UTF8_FLAG or info.orig_filename.isascii():
        return None
    try:
        return info.orig_filename.encode("cp437")
    except UnicodeEncodeError:  # it came from an extra field
        return None


def is_folder(info: zipfile.ZipInfo) -> bool:
    """Whether an entry stands for a folder."""
    return info.orig_filename.endswith(("/", "\\")) or (info.file_size == 0 and bool(info.external_attr & DOS_FOLDER))


def add_folder(found: Found, name: str, *, occupied: bool) -> None:
    """Note a folder and those around it; `occupied`: there is a file in it."""
    if occupied or name not in found.folders:
        found.folders[name] = NO_IMAGE if occupied else NO_FILE
    while name:
        name = name.rpartition("/")[0]
        if name in found.folders:
            return
        found.folders[name] = NO_FILE


def is_listed(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, found: Found) -> bool:
    """Whether an entry is an image; if not, the reason is noted."""

    def read_head() -> bytes:
        """The first bytes; none if they cannot be read."""
        try:
            with archive.open(info) as stream:
                return stream.read(HEAD_BYTES)
        except Exception:  # zipfile raises many kinds of error; each means that the entry is damaged
            return b""

    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG) and not is_system(name):
        found.left_out.add(HIDDEN if is_hidden(name) else NOT_REGULAR, name)
        return False
    reason = reason_to_leave_out(name, read_head)
    if reason:
        found.left_out.add(reason, name)
    return reason is None


def check_members(file: Path, found: Found, entries: dict[str, zipfile.ZipInfo]) -> None:
    """Raises DataError if an entry to be read is encrypted, or compressed by a method that Python cannot undo."""
    names = [*found.images, *found.label_files]
    encrypted = [name for name in names if entries[name].flag_bits & ENCRYPTED_FLAG]
    if encrypted:
        raise DataError(
            f"data zip {file} is encrypted ({len(encrypted)} files, first {shorten(encrypted[0])}): unpack it with its "
            "password and name the folder"
        )
    unknown = [name for name in names if entries[name].compress_type not in COMPRESSIONS]
    if unknown:
        method = entries[unknown[0]].compress_type
        how = {9: "Deflate64", 93: "Zstandard", 98: "PPMd", 99: "encrypted"}.get(method, "unknown")
        raise DataError(
            f"data zip {file} is compressed by method {method} ({how}), which is not supported ({len(unknown)} files, first "
            f"{shorten(unknown[0])}): make it again with the method Deflate, or unpack it and name the folder"
        )
