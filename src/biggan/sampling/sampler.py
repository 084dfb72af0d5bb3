"""Sampling of images from a generator: a seed per image, truncation, standing statistics, class grids.

Source: BigGAN section 3.1 (truncation by resampling) and appendix C.1 (standing statistics). Image k of a seed is the same,
up to rounding, for any batch size, number of ranks and device. Shapes: N images, Z latent, K classes, E class embedding, R
resolution.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from biggan.data.class_names import find_class
from biggan.nn.batch_norm import BatchNorm
from biggan.nn.inference import for_inference
from biggan.runtime.distributed import broadcast_batches, interleave_ranks, raise_on_all_ranks
from biggan.runtime.environment import SINGLE_PROCESS, World
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.precision import CPU_FLOAT32, Precision
from biggan.runtime.rng import addressed_rng, addressed_rngs
from biggan.sampling.compiled import CompiledGenerator
from biggan.sampling.image_io import make_grid, to_uint8
from biggan.sampling.latents import LatentConfig, draw_labels
from biggan.sampling.sample_folder import write_samples
from biggan.sampling.standing_statistics import StatisticsTable, collect_standing_statistics
from biggan.sampling.statistics_cache import load_statistics, save_statistics, statistics_key

logger = logging.getLogger(__name__)

NOTE_SECONDS = 2

MAX_IMAGES = 10_000_000
"""Of one seed, in one call."""


class Samples(NamedTuple):
    """Images (N, 3, R, R) uint8 on the CPU and their class labels (N,) int64; of a generator without classes, `class_names`
    is empty and all labels are 0."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    recipe: dict[str, Any] | None = None
    """Seed, truncation and classes that they were drawn with."""

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a PNG file per image and samples.json, which lists them with their recipe, into the folder, and a grid of
        the first 400 beside it, FOLDER-grid.png; returns the path of the grid.

        `overwrite`: replace the samples that its samples.json lists. Raises ConfigError where the folder holds earlier
        samples (without `overwrite`) or anything else, OSError where it cannot be written."""
        return write_samples([self.images], self.labels, self.class_names, folder, recipe=self.recipe, overwrite=overwrite)


class Sampler:
    """Draws images from a generator in evaluation mode.

    `class_names`: of the classes that it was trained on. A generator whose config says that it has no class input (those of
    Improved GAN) has none to choose from: the attribute `class_names` is then empty, and all labels are 0.
    `latent`: the distribution of z (None: normal), of size `latent_dim`. `precision`: where and in which dtype the generator
    runs. Standing statistics of batch normalization are collected whenever the truncation changes, over
    `standing_stats_batches` batches of `standing_stats_batch_size` samples that depend on `standing_stats_seed` alone. With
    `has_statistics` the generator already holds those for untruncated sampling; a `statistics_table` holds those for several
    truncations; a `statistics_cache` is a folder in which those that are collected are kept (by one process; several collect
    anew). Images are drawn by a copy of the generator for inference (nn/inference), with `compiled` through
    torch.compile.

    With several ranks in `world`, the batches are divided among them; all ranks must call the methods together, and all get
    all images, which are those that one process would draw."""

    def __init__(
        self,
        generator: nn.Module,
        *,
        latent_dim: int,
        class_names: Sequence[str],
        latent: LatentConfig | None = None,
        precision: Precision = CPU_FLOAT32,
        standing_stats_batches: int = 32,
        standing_stats_batch_size: int = 64,
        standing_stats_seed: int = 0,
        has_statistics: bool = False,
        statistics_table: StatisticsTable | None = None,
        statistics_cache: Path | None = None,
        compiled: bool = False,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.generator = generator
        self.prior = (latent or LatentConfig()).build()
        self.latent_dim = latent_dim
        self.class_names = tuple(class_names) if generator.config.has_class_input else ()
        self.precision = precision
        self.standing_stats_batches = standing_stats_batches
        self.standing_stats_batch_size = standing_stats_batch_size
        self.standing_stats_seed = standing_stats_seed
        self.statistics_table = statistics_table
        self.statistics_cache = statistics_cache
        self.compiled = compiled
        self.world = world
        self.rng_pool: list[torch.Generator] = []
        # Copies for inference with the standing statistics last set; None: to be made anew.
        self.inference_copy: nn.Module | None = None
        self.compiled_copy: CompiledGenerator | None = None
        # The truncation that the generator's standing statistics are for.
        self.statistics_truncation: float | Literal["unset"] | None = None if has_statistics else "unset"

    def sample(
        self,
        n: int,
        *,
        classes: Sequence[int | str] | None = None,
        truncation: float | None = None,
        seed: int = 0,
        batch: int = 64,
    ) -> Samples:
        """`n` images; `classes` are cycled through, so that they are equally frequent. None: all; text is a name, also if it
        is a number, and an integer is an index from 0.

        Raises ConfigError on an unknown class, on classes of a generator without any, on n below 1 or above ten million, and
        on a truncation that the distribution of z does not support.
        """
        seed, truncation = check_seed(seed), None if truncation is None else float(truncation)
        labels = self.cycle_labels(n, classes)
        images = list(self.batches(range(n), labels, truncation=truncation, seed=seed, batch=batch))
        return Samples(torch.cat(images), labels, self.class_names, self.recipe(classes, truncation, seed))

    def recipe(self, classes: Sequence[int | str] | None, truncation: float | None, seed: int) -> dict[str, Any]:
        """How images are drawn, for JSON; of classes their names, None for all or none."""
        chosen = None if classes is None else [self.class_names[number] for number in self.class_indices(classes)]
        return {"seed": seed, "truncation": truncation, "classes": chosen}

    def cycle_labels(self, n: int, classes: Sequence[int | str] | None) -> Tensor:
        """Class labels (N,) int64: the classes (None: all) in their order, repeated as often as needed."""
        if not 1 <= n <= MAX_IMAGES:
            raise ConfigError(f"n={n} must be at least 1 and at most {MAX_IMAGES:,}")
        chosen = torch.tensor(self.class_indices(classes) if self.is_conditional or classes is not None else [0])
        return chosen[torch.arange(n) % len(chosen)]  # (N,)

    @property
    def is_conditional(self) -> bool:
        """Whether the generator is conditional on a class."""
        return bool(self.generator.config.has_class_input)

    def check_conditional(self, what: str) -> None:
        """Raises ConfigError where the generator has no classes; `what` names what needs them."""
        if not self.is_conditional:
            family = self.generator.config.family
            raise ConfigError(f"{what}: the generator of family {family} is unconditional, it has no classes: leave it out")

    def class_indices(self, classes: Sequence[int | str] | None) -> list[int]:
        """Indices of classes given as names (text) or indices (integers); None: all. Raises ConfigError on an unknown class,
        on an empty list, and where the generator has no classes."""
        self.check_conditional("classes")
        if classes is None:
            return list(range(len(self.class_names)))
        if isinstance(classes, str | int) or not len(classes):
            raise ConfigError(f"classes={classes!r}: give a list of at least one class, or leave it out for all")
        return [find_class(given, self.class_names) for given in classes]

    def draw_labels(self, count: int, rng: torch.Generator) -> Tensor:
        """Labels (N,) int64, uniform over all classes; 0 where the generator has none."""
        return draw_labels(count, max(1, len(self.class_names)), rng)

    def batches(
        self, indices: Sequence[int], labels: Tensor, *, truncation: float | None, seed: int, batch: int
    ) -> Iterator[Tensor]:
        """uint8 batches (<= batch, 3, R, R) on the CPU: the images `indices` of the seed with classes `labels`, each batch
        drawn when it is asked for. Raises ConfigError at once on a truncation that is not supported."""
        self.prior.check_truncation(truncation)
        if batch < 1:
            raise ConfigError(f"batch={batch} must be at least 1")
        return self._batches(indices, labels, truncation=truncation, seed=seed, batch=batch)

    def _batches(
        self, indices: Sequence[int], labels: Tensor, *, truncation: float | None, seed: int, batch: int
    ) -> Iterator[Tensor]:
        starts = range(0, len(indices), batch)
        for first in range(0, len(starts), self.world.size):
            self.set_statistics(truncation)  # between batches the sampler may be used at another truncation
            group = starts[first : first + self.world.size]
            start = group[min(self.world.rank, len(group) - 1)]  # a rank without a batch draws the last one again
            batch_indices = indices[start : start + batch]
            z_NZ = self.latents(seed, batch_indices, truncation)
            images, error = None, None
            try:
                images = self.images(z_NZ, labels[start : start + batch])
            except CheckpointError as caught:
                error = caught
            raise_on_all_ranks(error, self.world)
            yield from broadcast_batches(images, [len(indices[start : start + batch]) for start in group], self.world)

    def latents(self, seed: int, indices: Sequence[int], truncation: float | None) -> Tensor:
        """The latents (N, Z) of the images `indices` of the seed, on the CPU; each depends on its index alone."""
        return self.prior.draw_rows(self.latent_dim, addressed_rngs(seed, "sample", indices, self.rng_pool), truncation)

    @torch.no_grad()
    def images(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        """uint8 images (N, 3, R, R) on the CPU from latents and class labels, with the standing statistics last set."""
        device, copy = self.precision.device, self.build_inference_copy()
        if self.compiled and self.compiled_copy is None:
            self.compiled_copy = CompiledGenerator(copy, device)
        return to_uint8(check_images((self.compiled_copy or copy)(z_NZ.to(device), y_N.to(device))))

    def build_inference_copy(self) -> nn.Module:
        """A copy of the generator for inference (nn/inference), built once for each set of standing statistics."""
        if self.inference_copy is None:
            self.inference_copy = for_inference(self.generator, self.precision.dtype, self.precision.memory_format)
        return self.inference_copy

    @torch.no_grad()
    def mixture_images(self, z_NZ: Tensor, weights_NK: Tensor) -> Tensor:
        """uint8 images (N, 3, R, R) on the CPU from latents and mixtures of classes: the mean of all class embeddings with
        these weights. With the standing statistics last set; never through torch.compile."""
        device, copy = self.precision.device, self.build_inference_copy()
        table_KE = copy.embed(torch.arange(len(self.class_names), device=device))
        return to_uint8(check_images(copy.synthesize(z_NZ.to(device), weights_NK.to(device) @ table_KE.float())))

    def forget_statistics(self) -> None:
        """Drop stored standing statistics: from now on they are collected anew for every truncation."""
        self.statistics_truncation, self.statistics_table = "unset", None

    @torch.no_grad()
    def set_statistics(self, truncation: float | None) -> None:
        """Set the standing statistics for a truncation, unless they are already set. Mutates the generator's buffers."""
        if self.statistics_truncation == truncation:
            return
        self.inference_copy = self.compiled_copy = None
        if self.statistics_table is not None and self.statistics_table.covers(truncation):
            for name, values in self.statistics_table.at(truncation).items():
                self.generator.get_buffer(name).copy_(values)
            self.statistics_truncation = truncation
            return
        self.generator.eval()
        if not any(isinstance(layer, BatchNorm) for layer in self.generator.modules()):
            self.statistics_truncation = truncation  # no batch norm, but virtual batch norm or none
            return
        folder, key = self.statistics_cache if self.world.size == 1 else None, ""
        if folder is not None:
            settings = (self.standing_stats_batches, self.standing_stats_batch_size, self.standing_stats_seed)
            facts = (self.prior, self.latent_dim, len(self.class_names), truncation, *settings)
            key = statistics_key(self.generator, self.precision, *facts)
        if folder is None or not load_statistics(folder, key, self.generator):
            self.collect_statistics(truncation)
            if folder is not None:
                save_statistics(folder, key, self.generator)
        self.statistics_truncation = truncation

    def collect_statistics(self, truncation: float | None) -> None:
        """Collect the standing statistics for a truncation. Mutates the generator's buffers. All ranks must call it."""
        gather = partial(interleave_ranks, count=self.standing_stats_batches)
        with self.precision.autocast(), collect_standing_statistics(self.generator, gather):
            own_batches = range(self.world.rank, self.standing_stats_batches, self.world.size)
            # A rank without a batch must take part; its statistics are not used.
            what = "sampling without truncation" if truncation is None else f"truncation {truncation:g}"
            for number in announced(own_batches or [0], f"standing statistics for {what}"):
                rng = addressed_rng(self.standing_stats_seed, "standing statistics", number)
                z_NZ = self.prior.draw((self.standing_stats_batch_size, self.latent_dim), rng, truncation)
                y_N = self.draw_labels(self.standing_stats_batch_size, rng)
                self.generator(z_NZ.to(self.precision.device), y_N.to(self.precision.device))

    def class_grid(
        self, *, rows: int = 20, columns: int = 10, seed: int = 0, truncation: float | None = None
    ) -> Image.Image:
        """A grid with a row for each of the first `rows` classes, drawn from the fixed latents of the seed; of a generator
        without classes, `columns` rows of different latents."""
        rows = min(rows, len(self.class_names)) if self.is_conditional else columns
        labels = self.cycle_labels(rows, None).repeat_interleave(columns)
        batches = self.batches(range(len(labels)), labels, truncation=truncation, seed=seed, batch=100)
        return make_grid(torch.cat(list(batches)), columns=columns)


def announced(batches: Sequence[int], what: str) -> Iterable[int]:
    """The numbers of batches; after the first, a note where the others will take more than two seconds together."""
    started = time.monotonic()
    for position, number in enumerate(batches):
        if position == 1 and (seconds := (time.monotonic() - started) * (len(batches) - 1)) > NOTE_SECONDS:
            logger.info("collecting %s: %d batches, about %.0f s", what, len(batches), seconds)
        yield number


def check_seed(seed: Any) -> int:
    """The seed as a plain integer. Raises ConfigError on what is none."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ConfigError(f"seed={seed!r:.60} must be an integer")
    return int(seed)


def check_images(images: Tensor) -> Tensor:
    """The images. Raises CheckpointError if they hold numbers that are not finite."""
    if not images.isfinite().all():
        raise CheckpointError(
            "the generator's images hold numbers that are not finite: its weights or statistics are damaged, or training "
            "diverged; use another checkpoint"
        )
    return images
