"""Conversion of generated images to uint8 and Pillow, image grids, and file names.

Shapes: N images, H height, W width, R resolution.
"""

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from biggan.runtime.atomic_io import atomic_path


def to_uint8(x: Tensor) -> Tensor:
    """Images (N, 3, R, R) in [-1, 1] -> uint8 (N, 3, R, R) on the CPU."""
    return x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).contiguous().cpu()


def save_image(image: Image.Image, file: Path, *, durable: bool = True, **options: Any) -> None:
    """Write an image file, whole or not at all, in the format of its suffix; `options` are Pillow's, `durable` as in
    `atomic_path`. Raises OSError, and ValueError on a suffix that is none of an image."""
    with atomic_path(file, durable=durable) as scratch:
        image.save(scratch, **options)


def make_grid(images_uint8: Tensor, *, columns: int, border: int = 1) -> Image.Image:
    """Images (N, 3, R, R) in rows of `columns`, on black, with `border` pixels around each."""
    count, _, resolution, _ = images_uint8.shape
    rows = math.ceil(count / columns)
    cell = resolution + border
    canvas = torch.zeros(3, rows * cell + border, columns * cell + border, dtype=torch.uint8)
    for index, image in enumerate(images_uint8):
        top, left = border + index // columns * cell, border + index % columns * cell
        canvas[:, top : top + resolution, left : left + resolution] = image
    return to_pil(canvas)


def to_pil(image_uint8: Tensor) -> Image.Image:
    """A uint8 image (3, H, W) -> a Pillow image."""
    return Image.fromarray(image_uint8.permute(1, 2, 0).numpy())


def to_file_name(class_name: str) -> str:
    """A class name with every character but letters, digits, "_" and "-" replaced by "_", cut to 150 bytes of UTF-8."""
    name = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in class_name)
    return name.encode()[:150].decode(errors="ignore")
