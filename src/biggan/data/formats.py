"""The file layouts of prepared data sets: packed (one memory-mapped file of pixels) and wds (WebDataset shards).

packed: images.u8, the pixels (N, 3, R, R) as uint8 without a header, and labels.npy. wds: tar files in which each image
has a .cls file with its class number beside it, written by the webdataset library."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch

from biggan.data.image_decoding import Size, decode
from biggan.data.loader import ResidentSource
from biggan.data.manifest import Shard, read_manifest
from biggan.data.sources import Listing
from biggan.data.webdataset import MAX_READERS
from biggan.data.webdataset_io import import_webdataset
from biggan.runtime.atomic_io import file_sha256, write_stream
from biggan.runtime.errors import DataError
from biggan.runtime.rng import addressed_rng

PACKED_CHUNK = 1024  # images that are appended to images.u8 at a time


class Layout(Protocol):
    """A way to store the images of a prepared set in a folder. Its attributes are part of the set's identity."""

    name: str
    resolution: int
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

    def is_intact(self, out: Path, stop: int, shard: Shard | None) -> bool:
        """Whether a chunk that was written earlier is still on disk: it ends after `stop` images of the set, in `shard`
        if it has a file of its own."""
        ...

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        """sha256 of all images in order, as documented at Manifest.sha256. May also write further files of the set."""
        ...


class Packed:
    """All images as uint8 pixels in one file, in the order of the listing."""

    name = "packed"
    files = ("images.u8", "labels.npy")

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def chunks(self, count: int) -> list[Sequence[int]]:
        return [range(start, min(start + PACKED_CHUNK, count)) for start in range(0, count, PACKED_CHUNK)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The uint8 pixels (3, R, R) and the original size of one image."""
        pixels, size = listing.decode_image(index, self.resolution)
        return pixels.tobytes(), size

    def write(self, out: Path, number: int, start: int, images: list[tuple[str, int, bytes]]) -> None:
        """Write the images to images.u8 after the first `start`, and overwrite anything that follows them."""
        file = out / "images.u8"
        with open(file, "r+b" if file.exists() else "w+b") as stream:
            stream.truncate(start * 3 * self.resolution**2)  # an interrupted run may have written a part of this chunk
            stream.seek(0, os.SEEK_END)
            stream.writelines(encoded for _, _, encoded in images)
            stream.flush()
            os.fsync(stream.fileno())

    def is_intact(self, out: Path, stop: int, shard: Shard | None) -> bool:
        file = out / "images.u8"
        return file.exists() and file.stat().st_size >= stop * 3 * self.resolution**2

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        np.save(out / "labels.npy", labels)
        return file_sha256(out / "images.u8", labels.tobytes())


class Shards:
    """WebDataset tar files in a fixed random order: each image with its class number in a .cls file beside it.

    Square PNG and JPEG files that already have the resolution are copied; other images are stored as PNG, or as JPEG of the
    given quality (1 to 100). `shard_images` is the largest number of images in a shard.
    """

    name = "wds"
    files = ("shard-*.tar",)

    def __init__(self, resolution: int, *, shard_images: int = 1000, quality: int | None = None) -> None:
        self.resolution, self.shard_images, self.quality = resolution, shard_images, quality

    def chunks(self, count: int) -> list[Sequence[int]]:
        """Shards of equal size, and enough of them to be read by MAX_READERS readers at once."""
        shards = max(-(-count // self.shard_images), min(MAX_READERS, count))
        order = torch.randperm(count, generator=addressed_rng(0, "order in shards"))
        return [indices.tolist() for indices in order.tensor_split(shards)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The original file if it has the resolution, else a newly encoded one; and the original size."""
        name = listing.images[index]
        data = listing.read(name)
        image, size = decode(data, self.resolution)
        if size == image.size and PurePosixPath(name).suffix.lower() in {".png", ".jpg", ".jpeg"}:
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

    def is_intact(self, out: Path, stop: int, shard: Shard | None) -> bool:
        file = out / shard.name
        return file.exists() and file.stat().st_size == shard.bytes

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        return hashlib.sha256(" ".join(shard.sha256 for shard in shards).encode()).hexdigest()


def open_packed(folder: Path, resolution: int, *, flip: bool) -> ResidentSource:
    """Open a packed set with its images memory-mapped. Raises DataError on another resolution and on damaged files."""
    manifest = read_manifest(folder, "packed")
    if manifest.resolution != resolution:
        raise DataError(
            f"{folder} is packed at {manifest.resolution} px, not at {resolution}: use that size "
            f"(--model.resolution {manifest.resolution} of biggan train), or prepare the set again"
        )
    shape = (manifest.images, 3, resolution, resolution)
    try:
        images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="c", shape=shape)
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged ({error}): prepare the set again") from error
    if (folder / "images.u8").stat().st_size != images.nbytes or labels.shape != shape[:1]:
        raise DataError(f"{folder} is damaged: its files do not hold {manifest.images} images: prepare the set again")
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
    )
