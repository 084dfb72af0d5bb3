"""How a prepared set is kept: packed, one memory-mapped file of pixels, or wds, WebDataset shards.

packed: images.u8 (N, 3, R, R) uint8 without a head, and labels.npy. wds: tar files in which every image has its class's
number beside it, written by the webdataset library. Not here: how a set is gone through (see prepare), reading shards.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch

from biggan.data.loader import ResidentSource
from biggan.data.manifest import Shard, read_manifest
from biggan.data.sources import Listing, decode
from biggan.data.webdataset import LANES, webdataset
from biggan.runtime.atomic_io import write_stream
from biggan.runtime.errors import DataError
from biggan.runtime.rng import addressed_rng

CHUNK = 1024  # packed images that are written at a time

Size = tuple[int, int]

"""(width, height)"""


class Layout(Protocol):
    """How images are kept in the folder."""

    name: str
    files: tuple[str, ...]
    """Patterns of the files that it makes."""

    def chunks(self, count: int) -> list[Sequence[int]]:
        """The images of each piece that is written as a whole."""
        ...

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """What is kept of one image, and the size that it had. Raises whatever a damaged file raises."""
        ...

    def write(self, out: Path, number: int, before: int, images: list[tuple[str, int, bytes]]) -> Shard | None:
        """Keep the chunk `number` of (file name, label, encoded); `before`: how many images stand there already."""
        ...

    def holds(self, out: Path, kept: int, shard: Shard | None) -> bool:
        """Whether what was noted of a chunk, after which there were `kept` images, still stands there."""
        ...

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        """Of all images, in order. May write what else belongs to the set."""
        ...


class Packed:
    """All images as uint8 in one file, in the order of the listing."""

    name = "packed"
    files = ("images.u8", "labels.npy")

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def chunks(self, count: int) -> list[Sequence[int]]:
        return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The pixels (3, R, R)."""
        pixels, size = pixels_of(listing, index, resolution=self.resolution)
        return pixels.tobytes(), size

    def write(self, out: Path, number: int, before: int, images: list[tuple[str, int, bytes]]) -> None:
        """Append to images.u8, over whatever came after the last note."""
        file = out / "images.u8"
        with open(file, "r+b" if file.exists() else "w+b") as stream:
            stream.truncate(before * 3 * self.resolution**2)  # what came after the last note is done again
            stream.seek(0, os.SEEK_END)
            stream.writelines(encoded for _, _, encoded in images)
            stream.flush()
            os.fsync(stream.fileno())

    def holds(self, out: Path, kept: int, shard: Shard | None) -> bool:
        file = out / "images.u8"
        return file.exists() and file.stat().st_size >= kept * 3 * self.resolution**2

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        np.save(out / "labels.npy", labels)
        return sha256_of(out / "images.u8", labels.tobytes())


class Shards:
    """WebDataset tar files: each image a file with its class's number beside it (.cls), in a fixed random order.

    Images that have the resolution already are kept as they are; others as PNG, or as JPEG of the given quality.
    """

    name = "wds"
    files = ("shard-*.tar",)

    def __init__(self, resolution: int, *, shard_images: int = 1000, quality: int | None = None) -> None:
        self.resolution, self.shard_images, self.quality = resolution, shard_images, quality

    def chunks(self, count: int) -> list[Sequence[int]]:
        """Equal shards, and enough of them for several to be read at once."""
        shards = max(-(-count // self.shard_images), min(LANES, count))
        order = torch.randperm(count, generator=addressed_rng(0, "order in shards"))
        return [part.tolist() for part in order.tensor_split(shards)]

    def encode(self, listing: Listing, index: int) -> tuple[bytes, Size]:
        """The file as it is, if it has the resolution, else a new one."""
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

    def write(self, out: Path, number: int, before: int, images: list[tuple[str, int, bytes]]) -> Shard:
        """One shard, whole or not at all."""
        file = out / f"shard-{number:06d}.tar"
        buffer = io.BytesIO()
        with webdataset().TarWriter(buffer, encoder=False, mtime=0) as tar:  # no clock: a set is the same each time
            for place, (_, label, encoded) in enumerate(images):
                suffix = "png" if encoded.startswith(b"\x89PNG") else "jpg"
                tar.write({"__key__": f"{before + place:09d}", suffix: encoded, "cls": str(label).encode()})
        write_stream(file, [buffer.getbuffer()])
        return Shard(file.name, len(images), buffer.getbuffer().nbytes, hashlib.sha256(buffer.getbuffer()).hexdigest())

    def holds(self, out: Path, kept: int, shard: Shard | None) -> bool:
        file = out / shard.name
        return file.exists() and file.stat().st_size == shard.bytes

    def checksum(self, out: Path, labels: np.ndarray, shards: tuple[Shard, ...]) -> str:
        return hashlib.sha256(" ".join(shard.sha256 for shard in shards).encode()).hexdigest()


def open_packed(folder: Path, resolution: int, *, flip: bool) -> ResidentSource:
    """A packed set, its images mapped and not read. Raises DataError where it is of another resolution or damaged."""
    manifest = read_manifest(folder, "packed")
    if manifest.resolution != resolution:
        raise DataError(
            f"{folder} is packed at {manifest.resolution} px, the model takes {resolution}: use --model.resolution "
            f"{manifest.resolution}, or prepare the set again"
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


def pixels_of(listing: Listing, index: int, *, resolution: int) -> tuple[np.ndarray, Size]:
    """The pixels (3, R, R) uint8 of one image and the size that it had."""
    image, size = decode(listing.read(listing.images[index]), resolution)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), size


def sha256_of(file: Path, *more: bytes) -> str:
    """Of a file, then of what follows it."""
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    for data in more:
        digest.update(data)
    return digest.hexdigest()
