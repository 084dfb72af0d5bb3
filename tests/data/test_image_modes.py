"""Every kind of pixels that files hold against their meaning; damaged metadata; reasons in one line; limits."""

import io
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from biggan.data import image_decoding
from biggan.data.image_decoding import BrokenImage, DecodingMemory, decode
from biggan.data.image_modes import color_code, parse_color, without_metadata
from biggan.runtime.errors import ConfigError

WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data, resolution=32, **options):
    return np.asarray(decode(data, resolution, **options)[0])


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows, width, depth, color_type, *extra):
    """A PNG file made by hand: `rows` are the bytes of each row without filter byte, `extra` chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def noise(size=32):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def disc(hidden):
    """A red disc of 20 pixels in 32; what is around it has alpha 0 and the colors `hidden` (32, 32, 3)."""
    alpha = Image.new("L", (32, 32), 0)
    ImageDraw.Draw(alpha).ellipse((6, 6, 25, 25), fill=255)
    inside = np.asarray(alpha) == 255
    return Image.fromarray(np.dstack([np.where(inside[..., None], RED, hidden), inside * 255]).astype(np.uint8)), inside


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("hidden", [(0, 0, 0), "green noise"])
def test_hidden_colors_do_not_show(kind, hidden):
    image, inside = disc(noise() * np.uint8([0, 1, 0]) if hidden == "green noise" else np.uint8(hidden))
    data = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    whole = np.where(inside[..., None], RED, WHITE)
    assert np.array_equal(decoded(data), whole)
    small = whole.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(decoded(data, 8) - small).max() <= 1, "composed before the areas are averaged"
    assert np.array_equal(decoded(data, background=parse_color("#102030")), np.where(inside[..., None], RED, (16, 32, 48)))


def test_opaque_images_are_as_they_were():
    pixels = noise()
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        assert np.array_equal(decoded(encoded(image), background=BLACK), pixels)


def test_half_transparent_pixels_are_mixed_with_the_background():
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 51))
    assert decoded(encoded(image))[0, 0].tolist() == [244, 204, 204]
    assert decoded(encoded(image), background=BLACK)[0, 0].tolist() == [40, 0, 0]
    gray = Image.new("LA", (32, 32), (100, 51))
    assert decoded(encoded(gray))[0, 0].tolist() == [224] * 3


def test_transparent_palettes():
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 255, 0, 255, 0, 0, 0, 0, 255])
    image.paste(1, (16, 0, 32, 32))
    expected = np.where(np.arange(32)[None, :, None] < 16, WHITE, RED)
    for data in (
        encoded(image, transparency=0),
        encoded(image, transparency=b"\0\xff"),
        encoded(image, "GIF", transparency=0),
    ):
        assert np.array_equal(decoded(data), np.broadcast_to(expected, (32, 32, 3)))
    assert decoded(encoded(image))[0, 0].tolist() == [0, 255, 0], "without tRNS it is a color like others"


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, bytes([0b01010101]), 1, [0, 255] * 4),
        (1, bytes([0b01010101]), 0, [255] * 8),
        (2, bytes([0b00011011, 0b00011011]), 1, [0, 255, 170, 255] * 2),
        (4, bytes([0x01, 0x23, 0x45, 0x67]), 2, [0, 17, 255, 51, 68, 85, 102, 119]),
        (8, bytes(range(8)), 3, [0, 1, 2, 255, 4, 5, 6, 7]),
        (16, struct.pack(">8H", *range(0x1000, 0x1008)), 0x1003, [16, 16, 16, 255, 16, 16, 16, 16]),
    ],
)
def test_a_transparent_gray_is_stated_in_the_depth_of_the_file(depth, row, key, expected):
    data = png([row] * 8, 8, depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
    assert decoded(data, 8)[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize(("depth", "unit"), [(8, "B"), (16, "H")])
def test_a_transparent_color(depth, unit):
    scale = 1 if depth == 8 else 256
    row = struct.pack(f">{'3' + unit}", 10 * scale, 20 * scale, 30 * scale) * 4
    row += struct.pack(f">{'3' + unit}", 10 * scale, 20 * scale, 31 * scale) * 4
    data = png([row] * 8, 8, depth, 2, chunk(b"tRNS", struct.pack(">3H", 10 * scale, 20 * scale, 30 * scale)))
    assert decoded(data, 8)[0].tolist() == [[255] * 3] * 4 + [[10, 20, 31]] * 4


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_the_upper_8_bits(color_type, channels):
    pixel = [0x4DFF, 0x2001, 0xFF00][: channels - channels // 2 % 2 * (channels in (2, 4))] + [0xFFFF] * (channels in (2, 4))
    data = png([struct.pack(f">{channels}H", *pixel) * 8] * 8, 8, 16, color_type)
    expected = [0x4D, 0x20, 0xFF] if channels > 2 else [0x4D] * 3
    assert decoded(data, 8)[0, 0].tolist() == expected


def test_16_bits_in_tiff_and_pgm():
    values = np.full((8, 8), 0x4D01, dtype=np.uint16)
    assert (decoded(encoded(Image.fromarray(values), "TIFF"), 8) == 0x4D).all()
    pgm = b"P5\n8 8\n65535\n" + values.astype(">u2").tobytes()
    assert (decoded(pgm, 8) == 0x4D).all()
    thousand = b"P5\n8 8\n1000\n" + np.full((8, 8), 500, dtype=">u2").tobytes()
    assert (decoded(thousand, 8) == 128).all(), "half of the largest value that the file states"
    dark = np.full((8, 8), 300, dtype=np.uint16)
    assert (decoded(encoded(Image.fromarray(dark), "TIFF"), 8) == 1).all(), "the rule does not depend on the values"


def test_values_without_a_fixed_range_are_refused():
    for values, message in (
        (np.ones((8, 8), dtype=np.float32), "floating-point numbers.*convert it to 8 bits"),
        (np.ones((8, 8), dtype=np.int32), "signed integers: convert it to 8 or 16 bits"),
    ):
        with pytest.raises(BrokenImage, match=message):
            decode(encoded(Image.fromarray(values), "TIFF"), 8)


def test_other_color_spaces():
    red = Image.new("RGB", (8, 8), (200, 30, 30))
    files = {
        "CMYK JPEG, inverted as Adobe does": encoded(red.convert("CMYK"), "JPEG", quality=100),
        "CMYK TIFF": encoded(red.convert("CMYK"), "TIFF"),
        "YCbCr TIFF": encoded(red.convert("YCbCr"), "TIFF"),
        "RGBX": encoded(red.convert("RGBX"), "TIFF"),
    }
    if features.check("littlecms2"):
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        files["LAB"] = encoded(ImageCms.applyTransform(red, transform), "TIFF")
    for kind, data in files.items():
        assert np.abs(decoded(data, 8).astype(int) - (200, 30, 30)).max() <= 3, kind
    assert decoded(encoded(Image.new("1", (8, 8), 1)), 8).min() == 255
    assert decoded(encoded(Image.new("HSV", (8, 8), (0, 255, 255)).convert("RGB")), 8)[0, 0].tolist() == [255, 0, 0]


def test_premultiplied_alpha():
    """TIFF with associated alpha: the stored color is the color times alpha."""
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (259, 3, 1, 1), (277, 3, 1, 0), (278, 3, 1, 8), (338, 3, 1, 1)]
    for values, expected in (((51, 0, 0, 51), (255, 204, 204)), ((51, 51), (255, 255, 255)), ((0, 51), (204, 204, 204))):
        own = [(262, 3, 1, 2 if len(values) == 4 else 1), (273, 4, 1, 200), (279, 4, 1, 64 * len(values))]
        bits = (258, 3, 4, 190) if len(values) == 4 else (258, 3, 2, 8 | 8 << 16)
        entries = sorted([entry for entry in tags if entry[0] != 277] + [*own, bits, (277, 3, 1, len(values))])
        head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
        data = (head + bytes(4)).ljust(190, b"\0") + struct.pack("<4H", 8, 8, 8, 8) + bytes(2) + bytes(values) * 64
        assert np.abs(decoded(data, 8)[0, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_show_their_first_frame(kind):
    red, blue = (Image.new("RGBA", (8, 8), color) for color in ((255, 0, 0, 255), (0, 0, 255, 255)))
    red.putpixel((0, 0), (0, 255, 0, 0))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(red, kind, save_all=True, append_images=[blue], **options)
    pixels = decoded(data, 8)
    assert (pixels[0, 0].tolist(), pixels[4, 4].tolist()) == ([255] * 3, [255, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (1, 65_535)])
def test_extreme_shapes(size):
    image, found = decode(encoded(Image.new("RGB", size, (1, 2, 3))), 32)
    assert (image.size, found, image.getpixel((5, 5))) == ((32, 32), size, (1, 2, 3))


def test_content_decides_not_the_name():
    with pytest.raises(BrokenImage, match="it is no image of the formats PNG, JPEG"):
        decode(b"<html></html>", 8)
    with pytest.raises(BrokenImage, match="it is empty"):
        decode(b"", 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_cut_files_are_broken_with_a_reason_of_one_line(kind):
    data = encoded(Image.fromarray(noise(64)), kind)
    with pytest.raises(BrokenImage) as caught:
        decode(data[: len(data) - 200], 8)
    assert "0x" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def exif(orientation_entry, data=b""):
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + orientation_entry + struct.pack("<I", 0) + data


def with_exif(pixels, block):
    """A JPEG file with these bytes as its APP1 segment."""
    data = encoded(Image.fromarray(pixels), "JPEG", quality=100)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def test_damaged_exif_does_not_make_an_image_unreadable():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    plain = decoded(encoded(Image.fromarray(pixels), "JPEG", quality=100))
    upside_down = exif(struct.pack("<HHIHH", 0x112, 3, 1, 3, 0))
    assert np.array_equal(decoded(with_exif(pixels, upside_down)), plain[::-1, ::-1]), "a sound block is obeyed"
    blocks = {
        "cut": upside_down[:-7],
        "empty": b"Exif\0\0",
        "garbage": b"Exif\0\0" + bytes(range(64)),
        "an offset far away": exif(struct.pack("<HHII", 0x112, 4, 1000, 0x7FFFFFFF)),
        "orientation 9": exif(struct.pack("<HHIHH", 0x112, 3, 1, 9, 0)),
        "orientation as text": exif(struct.pack("<HHI4s", 0x112, 2, 2, b"3\0\0\0")),
        "rational by zero": exif(struct.pack("<HHII", 0x112, 5, 1, 26), struct.pack("<II", 3, 0)),
    }
    for kind, block in blocks.items():
        assert np.array_equal(decoded(with_exif(pixels, block)), plain), kind


def test_damaged_metadata_of_png_files():
    pixels = noise(8)
    rows = [row.tobytes() for row in pixels]
    for extra in (
        chunk(b"eXIf", b"nonsense"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nzzzz\n")),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='"),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"tEXt", b"Comment\0a")[:-1] + b"!",
    ):
        assert np.array_equal(decoded(png(rows, 8, 8, 2, extra), 8), pixels), extra[4:8]
    assert without_metadata(png(rows, 8, 8, 2, chunk(b"tEXt", b"a\0b"))) == png(rows, 8, 8, 2)


def test_absurd_sizes_are_refused_without_a_warning():
    for width, height, message in (
        (20_000, 8_000, "20000x8000 pixels are more than 100,000,000"),
        (9_500, 9_500, "truncated|broken|no image"),  # Pillow would warn of this one
        (100_000, 100_000, "exceeds limit"),
        (1, 100_000_000, "1x100000000 pixels: each side must have 1 to 65,535"),
    ):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        with warnings.catch_warnings(record=True) as caught, pytest.raises(BrokenImage, match=message):
            decode(data, 32)
        assert not caught


def test_large_images_wait_for_memory(monkeypatch):
    monkeypatch.setattr(image_decoding, "total_memory", lambda: 400)
    memory, running, most = DecodingMemory(), [0], [0]

    def work():
        with memory.reserve(50):
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.02)
            running[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2
    with memory.reserve(1000):
        assert memory.used == 1000, "an image that is too large for the rule is decoded alone"


def test_colors():
    assert color_code("white") == color_code("#FFFFFF") == "#ffffff"
    for text in ("", "#fff0", "rgb(1,2,3)", "#gggggg", "whit", "#1234567"):
        with pytest.raises(ConfigError, match="is no color"):
            parse_color(text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(40, 40), (50, 33), (9, 20), (16, 16)])
def test_opaque_images_have_the_pixels_of_pillow(kind, size):
    """Nothing but crop and resampling happens to them: runs go on with the same images."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), kind)
    with Image.open(io.BytesIO(data)) as image:
        side = min(size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.convert("RGB").crop((left, top, left + side, top + side))
        kernel = Image.Resampling.BOX if side > 16 else Image.Resampling.BICUBIC
        expected = np.asarray(image if side == 16 else image.resize((16, 16), kernel))
    assert np.array_equal(decoded(data, 16), expected)
