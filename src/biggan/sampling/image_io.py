"""Images as uint8 tensors, grids, and PNG files. Shapes: N images, R resolution."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 on the CPU."""
    return x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).contiguous().cpu()


def write_pictures(
    batches: Iterable[Tensor], labels: Tensor, class_names: Sequence[str], folder: str | Path, *, in_grid: int = 400
) -> Path:
    """Write uint8 batches as they come, one PNG per image named by number and class, and grid.png with the first
    `in_grid`; returns the grid's path. Raises OSError where the folder cannot be written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names, shown, index = labels.tolist(), [], 0
    for batch in batches:
        shown += batch[: max(0, in_grid - index)]
        for image in batch:
            to_picture(image).save(folder / f"{index:05d}-{file_name_of(class_names[names[index]])}.png")
            index += 1
    grid = folder / "grid.png"
    sheet(torch.stack(shown), columns=math.ceil(math.sqrt(len(shown)))).save(grid)
    return grid


def sheet(images_uint8: Tensor, *, columns: int, border: int = 1) -> Image.Image:
    """Images (N, 3, R, R) side by side in rows of `columns`, on black, with `border` pixels between."""
    count, _, resolution, _ = images_uint8.shape
    rows = math.ceil(count / columns)
    cell = resolution + border
    canvas = torch.zeros(3, rows * cell + border, columns * cell + border, dtype=torch.uint8)
    for index, image in enumerate(images_uint8):
        top, left = border + index // columns * cell, border + index % columns * cell
        canvas[:, top : top + resolution, left : left + resolution] = image
    return to_picture(canvas)


def to_picture(image_uint8: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> a Pillow image."""
    return Image.fromarray(image_uint8.permute(1, 2, 0).numpy())


def file_name_of(class_name: str) -> str:
    """A class name with everything but letters, digits, '_' and '-' replaced."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in class_name)
