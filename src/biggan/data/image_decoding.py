"""Decoding image files to square RGB pixels: the one place that opens images with Pillow."""

import contextlib
import importlib.util
import io
import math
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from biggan.data.image_modes import to_rgb, without_metadata
from biggan.runtime.environment import local_world_size
from biggan.runtime.errors import first_line
from biggan.runtime.memory import total_memory

Size = tuple[int, int]
"""(width, height) in pixels."""


def optional_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that depend on how it was built and on what is installed beside it."""
    names: tuple[str, ...] = ()
    if importlib.util.find_spec("PIL.AvifImagePlugin") and features.check_module("avif"):
        names += ("AVIF",)
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        names += ("HEIF",)
    return names


IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *optional_formats())  # names in Pillow
WHITE = (255, 255, 255)

DECODING = 2
"""Version of the rules by which a file becomes pixels; increased when pixels change, so that older ones are not used."""


MAX_IMAGE_PIXELS = 100_000_000  # larger images are refused as decompression bombs

MAX_IMAGE_SIDE = 65_535  # pixels

PIXEL_BYTES = 16  # memory that decoding takes for each pixel, with all copies, at most

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What is done to an image for each value of the EXIF tag 0x0112; for all other values, nothing."""

PILLOW = r"PIL\."
WARNINGS = threading.Lock()


class BrokenImage(ValueError):
    """An image file that cannot be decoded. The message, of one line, is the reason."""


class DecodingMemory:
    """Limits the memory of images that are decoded at the same time, by the threads of all ranks of a machine, to a quarter
    of the machine's."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.used = 0

    @contextlib.contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until `needed` bytes are free, or until no other image is decoded, and hold them."""
        with self.condition:
            memory = total_memory()
            limit = math.inf if memory is None else memory / 4 / local_world_size()
            self.condition.wait_for(lambda: self.used == 0 or self.used + needed <= limit)
            self.used += needed
        try:
            yield
        finally:
            with self.condition:
                self.used -= needed
                self.condition.notify_all()


MEMORY = DecodingMemory()


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """Read the header of an image in one of IMAGE_FORMATS. Raises UnidentifiedImageError on any other format.

    Pillow recognizes formats by content, not by file name; without the restriction it would run Ghostscript on
    PostScript."""
    ignore_warnings_of_pillow()
    try:
        return Image.open(file, formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"it is no image of the formats {', '.join(IMAGE_FORMATS)}") from error


def ignore_warnings_of_pillow() -> None:
    """Let Pillow's remarks about metadata and sizes reach nobody: sizes are limited here, and metadata is not used."""
    with WARNINGS:  # warnings.catch_warnings is not safe in threads
        if not any(rule[0] == "ignore" and rule[3] == re.compile(PILLOW) for rule in warnings.filters):
            warnings.filterwarnings("ignore", module=PILLOW)


def decode(data: bytes, resolution: int, background: tuple[int, int, int] = WHITE) -> tuple[Image.Image, Size]:
    """Decode an image to RGB, resolution x resolution pixels. Also returns the original (width, height).

    Center crop along the longer edge, then area resampling (BigGAN appendix C); images that are too small are enlarged with
    bicubic resampling. The EXIF orientation is applied; of animations the first frame is taken. Transparent pixels show the
    background (red, green, blue). Raises BrokenImage, and nothing else, on damaged data and on images that are refused.
    """
    if not data:
        raise BrokenImage("it is empty")
    try:
        try:
            return decode_once(data, resolution, background)
        except Exception:
            plain = without_metadata(data)  # Pillow refuses some files for their texts or profiles alone
            if len(plain) == len(data):
                raise
            return decode_once(plain, resolution, background)
    except Exception as error:  # Pillow raises many kinds of error
        reason = re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "the file", first_line(error))
        raise BrokenImage(reason) from error


def decode_once(data: bytes, resolution: int, background: tuple[int, int, int]) -> tuple[Image.Image, Size]:
    """As `decode`. Raises any exception on damaged data."""
    with open_image(io.BytesIO(data)) as image:  # reads the header only, so large images are refused undecoded
        check_size(image.size)
        with MEMORY.reserve(PIXEL_BYTES * area(image.size)):
            image.load()
            check_size(image.size)
            pixels = to_rgb(image, data, background)
            orientation = read_orientation(image)
            if orientation in ORIENTATIONS:
                pixels = pixels.transpose(ORIENTATIONS[orientation])
            return square(pixels, resolution), pixels.size


def check_size(size: Size) -> None:
    """Raises ValueError if an image of this size takes too much memory, and on one without pixels."""
    width, height = size
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_IMAGE_PIXELS:,}")
    if max(size) > MAX_IMAGE_SIDE or min(size) < 1:
        raise ValueError(f"{width}x{height} pixels: each side must have 1 to {MAX_IMAGE_SIDE:,}")


def read_orientation(image: Image.Image) -> object:
    """The EXIF orientation of a loaded image, 1 to 8; None where there is none, or where the EXIF data is damaged."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # Pillow raises many kinds of error; the pixels are sound
        return None
    return orientation if isinstance(orientation, int) else None


def square(image: Image.Image, resolution: int) -> Image.Image:
    """The central square of an image, resized."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        filter_ = Image.Resampling.BOX if side > resolution else Image.Resampling.BICUBIC
        image = image.resize((resolution, resolution), filter_)
    return image


def decode_pixels(data: bytes, resolution: int, background: tuple[int, int, int] = WHITE) -> tuple[np.ndarray, Size]:
    """As `decode`, with the pixels as an array (3, R, R) uint8."""
    image, size = decode(data, resolution, background)
    return np.asarray(image).transpose(2, 0, 1), size


def area(size: Size) -> int:
    """Number of pixels of an image of this size."""
    return size[0] * size[1]


def png_bytes(pixels: object) -> bytes:
    """The bytes of a PNG file with the pixels of a uint8 NumPy array."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
