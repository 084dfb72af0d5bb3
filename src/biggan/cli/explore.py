"""biggan interpolate, mix, neighbors: a generator between and beside its training images."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import tyro
from torch import Tensor

from biggan.cli.common import check_between, check_out_file, parse, save_image_grid, writing_to
from biggan.cli.inputs import (
    ScoringOptions,
    check_extractor_options,
    chosen_classes,
    load_sampler,
    open_real,
    open_scoring_extractor,
)
from biggan.cli.output import say
from biggan.runtime.environment import SINGLE_PROCESS
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import DeviceName
from biggan.runtime.progress import image_progress_bar

MAX_ON_SHEET = 100_000  # images
MAX_PIXELS = 1 << 28  # of a sheet

if TYPE_CHECKING:
    from biggan.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class InterpolateCommand:
    """Walk between latents, between classes, or both: a sheet with a row for each walk, a GIF or an MP4 that plays them."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    between: Literal["latents", "classes", "both"] | None = None
    """latents: the class stays; classes: the latent stays; None: both, or latents where the generator has no classes."""
    classes: str | None = None
    """Names with commas between them: the stops; None: all classes in rotation. As for biggan sample."""
    rows: int = 6
    """How many walks."""
    steps: int = 9
    """Images on each, its ends included."""
    interpolation: Literal["spherical", "linear"] = "spherical"
    """Of latents; class embeddings are interpolated linearly."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; None: no truncation."""
    seed: int = 0
    """Seed of the latents."""
    device: DeviceName = "auto"
    """auto: CUDA if there is a GPU, else the CPU."""
    out: Path = Path("interpolation.png")
    """.png: a sheet; .gif or .mp4: the steps one after the other."""


@dataclass(frozen=True, kw_only=True)
class MixCommand:
    """Images of a mixture of classes, beside those of each class alone."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    classes: str
    """Each class and its weight: cat:0.6,dog:0.4. Names are as for biggan sample: "\\," is a comma in a name."""
    n: int = 10
    """Images in a row."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; None: no truncation."""
    seed: int = 0
    """Seed of the latents."""
    device: DeviceName = "auto"
    """auto: CUDA if there is a GPU, else the CPU."""
    out: Path = Path("mix.png")
    """Image file to write."""


@dataclass(frozen=True, kw_only=True)
class NeighborsCommand(ScoringOptions):
    """The real images nearest to generated ones: does the generator copy?"""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    extractor: str = "pixels"
    """What nearness is measured by: pixels, inception, dinov2 or module:FILE, whose code is run: see --trust-extractor."""
    classes: str | None = None
    """Names with commas between them; None: all classes in rotation. As for biggan sample."""
    n: int = 10
    """How many generated images, a row each."""
    count: int = 8
    """Real images beside each."""
    truncation: float | None = None
    """Resample every latent coordinate until it is at most this far from 0; None: no truncation."""
    out: Path = Path("neighbors.png")
    """Image file to write."""


def interpolate(arguments: list[str]) -> int:
    """biggan interpolate RUN [options]"""
    command = parse(InterpolateCommand, arguments, "biggan interpolate")
    check_between(rows=(command.rows, 1, MAX_ON_SHEET), steps=(command.steps, 2, MAX_ON_SHEET))
    check_out_file(command.out, (".png", ".gif", ".mp4"))
    if command.between == "classes" and command.interpolation != "spherical":
        raise ConfigError(f"--interpolation {command.interpolation} is of latents, which stay with --between classes")
    from biggan.analysis.latent_space import interpolate_images

    sampler = load_sampler(command.model, command.device, SINGLE_PROCESS)
    classes = chosen_classes(sampler, command.classes)
    check_sheet(command.rows * command.steps, sampler)
    images = interpolate_images(
        sampler,
        command.between or ("both" if sampler.is_conditional else "latents"),
        sampler.class_indices(None) if classes is None and sampler.is_conditional else classes or [],
        rows=command.rows,
        steps=command.steps,
        interpolation=command.interpolation,
        truncation=command.truncation,
        seed=command.seed,
    )
    if command.out.suffix == ".png":
        save_image_grid(images.flatten(0, 1), command.steps, command.out)
    else:
        write_video(images.transpose(0, 1), command.out)
    say(f"{command.rows} walks of {command.steps} images: {command.out}")
    return 0


def mix(arguments: list[str]) -> int:
    """biggan mix RUN --classes A:0.6,B:0.4 [options]"""
    command = parse(MixCommand, arguments, "biggan mix")
    check_between(n=(command.n, 1, MAX_ON_SHEET))
    check_out_file(command.out)
    from biggan.analysis.latent_space import mix_classes, parse_class_weights

    sampler = load_sampler(command.model, command.device, SINGLE_PROCESS)
    weights_K = parse_class_weights(command.classes, sampler)
    parts = weights_K.nonzero().flatten().tolist()
    check_sheet(command.n * (1 + len(parts)), sampler)
    rows = [weights_K, *torch.eye(len(weights_K))[parts]]
    options = {"truncation": command.truncation, "seed": command.seed}
    save_image_grid(torch.cat([mix_classes(sampler, row, command.n, **options) for row in rows]), command.n, command.out)
    shares = ", ".join(f"{weights_K[number]:.0%} {sampler.class_names[number]}" for number in parts)
    say(f"first row {shares}; then each alone: {command.out}")
    return 0


def neighbors(arguments: list[str]) -> int:
    """biggan neighbors RUN --data SOURCE [options]"""
    command = parse(NeighborsCommand, arguments, "biggan neighbors")
    check_between(n=(command.n, 1, MAX_ON_SHEET), count=(command.count, 1, MAX_ON_SHEET))
    check_out_file(command.out)
    if command.data is None:
        raise ConfigError("neighbors are real images: add --data SOURCE")
    if command.extractor == "pixels" and (command.bf16 or command.extractor_weights or command.trust_extractor):
        raise ConfigError("--bf16, --extractor-weights and --trust-extractor need another --extractor than pixels")
    check_extractor_options(command)
    from biggan.analysis.nearest_neighbors import find_nearest_neighbors

    sampler = load_sampler(command.model, command.device, SINGLE_PROCESS, command.cache)
    check_sheet(command.n * (1 + command.count), sampler)
    real = open_real(command, command.data, sampler.generator.config.resolution, SINGLE_PROCESS, labels=command.labels)
    extractor = None if command.extractor == "pixels" else open_scoring_extractor(command)
    classes = chosen_classes(sampler, command.classes)
    samples = sampler.sample(command.n, classes=classes, truncation=command.truncation, seed=command.seed)
    count = min(command.count, real.count)
    batches = image_progress_bar(real.batches(real.count), real.count, "comparing")
    found = find_nearest_neighbors(samples.images, batches, extractor, count)
    rows = torch.cat([samples.images[:, None], found.images], dim=1)  # (N, 1 + count, 3, R, R)
    save_image_grid(rows.flatten(0, 1), 1 + count, command.out)
    say("distances of the nearest, by " + command.extractor)
    for number, (label, distances) in enumerate(zip(samples.labels.tolist(), found.distances.tolist(), strict=True)):
        shown = " ".join(f"{distance:.4g}" for distance in distances)
        name = sampler.class_names[label] if sampler.is_conditional else ""
        say(f"  {number:3} {name:16} {shown}")
    say(f"first column generated, then real images, nearest first: {command.out}")
    return 0


def check_sheet(images: int, sampler: "Sampler") -> None:
    """Raises ConfigError where so many images of the generator make too large a sheet."""
    resolution = sampler.generator.config.resolution
    if images * resolution**2 > MAX_PIXELS:
        most = MAX_PIXELS // resolution**2
        raise ConfigError(
            f"{images:,} images of {resolution} px are too many for a sheet, which holds {most:,}: ask for fewer"
        )


def count_frames(video: Path) -> int:
    """How many frames of an MP4 can be read; ffmpeg, which writes it, does not tell of a full disk."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.count_frames_and_secs(str(video))[0]
    except RuntimeError:
        return 0


def write_video(images: Tensor, out: Path, *, per_second: int = 12) -> None:
    """uint8 (steps, rows, 3, R, R) as a GIF or an MP4, forward and back; rows side by side. Raises ConfigError where it
    cannot be written, or an MP4 is wanted without imageio."""
    from biggan.runtime.atomic_io import atomic_path
    from biggan.sampling.image_io import make_grid, save_image

    if out.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--out {out}: use .png, .gif or .mp4")
    frames = [make_grid(step, columns=len(step)) for step in [*images, *images.flip(0)[1:-1]]]
    with writing_to(out, "the video"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".gif":
            options = {"append_images": frames[1:], "duration": 1000 // per_second, "loop": 0}
            save_image(frames[0], out, save_all=True, **options)
            return
        try:
            import imageio.v3
        except ModuleNotFoundError as error:
            raise ConfigError(f"{out}: MP4 needs imageio: pip install 'biggan-torch[video]', or use .gif") from error
        import numpy as np

        even = [np.asarray(frame)[: frame.height // 2 * 2, : frame.width // 2 * 2] for frame in frames]  # H.264 wants that
        with atomic_path(out) as scratch:
            imageio.v3.imwrite(scratch, even, fps=per_second, codec="libx264", macro_block_size=2)
            if count_frames(scratch) != len(even):
                raise OSError(errno.ENOSPC, "not all of it could be written", str(out))
