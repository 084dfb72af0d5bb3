"""Drawing images from a generator: a seed per image, truncation, standing statistics, sheets.

Source: BigGAN section 3.1 (truncation by resampling) and appendix C.1 (standing statistics).
Image number k of a seed is the same for any batch size and any device, to rounding. The files written are PNG.
Shapes: N images, Z latent, R resolution.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from biggan.nn.batch_norm import BatchNorm, collect_standing_statistics
from biggan.nn.inference import for_inference
from biggan.runtime.distributed import SINGLE_PROCESS, World, broadcast_batches, interleave_ranks
from biggan.runtime.errors import ConfigError, suggestion
from biggan.runtime.precision import CPU_FLOAT32, Precision
from biggan.runtime.rng import addressed_rng
from biggan.sampling.compiled import Compiled
from biggan.sampling.image_io import sheet, to_uint8, write_pictures
from biggan.sampling.latents import LatentConfig, draw_labels
from biggan.sampling.standing_statistics import StatisticsTable


class Samples(NamedTuple):
    """Images (N, 3, R, R) uint8 on the CPU and their class numbers (N,)."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def save(self, folder: str | Path) -> Path:
        """As `write_pictures`."""
        return write_pictures([self.images], self.labels, self.class_names, folder)


class Sampler:
    """Draws from a generator in evaluation mode.

    `statistics_passes` batches of `statistics_batch` fresh samples set the standing statistics anew whenever the
    truncation changes; they depend on `seed_of_statistics` alone. With `has_statistics` the generator comes with those of
    untruncated sampling, with a `statistics_table` with those of other truncations too. `latent` is the distribution of z.
    `precision` is that of the generator's place. Images come from a frozen copy of it (nn/frozen),
    which is `compiled` if many are wanted. With several ranks in
    `world`, whole batches are drawn in turn, the same ones as by one process; all ranks must call the methods together, and
    all get all images.
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        latent_dim: int,
        class_names: Sequence[str],
        latent: LatentConfig | None = None,
        precision: Precision = CPU_FLOAT32,
        statistics_passes: int = 32,
        statistics_batch: int = 64,
        seed_of_statistics: int = 0,
        has_statistics: bool = False,
        statistics_table: StatisticsTable | None = None,
        compiled: bool = False,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.generator = generator
        self.prior = (latent or LatentConfig()).build()
        self.latent_dim = latent_dim
        self.class_names = tuple(class_names)
        self.precision = precision
        self.statistics_passes = statistics_passes
        self.statistics_batch = statistics_batch
        self.seed_of_statistics = seed_of_statistics
        self.statistics_table = statistics_table
        self.compiled = compiled
        self.world = world
        self.inference_generator: nn.Module | Compiled | None = (
            None  # the generator as it draws with the statistics last set
        )
        self.statistics_at: float | Literal["nowhere"] | None = None if has_statistics else "nowhere"

    def sample(
        self,
        n: int,
        *,
        classes: Sequence[int | str] | None = None,
        truncation: float | None = None,
        seed: int = 0,
        batch: int = 64,
    ) -> Samples:
        """`n` images; `classes` (names or numbers, None: all) are given out in turn, so that each is equally frequent.

        Raises ConfigError on an unknown class, n < 1, or a truncation that the distribution of z has no sense for.
        """
        labels = self.labels_in_turn(n, classes)
        images = list(self.batches(range(n), labels, truncation=truncation, seed=seed, batch=batch))
        return Samples(torch.cat(images), labels, self.class_names)

    def labels_in_turn(self, n: int, classes: Sequence[int | str] | None) -> Tensor:
        """Class numbers (N,) int64: the classes one after the other, over and over."""
        if n < 1:
            raise ConfigError(f"n={n} must be at least 1")
        chosen = self.class_numbers(classes)
        return torch.tensor([chosen[index % len(chosen)] for index in range(n)])

    def class_numbers(self, classes: Sequence[int | str] | None) -> list[int]:
        """Class numbers of names or numbers. A name wins over a number of the same spelling."""
        if classes is None:
            return list(range(len(self.class_names)))
        if not classes:
            raise ConfigError("classes is empty: name at least one class, or leave it out for all")
        numbers = []
        for wanted in classes:
            if str(wanted) in self.class_names:
                numbers.append(self.class_names.index(str(wanted)))
            elif str(wanted).isdecimal() and int(wanted) < len(self.class_names):
                numbers.append(int(wanted))
            else:
                raise ConfigError(f"no class {str(wanted)!r} in this model; {suggestion(str(wanted), self.class_names)}")
        return numbers

    def batches(
        self, indices: Sequence[int], labels: Tensor, *, truncation: float | None, seed: int, batch: int
    ) -> Iterator[Tensor]:
        """uint8 batches (<= batch, 3, R, R) on the CPU for images number `indices` with classes `labels`, drawn as they
        are asked for. Raises ConfigError at once on a truncation without sense."""
        self.prior.check_truncation(truncation)
        return self._batches(indices, labels, truncation=truncation, seed=seed, batch=batch)

    def _batches(
        self, indices: Sequence[int], labels: Tensor, *, truncation: float | None, seed: int, batch: int
    ) -> Iterator[Tensor]:
        starts = range(0, len(indices), batch)
        for first in range(0, len(starts), self.world.size):
            self.set_statistics(truncation)  # nothing to do, unless somebody drew at another truncation meanwhile
            group = starts[first : first + self.world.size]
            start = group[min(self.world.rank, len(group) - 1)]  # a rank without a batch helps with the last
            part = indices[start : start + batch]
            z_NZ = torch.stack([self.latent(seed, index, truncation) for index in part])
            mine = self.images(z_NZ, labels[start : start + batch])
            yield from broadcast_batches(mine, [len(indices[start : start + batch]) for start in group], self.world)

    def latent(self, seed: int, index: int, truncation: float | None) -> Tensor:
        """The latent (Z,) of image number `index`."""
        return self.prior.draw((1, self.latent_dim), addressed_rng(seed, "sample", index), truncation)[0]

    @torch.no_grad()
    def images(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        """uint8 images (N, 3, R, R) on the CPU of given latents and classes, with the statistics last set."""
        if self.inference_generator is None:
            self.inference_generator = for_inference(self.generator, self.precision.dtype, self.precision.memory_format)
            self.inference_generator = (
                Compiled(self.inference_generator, self.precision.device) if self.compiled else self.inference_generator
            )
        x = self.inference_generator(
            z_NZ.to(self.precision.device), y_N.to(self.precision.device)
        )  # (N, 3, R, R) in [-1, 1]
        return to_uint8(x)

    @torch.no_grad()
    def blended(self, z_NZ: Tensor, weights_NK: Tensor) -> Tensor:
        """uint8 images (N, 3, R, R) on the CPU of latents and mixtures of classes: class embeddings are averaged with these
        weights. With the statistics last set; never compiled."""
        device = self.precision.device
        copy = for_inference(self.generator, self.precision.dtype, self.precision.memory_format)
        table_KE = copy.embed(torch.arange(len(self.class_names), device=device))
        return to_uint8(copy.synthesize(z_NZ.to(device), weights_NK.to(device) @ table_KE.float()))

    @torch.no_grad()
    def set_statistics(self, truncation: float | None) -> None:
        """Standing statistics for this truncation; nothing to do if they are already those. Mutates the generator's
        buffers."""
        if self.statistics_at == truncation:
            return
        self.inference_generator = None
        if self.statistics_table is not None and self.statistics_table.covers(truncation):
            for name, values in self.statistics_table.at(truncation).items():
                self.generator.get_buffer(name).copy_(values)
            self.statistics_at = truncation
            return
        self.generator.eval()
        if not any(isinstance(layer, BatchNorm) for layer in self.generator.modules()):
            self.statistics_at = truncation  # nothing stands: virtual norms, or none
            return
        everything = partial(interleave_ranks, count=self.statistics_passes)
        with self.precision.autocast(), collect_standing_statistics(self.generator, everything):
            mine = range(self.world.rank, self.statistics_passes, self.world.size)
            for number in mine or [0]:  # a rank without a pass has something to offer too, which is left out
                stream = addressed_rng(self.seed_of_statistics, "standing statistics", number)
                z_NZ = self.prior.draw((self.statistics_batch, self.latent_dim), stream, truncation)
                y_N = draw_labels(self.statistics_batch, len(self.class_names), stream)
                self.generator(z_NZ.to(self.precision.device), y_N.to(self.precision.device))
        self.statistics_at = truncation

    def class_sheet(
        self, *, rows: int = 20, columns: int = 10, seed: int = 0, truncation: float | None = None
    ) -> Image.Image:
        """One row per class (the first `rows` of them), with fixed latents: for watching a generator learn."""
        shown = min(rows, len(self.class_names))
        labels = torch.arange(shown).repeat_interleave(columns)
        batches = self.batches(range(len(labels)), labels, truncation=truncation, seed=seed, batch=100)
        return sheet(torch.cat(list(batches)), columns=columns)
