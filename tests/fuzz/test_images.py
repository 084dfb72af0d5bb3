"""Mutated image files: a picture or BrokenImage with one line, never another error, much memory or much time."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biggan.data.image_decoding import BrokenImage, decode

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("P", "L", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr"),
    "PPM": ("1", "L", "RGB", "I;16"),
}


def files(kind):
    """A file of each mode, with EXIF data where the format has it."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for mode in MODES[kind]:
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
        found.append(buffer.getvalue())
    return found


mutations = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.sampled_from(["flip", "set", "cut", "insert", "length"]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def mutate(data, steps):
    """The bytes with a few changes: flipped, set, removed or added bytes, and huge lengths."""
    data = bytearray(data)
    for position, kind, value in steps:
        position %= len(data) + 1
        if kind == "flip" and position < len(data):
            data[position] ^= 1 << value % 8
        elif kind == "set":
            data[position : position + 1] = bytes([value])
        elif kind == "cut":
            del data[position : position + value]
        elif kind == "insert":
            data[position:position] = bytes([value]) * value
        else:
            data[position : position + 4] = struct.pack(">I", 0xFFFFFFFF >> value % 32)
    return bytes(data)


@pytest.mark.parametrize("kind", MODES)
def test_unchanged_files_are_read_or_refused_by_rule(kind):
    for mode, data in zip(MODES[kind], files(kind), strict=True):
        if mode == "F":
            with pytest.raises(BrokenImage, match="floating-point"):
                decode(data, 8)
        else:
            image, size = decode(data, 8)
            assert (image.mode, image.size, sorted(size)) == ("RGB", (8, 8), [10, 12])


@pytest.mark.parametrize("kind", MODES)
@settings(derandomize=True, max_examples=150, deadline=None, database=None)
@given(index=st.integers(0, 20), steps=mutations)
def test_mutated_files(kind, index, steps):
    originals = files(kind)
    data = mutate(originals[index % len(originals)], steps)
    reason = ""
    tracemalloc.start()
    try:
        image, size = decode(data, 8)
        assert (image.mode, image.size) == ("RGB", (8, 8))
        assert min(size) >= 1
    except BrokenImage as error:
        reason = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 300 << 20
    assert len(reason.splitlines()) < 2
    assert "object at 0x" not in reason


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(
    head=st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF", b"II*\0", b"MM\0*", b"GIF89a", b"BM", b"P6 ", b""]
    ),
    rest=st.binary(),
)
def test_any_bytes(head, rest):
    with pytest.raises(BrokenImage):
        decode(head + rest, 8)
