"""A folder of samples: a PNG file per image and samples.json, with a grid of the first images beside the folder.

The folder holds no other image, so that whatever reads it next reads exactly the samples. samples.json lists the files and
says how they were made; it is written first, so that an interrupted sampling can be told from a complete one.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from biggan.data.image_names import is_image
from biggan.runtime.atomic_io import write_file
from biggan.runtime.bounded_io import open_regular_file
from biggan.runtime.errors import ConfigError
from biggan.runtime.json_text import read_json
from biggan.sampling.image_io import make_grid, save_image, to_file_name, to_pil

LISTING = "samples.json"

MAX_LISTING = 1 << 30  # bytes

SAMPLE_NAME = re.compile(r"[0-9]{5,}(-[^/\\]*)?\.png")

MAX_FILE_NAME = 230  # bytes: common file systems allow 255, also for the name while it is written

OF_MODELS = ("config.json", "manifest.json", "generator.safetensors")
"""Files of runs, models and prepared sets, whose folders are no place for samples."""

GRID_IMAGES = 400
"""The grid shows at most so many images, the first ones."""

GRID_MARK = ("Software", "biggan sample")
"""A text in a grid's PNG file, by which it is recognized."""


def write_samples(
    batches: Iterable[Tensor],
    labels: Tensor,
    class_names: Sequence[str],
    folder: str | Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    grid: Path | None = None,
    in_grid: int = GRID_IMAGES,
) -> Path:
    """Write uint8 batches (N, 3, R, R), each as soon as it is drawn: a PNG file per image, named by its number and class (by
    its number alone where there are no class names), and a grid of the first `in_grid` images outside the folder (`grid`;
    None: FOLDER-grid.png beside it). `recipe`: how they were made, for samples.json. Returns the path of the grid.

    Symbolic links are not written through, and nothing is deleted but samples that samples.json lists. Raises ConfigError as
    `check_folder`, OSError where something cannot be written."""
    folder = Path(folder)
    grid = default_grid(folder) if grid is None else grid
    check_folder(folder, overwrite=overwrite, grid=grid)
    names = sample_names(labels, class_names)
    listing = {"complete": False, "count": len(names), **(recipe or {}), "files": names}
    folder.mkdir(parents=True, exist_ok=True)
    grid.parent.mkdir(parents=True, exist_ok=True)
    old = listed_files(folder)
    write_listing(folder, listing | {"files": [*names, *(name for name in old if name not in set(names))]})
    for name in old:
        (folder / name).unlink(missing_ok=True)
    grid_images: list[Tensor] = []
    index = 0
    for batch in batches:
        grid_images += batch[: max(0, in_grid - index)]
        for image in batch:
            save_image(to_pil(image), folder / names[index], durable=False)
            index += 1
    mark = PngInfo()
    mark.add_text(*GRID_MARK)
    picture = make_grid(torch.stack(grid_images), columns=math.ceil(math.sqrt(len(grid_images))))
    save_image(picture, grid, pnginfo=mark)
    write_listing(folder, listing | {"complete": True})
    return grid


def check_folder(folder: Path, *, overwrite: bool, grid: Path | None = None) -> None:
    """Raises ConfigError where samples cannot go into the folder: it is a file, holds images or folders that are not listed
    in its samples.json, or earlier samples without `overwrite`; or where the grid would lie in it or replace a file that is
    no grid. Writes nothing."""
    grid = default_grid(folder) if grid is None else grid
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a folder for the samples")
    listing = read_listing(folder)
    ours = {LISTING, *listed_files(folder)}
    foreign = sorted(
        entry.name
        for entry in (os.scandir(folder) if folder.is_dir() else ())
        if not (entry.name in ours and entry.is_file(follow_symlinks=False))
        and (entry.name in (LISTING, *OF_MODELS) or entry.is_dir() or is_image(Path(entry.path)))
        and not entry.name.startswith(".")
    )
    if foreign:
        raise ConfigError(f"{folder} holds other things than samples ({foreign[0]}): give another folder")
    if listing is not None and not overwrite:
        state = "samples" if listing.get("complete") is True else "samples of an interrupted command"
        raise ConfigError(f"{folder} holds {state}: --overwrite (overwrite=True) replaces them, or give another folder")
    check_grid(folder, grid)


def check_grid(folder: Path, grid: Path) -> None:
    """Raises ConfigError where a grid cannot be written to this path, as far as can be known before."""
    if grid.suffix != ".png" or len(os.fsencode(grid.name)) > MAX_FILE_NAME:
        raise ConfigError(f"the grid is a .png file with a name of at most {MAX_FILE_NAME} bytes, not {grid.name[:300]}")
    parent = Path(os.path.realpath(grid.parent))
    if Path(os.path.realpath(folder)) in (parent, *parent.parents):
        raise ConfigError(f"the grid {grid} would lie among the samples: give a path outside of {folder}")
    if os.path.lexists(grid) and not is_grid(grid):
        raise ConfigError(f"{grid}, where the grid belongs, is something else: move it, or give another folder")


def default_grid(folder: Path) -> Path:
    """FOLDER-grid.png, beside the folder."""
    named = folder if folder.name not in ("", "..") else Path(os.path.realpath(folder))
    return named.with_name(f"{named.name}-grid.png") if named.name else named / "samples-grid.png"


def is_grid(file: Path) -> bool:
    """Whether a file is a grid that was written here; never through a symbolic link."""
    if file.is_symlink() or not file.is_file():
        return False
    with open_regular_file(file) as stream:
        return b"tEXt" + "\0".join(GRID_MARK).encode() in stream.read(1024)


def sample_names(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Names of the files: "00012-cat.png", or "00012.png" where there are no class names."""
    parts = [f"-{to_file_name(name)}" for name in class_names] or [""]
    return [f"{index:05d}{parts[label]}.png" for index, label in enumerate(labels.tolist())]


def read_listing(folder: Path) -> dict[str, Any] | None:
    """What samples.json of a folder says; None: there is none. Raises ConfigError where it cannot be read."""
    file = folder / LISTING
    if not file.is_file() or file.is_symlink():
        return None
    try:
        return read_json(file, limit=MAX_LISTING)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}): give another folder, or empty this one") from error


def listed_files(folder: Path) -> list[str]:
    """The names of samples that samples.json lists, if they are names of samples."""
    files = (read_listing(folder) or {}).get("files")
    names = files if isinstance(files, list) else []
    return [name for name in names if isinstance(name, str) and SAMPLE_NAME.fullmatch(name)]


def write_listing(folder: Path, listing: Mapping[str, Any]) -> None:
    """Write samples.json atomically. Raises OSError."""
    write_file(folder / LISTING, (json.dumps(listing, indent=1) + "\n").encode())
