"""The file layouts of prepared data sets: packed (one memory-mapped file of pixels) and wds (WebDataset shards).

packed: images.u8, the pixels (N, 3, R, R) as uint8 without a header, and labels.npy. wds: tar files in which each image
has a .cls file with its class number beside it, written by the webdataset library."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from biggan.data.checksums import block_checksums, check_blocks, read_labels
from biggan.data.image_decoding import Size, decode, open_image
from biggan.data.image_modes import color_code, has_transparency, parse_color
from biggan.data.loader import ResidentSource
from biggan.data.manifest import SHARD_NAME, Manifest, Shard, read_manifest
from biggan.data.sources import Listing
from biggan.data.webdataset import MAX_READERS
from biggan.data.webdataset_io import import_webdataset
from biggan.runtime.atomic_io import file_sha256, sync, write_file, write_stream
from biggan.runtime.bounded_io import open_regular_file
from biggan.runtime.errors import DataError, reason_for, remedy_for
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

PACKED_CHUNK = 1024  # images that are appended to images.u8 at a time


class Layout(Protocol):
    """A way to store the images of a prepared set in a folder. Its attributes are part of the set's identity."""

    name: str
    resolution: int
    background: str
    """The color that transparent pixels are composed on, as #rrggbb."""
    files: tuple[str, ...]
    """Patterns of the names of the files that it writes."""

    def chunks(self, count: int) -> list[Sequence[int]]:
        """Split `count` images into chunks, each written at once: the indices of the images of each chunk."""
        ...

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The stored bytes of one image and its original size. Raises any exception on a damaged file."""
        ...

    def write(self, out: Path, number: int, start: int, images: list[tuple[str, int, bytes]]) -> Shard | None:
        """Write chunk `number`, a list of (file name, label, encoded image), after the first `start` images of the set.
        Returns the shard if the chunk has a file of its own."""
        ...

    def is_intact(self, out: Path, start: int, stop: int, shard: Shard | None, sha256: str | None) -> bool:
        """Whether a chunk that was written earlier is still on disk as it was: it begins after `start` images of the set and
        ends after `stop`, in `shard` if it has a file of its own; `sha256` is that of its encoded images."""
        ...

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        """sha256 of all images in order, as documented at Manifest.sha256. May also write further files of the set."""
        ...

    def blocks(self, out: Path) -> tuple[str, ...]:
        """Checksums of the blocks of a file of pixels, as documented at Manifest.blocks."""
        ...


class Packed:
    """All images as uint8 pixels in one file, in the order of the listing."""

    name = "packed"
    files = ("images.u8", "labels.npy")

    def __init__(self, resolution: int, *, background: str = "white") -> None:
        self.resolution, self.background = resolution, color_code(background)

    def chunks(self, count: int) -> list[Sequence[int]]:
        return [range(start, min(start + PACKED_CHUNK, count)) for start in range(0, count, PACKED_CHUNK)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The uint8 pixels (3, R, R) and the original size of one image."""
        pixels, size = listing.decode_image(index, self.resolution, parse_color(self.background))
        return pixels.tobytes(), size

    def write(self, out: Path, number: int, start: int, images: list[tuple[str, int, bytes]]) -> None:
        """Write the images to images.u8 after the first `start`, and overwrite anything that follows them."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(out / "images.u8", flags, 0o666), "r+b") as stream:
            stream.truncate(start * 3 * self.resolution**2)  # an interrupted run may have written a part of this chunk
            stream.seek(0, os.SEEK_END)
            stream.writelines(encoded for _, _, encoded in images)
            stream.flush()
            sync(stream.fileno())

    def is_intact(self, out: Path, start: int, stop: int, shard: Shard | None, sha256: str | None) -> bool:
        size = 3 * self.resolution**2
        try:
            with open_regular_file(out / "images.u8") as stream:
                stream.seek(start * size)
                return hashlib.sha256(stream.read((stop - start) * size)).hexdigest() == sha256
        except OSError:
            return False

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        buffer = io.BytesIO()
        np.save(buffer, labels)
        write_file(out / "labels.npy", buffer.getvalue())
        return file_sha256(out / "images.u8", labels.tobytes())

    def blocks(self, out: Path) -> tuple[str, ...]:
        return block_checksums(out / "images.u8")


class Shards:
    """WebDataset tar files in a fixed random order: each image with its class number in a .cls file beside it.

    Opaque gray and RGB PNG and JPEG files that already have the resolution are copied; other images are stored as PNG, or as
    JPEG of the given quality (1 to 100). `shard_images` is the largest number of images in a shard.
    """

    name = "wds"
    files = ("shard-*.tar",)

    def __init__(
        self, resolution: int, *, shard_images: int = 1000, quality: int | None = None, background: str = "white"
    ) -> None:
        self.resolution, self.shard_images, self.quality = resolution, shard_images, quality
        self.background = color_code(background)

    def chunks(self, count: int) -> list[Sequence[int]]:
        """Shards of equal size, and enough of them to be read by MAX_READERS readers at once."""
        shards = max(-(-count // self.shard_images), min(MAX_READERS, count))
        order = torch.randperm(count, generator=addressed_rng(0, "order in shards"))
        return [indices.tolist() for indices in order.tensor_split(shards)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The original file if it has the resolution, else a newly encoded one; and the original size."""
        data = listing.read(listing.images[index])
        image, size = decode(data, self.resolution, parse_color(self.background))
        if size == image.size and is_plain(data):
            return data, size
        buffer = io.BytesIO()
        options = (
            {"format": "PNG"} if self.quality is None else {"format": "JPEG", "quality": self.quality, "subsampling": 0}
        )
        image.save(buffer, **options)
        return buffer.getvalue(), size

    def write(self, out: Path, number: int, start: int, images: list[tuple[str, int, bytes]]) -> Shard:
        """Write one shard atomically."""
        file = out / f"shard-{number:06d}.tar"
        buffer = io.BytesIO()
        with import_webdataset().TarWriter(buffer, encoder=False, mtime=0) as tar:  # no time stamps: reproducible bytes
            for offset, (_, label, encoded) in enumerate(images):
                suffix = "png" if encoded.startswith(b"\x89PNG") else "jpg"
                tar.write({"__key__": f"{start + offset:09d}", suffix: encoded, "cls": str(label).encode()})
        content = buffer.getvalue()
        write_stream(file, [content])
        return Shard(file.name, len(images), len(content), hashlib.sha256(content).hexdigest())

    def is_intact(self, out: Path, start: int, stop: int, shard: Shard | None, sha256: str | None) -> bool:
        if shard is None or not SHARD_NAME.fullmatch(shard.name) or not (out / shard.name).is_file():
            return False
        return file_sha256(out / shard.name) == shard.sha256

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        return hashlib.sha256(" ".join(shard.sha256 for shard in shards).encode()).hexdigest()

    def blocks(self, out: Path) -> tuple[str, ...]:
        return ()


def is_plain(data: bytes) -> bool:
    """Whether the bytes of a readable image are a PNG or JPEG file that shows the same on any background, and whose metadata
    does not keep other programs from reading it."""
    try:
        with open_image(io.BytesIO(data)) as image:
            return image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB") and not has_transparency(image)
    except Exception:  # Pillow raises many kinds of error on damaged metadata
        return False


def open_packed(
    folder: Path, resolution: int, *, flip: bool, background: str | None = None, verify: bool = False
) -> ResidentSource:
    """Open a packed set with its images memory-mapped.

    `background`: refuse a set with another one; None: take any. `verify`: compare all pixels with their checksum, not only a
    few random blocks. Raises DataError on another resolution or background, and on damaged files."""
    manifest = read_manifest(folder, "packed")
    if manifest.resolution != resolution:
        raise DataError(
            f"{folder} is packed at {manifest.resolution} px, not at {resolution}: use that size "
            f"(--model.resolution {manifest.resolution} of biggan train), or prepare the set again"
        )
    check_background(folder, manifest, background)
    labels = check_packed(folder, manifest, verify)
    images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="c", shape=(len(labels), 3, resolution, resolution))
    return ResidentSource(
        name=f"packed:{folder}",
        class_names=manifest.class_names,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        content_hash=manifest.sha256,
        sizes=manifest.sizes,
        broken=manifest.rejected,
        from_cache=True,
        flip=flip,
        background=manifest.background or "none",
    )


def check_background(location: object, manifest: Manifest, background: str | None) -> None:
    """Raises DataError if a set was prepared on another background than the one that is asked for (None: any)."""
    if background is not None and color_code(background) != manifest.background:
        on = "by an earlier version, without a background" if manifest.background is None else f"on {manifest.background}"
        raise DataError(f"{location} was prepared {on}, not on {background}: leave out --background, or prepare it again")


def check_packed(folder: Path, manifest: Manifest, verify: bool) -> np.ndarray:
    """Compare the files of a packed set with its manifest, all pixels if `verify`; its labels (N,) int64. Raises DataError
    if they differ."""
    file, needed = folder / "images.u8", manifest.images * 3 * manifest.resolution**2
    try:
        labels = read_labels(folder / "labels.npy", manifest.images, len(manifest.class_names))
        if tuple(np.bincount(labels, minlength=len(manifest.class_names)).tolist()) != manifest.class_counts:
            raise ValueError("labels.npy has other labels than the manifest")
        if file.stat().st_size != needed:
            raise ValueError(f"images.u8 does not hold {manifest.images} images")
        if manifest.blocks:
            check_blocks(file, manifest.blocks)
        if manifest.labels_sha256 not in (None, hashlib.sha256(labels.tobytes()).hexdigest()):
            raise ValueError("labels.npy has changed")
        if verify and file_sha256(file, labels.tobytes()) != manifest.sha256:
            raise ValueError("its images or labels have changed")
    except PermissionError as error:
        raise DataError(f"{folder} cannot be read ({reason_for(error)}): {remedy_for(error)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged ({reason_for(error)}): {prepare_again(folder, manifest)}") from error
    return labels


def check_shards(folder: Path, manifest: Manifest, verify: bool) -> None:
    """Compare the length of each shard in a folder with the manifest, and its sha256 if `verify`. Raises DataError if one
    differs or is missing."""
    for shard in progress_bar(manifest.shards, len(manifest.shards), "verifying", "shards") if verify else manifest.shards:
        file = folder / shard.name
        try:
            with open_regular_file(file) as stream:
                if shard.bytes not in (None, stream.seek(0, io.SEEK_END)):
                    raise ValueError(f"{shard.name} has not its {shard.bytes:,} bytes")
            if verify and shard.sha256 not in (None, file_sha256(file)):
                raise ValueError(f"{shard.name} has changed")
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} is damaged ({error}): {prepare_again(folder, manifest)}") from error


def prepare_again(folder: Path, manifest: Manifest) -> str:
    """What to do about a damaged set."""
    return f"remove the folder and make it again from {manifest.source}, with biggan data prepare --format {manifest.layout}"
