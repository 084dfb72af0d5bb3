"""What verbs that score or compare images open: samplers, data sets, extractors."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from biggan.data.class_names import parse_classes
from biggan.runtime.atomic_io import metrics_cache
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import DeviceName, Numerics, apply_numerics, choose_device
from biggan.runtime.text import shorten

if TYPE_CHECKING:
    from biggan.metrics.features import Extractor
    from biggan.metrics.statistics import ImageSet
    from biggan.runtime.environment import World
    from biggan.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How a verb reads image files."""

    background: str | None = None
    """Color behind transparent pixels: white, black, another name or #rrggbb; None: white, or that of a prepared set."""
    skip_broken: bool = False
    """Leave out images that cannot be read instead of stopping at the first one."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Device, seed and cache of a verb that opens a generator."""

    device: DeviceName = "auto"
    """auto: CUDA if there is a GPU, else the CPU."""
    seed: int = 0
    """Seed of the generated images."""
    cache: Path | None = None
    """Folder for weights and statistics; None: $BIGGAN_CACHE, else the user's cache folder."""


@dataclass(frozen=True, kw_only=True)
class RealDataOptions(DecodingOptions, DeviceOptions):
    """Real images too, of a verb that compares generated images with them."""

    data: str | None = None
    """Real images to compare with: folder:DIR, zip:FILE, packed:DIR, wds:WHERE, hf:NAME or a plain path."""
    labels: Annotated[str | None, tyro.conf.arg(aliases=("--data.labels",))] = None
    """Where the classes of the real images come from, as --data.labels of biggan train: folders, file, none, or the name of
    a label file or a column; None: whichever is the only possible one."""
    verify: bool = False
    """Compare all stored pixels with their checksums, and decode images again that are in the cache."""


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions(DeviceOptions):
    """The extractor too, of a verb that opens one."""

    extractor: str = "inception"
    """inception, dinov2, or module:FILE: a torch.export program or TorchScript from uint8 images to (features, logits).
    Loading a module:FILE runs the code in it: see --trust-extractor."""
    trust_extractor: bool = False
    """Run the code in the FILE of --extractor module:FILE. Its sha256 is kept in the cache, so that this is needed once for
    each file."""
    extractor_weights: Path | None = None
    """A file with the extractor's weights, where there is no network."""
    bf16: bool = False
    """Run the extractor in bf16: faster, with slightly different scores."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ExtractorOptions, RealDataOptions):
    """Real images and an extractor, of a verb that scores images."""


def check_extractor_options(command: ExtractorOptions) -> None:
    """Raises ConfigError on options that the extractor has no use for."""
    is_module = command.extractor.startswith("module:")
    if command.extractor_weights is not None and is_module:
        raise ConfigError(f"--extractor-weights: {shorten(command.extractor)} holds its own weights: leave it out")
    if command.trust_extractor and not is_module:
        raise ConfigError(
            f"--trust-extractor is for --extractor module:FILE, not {shorten(command.extractor)}: leave it out"
        )


def open_real(command: RealDataOptions, spec: str, size: int, world: "World", *, labels: str | None = None) -> "ImageSet":
    """A data set as a set of images to score; the first rank of each machine decodes it for the others. `labels`: where its
    classes come from. Class folders without an image are left out."""
    from biggan.data.dataset import open_source
    from biggan.runtime.distributed import local_rank_zero_first
    from biggan.sampling import image_sets

    source = None

    def open_here() -> None:
        """What each rank does in its turn."""
        nonlocal source
        source = open_source(
            spec,
            size,
            labels=labels,
            allow_empty_classes=True,
            background=command.background,
            skip_broken=command.skip_broken,
            verify=command.verify,
            cache=command.cache,
        )

    local_rank_zero_first(open_here, world)
    return image_sets.real_images(source)


def is_model(where: str) -> bool:
    """Whether a path is a run or model folder, or an exported model file, and not a data set."""
    if os.path.isfile(where):
        return where.endswith(".safetensors")
    files = ("config.json", "generator.safetensors", "model/generator.safetensors")
    return any(os.path.isfile(os.path.join(where, name)) for name in files)  # False, where a path is too long for the system


def load_sampler(
    where: Path, device: DeviceName, world: "World", cache: Path | None = None, *, compiled: bool = False
) -> "Sampler":
    """The sampler of a run or model folder; `cache`: the folder of the command's cache. Float32 numbers are not rounded to
    TF32 on a GPU from now on."""
    from biggan.pretrained import from_pretrained

    apply_numerics(Numerics())
    sampler = from_pretrained(where, device=device, cache=cache, compiled=compiled)
    sampler.world = world
    return sampler


def chosen_classes(sampler: "Sampler", text: str | None) -> list[int] | None:
    """The indices of the classes that --classes names; None where it is not given. Raises ConfigError on unknown ones, and
    where the generator has no classes."""
    if text is None:
        return None
    sampler.check_conditional(f"--classes {text}")
    return parse_classes(text, sampler.class_names)


def open_scoring_extractor(command: ExtractorOptions) -> "Extractor":
    """The extractor that a verb scores with. All ranks must call it together."""
    from biggan.metrics.features import open_extractor_on_all_ranks

    check_extractor_options(command)
    device = choose_device(command.device)
    return open_extractor_on_all_ranks(
        command.extractor,
        weights=command.extractor_weights,
        cache=metrics_cache(command.cache),
        device=device,
        bf16=command.bf16,
        trusted=command.trust_extractor,
    )
