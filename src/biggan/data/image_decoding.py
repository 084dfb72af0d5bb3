"""Decoding image files to square RGB pixels: the one place that opens images with Pillow."""

import importlib.util
import io
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

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

MAX_IMAGE_PIXELS = 100_000_000  # larger images are refused as decompression bombs


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """Read the header of an image in one of IMAGE_FORMATS. Raises UnidentifiedImageError on any other format.

    Pillow recognizes formats by content, not by file name; without the restriction it would run Ghostscript on
    PostScript."""
    try:
        return Image.open(file, formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"it is no image of the formats {', '.join(IMAGE_FORMATS)}") from error


def decode(data: bytes, resolution: int) -> tuple[Image.Image, Size]:
    """Decode an image to RGB, resolution x resolution pixels. Also returns the original (width, height).

    Center crop along the longer edge, then area resampling (BigGAN appendix C); images that are too small are enlarged with
    bicubic resampling. The EXIF orientation is applied. Pillow raises many kinds of error on damaged data.
    """
    with open_image(io.BytesIO(data)) as image:  # reads the header only, so large images are refused undecoded
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_IMAGE_PIXELS:,}")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    size = image.size
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        filter_ = Image.Resampling.BOX if side > resolution else Image.Resampling.BICUBIC
        image = image.resize((resolution, resolution), filter_)
    return image, size


def decode_pixels(data: bytes, resolution: int) -> tuple[np.ndarray, Size]:
    """As `decode`, with the pixels as an array (3, R, R) uint8."""
    image, size = decode(data, resolution)
    return np.asarray(image).transpose(2, 0, 1), size


def area(size: Size) -> int:
    """Number of pixels of an image of this size."""
    return size[0] * size[1]


def png_bytes(pixels: object) -> bytes:
    """The bytes of a PNG file with the pixels of a uint8 NumPy array."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
