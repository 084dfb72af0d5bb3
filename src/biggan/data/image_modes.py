"""Pixels of every kind that image files hold - gray, palettes, transparency, 16 bits, CMYK - as RGB of 8 bits.

Transparent pixels are composed on a ground of one color, before anything is resized: the color that a file stores under
an alpha of 0 is arbitrary and must not show. 16-bit values keep their upper 8 bits. Color profiles (ICC) are not applied."""

import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor

from biggan.runtime.errors import ConfigError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # modes of Pillow

PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME")  # chunks that do not affect the pixels

JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APP1 to APP13, APP15 and comments; APP14 says what the channels are


def parse_color(text: str) -> tuple[int, int, int]:
    """The (red, green, blue), 0 to 255, of "white", "black", another name of CSS, or "#rrggbb". Raises ConfigError."""
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text) or text.lower() in ImageColor.colormap:
        red, green, blue = ImageColor.getrgb(text)[:3]
        return red, green, blue
    raise ConfigError(f"background {text!r:.50} is no color: use a name such as white or black, or #rrggbb")


def color_code(text: str) -> str:
    """A color as "#rrggbb". Raises ConfigError as `parse_color`."""
    return "#{:02x}{:02x}{:02x}".format(*parse_color(text))


def has_transparency(image: Image.Image) -> bool:
    """Whether an image has an alpha channel, a transparent color or transparent colors in its palette."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info or palette_has_alpha(image)


def palette_has_alpha(image: Image.Image) -> bool:
    """Whether the colors of a palette have an alpha value each."""
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def to_rgb(image: Image.Image, data: bytes, background: tuple[int, int, int]) -> Image.Image:
    """A loaded image as RGB on the background. `data`: the bytes of its file. Raises ValueError on pixels without a fixed
    range."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no fixed range: convert it to 8 bits")
    opaque = None if "transparency" not in image.info or image.mode == "P" else opaque_pixels(image, data)
    image.info.pop("transparency", None) if opaque is not None else None
    if image.mode == "I" or image.mode in SIXTEEN_BITS:
        image = Image.fromarray(upper_8_bits(image))
    if opaque is None and not has_transparency(image):
        return image.convert("RGB")
    if image.mode == "La":  # Pillow knows only the way to LA
        image = image.convert("LA")
    alpha = image.convert("RGBA").getchannel("A") if opaque is None else Image.fromarray(opaque.astype(np.uint8) * 255)
    ground = Image.new("RGB", image.size, background)
    ground.paste(image.convert("RGBA").convert("RGB"), mask=alpha)
    return ground


def upper_8_bits(image: Image.Image) -> np.ndarray:
    """The upper 8 bits of 16-bit gray values, uint8 (H, W). Raises ValueError on 32-bit and on signed integers.

    How many bits a value has is the file's statement, not a guess from its values: Pillow reads PNG and PPM of 16 bits as
    mode I too, and TIFF of 12 bits as mode I;16."""
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(258, (16,))[0], tags.get(339, (1,))[0] == 2  # BitsPerSample, SampleFormat
    if image.mode == "I" and (signed or bits != 16):
        raise ValueError(f"its pixels are {'signed' if signed else f'{bits}-bit'} integers: convert it to 8 or 16 bits")
    values = np.asarray(image).astype(np.int32) >> bits - 8
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white, which Pillow ignores for 16 bits
        values = 255 - values
    return values.clip(0, 255).astype(np.uint8)


def opaque_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """Which pixels of a gray or RGB image are not of the one color that its file declares transparent: bool (H, W).

    A PNG file states that color in its own bit depth (PNG specification, tRNS). Pillow reduces 16-bit RGB to 8 bits, so for
    that the upper 8 bits are compared."""
    pixels = np.asarray(image)
    pixels = pixels.astype(np.uint8) * 255 if image.mode == "1" else pixels
    key = np.array(image.info["transparency"])
    if data.startswith(PNG_SIGNATURE):
        body = next((body for kind, body in png_chunks(data) if kind == b"tRNS"), b"")
        depth, count = data[24], 3 if image.mode == "RGB" else 1
        if len(body) < 2 * count:
            raise ValueError("its transparent color is damaged")
        key = np.array(struct.unpack_from(f">{count}H", body))
        if depth == 16 and image.mode == "RGB":
            key >>= 8
        elif depth < 16:
            key = (key & (1 << depth) - 1) * (255 // ((1 << depth) - 1))
    different = pixels != (key if image.mode == "RGB" else key.reshape(()) if key.size == 1 else key[0])
    return different.any(axis=2) if image.mode == "RGB" else different


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each whole chunk of a PNG file, in order."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            return
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def without_metadata(data: bytes) -> bytes:
    """A PNG or JPEG file without texts, profiles and EXIF; any other file, and what follows a cut, as it is."""
    if data.startswith(PNG_SIGNATURE):
        position, kept = len(PNG_SIGNATURE), [PNG_SIGNATURE]
        for kind, body in png_chunks(data):
            end = position + 12 + len(body)
            if kind not in PNG_METADATA:
                kept.append(data[position:end])
            position = end
        return b"".join([*kept, data[position:]])
    if data.startswith(b"\xff\xd8"):
        position, kept = 2, [data[:2]]
        while data[position : position + 1] == b"\xff" and position + 4 <= len(data) and data[position + 1] != 0xDA:
            (length,) = struct.unpack_from(">H", data, position + 2)
            if data[position + 1] not in JPEG_METADATA:
                kept.append(data[position : position + 2 + length])
            position += 2 + length
        return b"".join([*kept, data[position:]])
    return data
