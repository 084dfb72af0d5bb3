"""biggan evaluate, and what other commands that measure share with it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from biggan.cli.common import parse
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import DeviceName, choose_precision

if TYPE_CHECKING:
    from biggan.metrics.evaluate import Evaluation
    from biggan.metrics.features import Extractor
    from biggan.metrics.statistics import ImageSet
    from biggan.runtime.distributed import World
    from biggan.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What scores are made with."""

    data: str | None = None
    """Real images to compare with: folder:DIR, zip:FILE, packed:DIR, wds:WHERE, hf:NAME or a plain path."""
    extractor: str = "inception"
    """inception, dinov2, or module:FILE: a torch.export program or TorchScript from uint8 images to (features, logits).
    Loading a module:FILE runs the code in it: see --trust-extractor."""
    trust_extractor: bool = False
    """Run the code in the FILE of --extractor module:FILE. It is remembered by the file's sha256, so that this is needed
    once for a file."""
    extractor_weights: Path | None = None
    """A file with the extractor's weights, where there is no network."""
    bf16: bool = False
    """Extract in bf16: faster, and slightly other figures."""
    device: DeviceName = "auto"
    seed: int = 0
    cache: Path | None = None
    """Folder for weights and for what the real images give; None: as for data."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(Measuring):
    """Score a generator, or a set of images, against real images: Inception Score, FID, KID, precision, recall, density,
    coverage, FID within classes, accuracy of the extractor on the classes asked for."""

    samples: tyro.conf.Positional[str]
    """A run or model folder, or a data set."""
    recipe: str = "fid50k,is50k,kid50k,prdc10k"
    """Scores and how many images each: is, fid, kid, prdc, intra, accuracy."""
    truncation: float | None = None
    """Of the latents of a generator."""
    resolution: int | None = None
    """Size at which data sets are compared; None: the generator's, which is needed where there is none."""
    out: Path | None = None
    """JSON with the scores and their recipe; None: metrics/ in the folder of the model, or evaluation.json."""


def evaluate(arguments: list[str]) -> int:
    """biggan evaluate RUN_OR_DATA --data SOURCE --recipe fid50k,..."""
    command = parse(EvaluateCommand, arguments, "biggan evaluate")
    from biggan.metrics.evaluate import evaluate, parse_recipe, table
    from biggan.runtime.distributed import process_group

    wanted = parse_recipe(command.recipe)
    device = choose_precision(command.device, "auto", "channels-last").device
    with process_group(device) as world:
        samples, reference = open_sets(command, world)
        evaluation = evaluate(
            samples,
            reference,
            open_extractor_for(command, world),
            wanted,
            cache=cache_of(command),
            world=world,
        )
    if not world.is_rank_zero:
        return 0
    print(table(evaluation), end="")
    out = command.out or default_out(command, evaluation)
    try:
        evaluation.save(out)
    except OSError as error:
        raise ConfigError(f"the scores cannot be written to {out} ({error}): give another --out") from error
    print(f"recipe {out}")
    return 0


def open_sets(command: EvaluateCommand, world: "World") -> tuple["ImageSet", "ImageSet | None"]:
    """What is measured, and what it is compared with. Raises UserError where one cannot be opened."""
    from biggan.metrics.evaluate import parse_recipe
    from biggan.sampling import image_sets

    for spec in (command.samples, command.data):
        if spec is not None and ":" not in spec and not Path(spec).exists():
            raise ConfigError(f"{spec}: no such run, model or data set")
    samplers = [
        load_sampler(Path(spec), command.device, world) if spec is not None and is_model(spec) else None
        for spec in (command.samples, command.data)
    ]
    sampler, other = samplers
    sizes = {resolution_of(found) for found in samplers if found is not None}
    sizes |= set() if command.resolution is None else {command.resolution}
    if not sizes:
        raise ConfigError("two data sets are compared at one size: add --resolution 32, for example")
    if len(sizes) > 1 or min(sizes) < 1:
        raise ConfigError(f"images of different sizes cannot be compared: {' and '.join(map(str, sorted(sizes)))} pixels")
    (size,) = sizes
    if command.truncation is not None and sampler is None:
        raise ConfigError("--truncation is for generators, not for data sets")
    if sampler is None:
        samples = open_real(command, command.samples, size, world)
    else:
        samples = image_sets.generated_images(sampler, command.samples, truncation=command.truncation, seed=command.seed)
    if other is not None:
        generated_images = image_sets.generated_images(other, command.data, seed=command.seed + 1)
        return samples, image_sets.limit_images(generated_images, max(want.images for want in parse_recipe(command.recipe)))
    return samples, None if command.data is None else open_real(command, command.data, size, world)


def open_real(command: Measuring, spec: str, size: int, world: "World") -> "ImageSet":
    """A data set as a set to be measured; the first rank of each machine decodes it for the others."""
    from biggan.data.dataset import open_source
    from biggan.runtime.atomic_io import default_cache
    from biggan.runtime.distributed import local_rank_zero_first
    from biggan.sampling import image_sets

    source = None

    def open_here() -> None:
        nonlocal source
        options = {"cache": command.cache or default_cache()}
        source = open_source(spec, size, **options)

    local_rank_zero_first(open_here, world)
    return image_sets.real(source)


def is_model(where: str) -> bool:
    """Whether it is a run or model folder, and not a data set."""
    path = Path(where)
    if path.is_file():
        return path.suffix == ".safetensors"
    files = ("config.json", "generator.safetensors", "model/generator.safetensors")
    return any((path / name).is_file() for name in files)


def load_sampler(where: Path, device: DeviceName, world: "World") -> "Sampler":
    """The sampler of a run or model folder."""
    from biggan.pretrained import from_pretrained

    sampler = from_pretrained(where, device=device)
    sampler.world = world
    return sampler


def resolution_of(sampler: "Sampler") -> int:
    """The size of its images."""
    return sampler.generator.config.resolution


def open_extractor_for(command: Measuring, world: "World") -> "Extractor":
    """The extractor; the first rank fetches its weights for all."""
    from biggan.metrics.features import open_extractor
    from biggan.runtime.distributed import on_rank_zero

    device = choose_precision(command.device, "auto", "channels-last").device
    options = {"weights": command.extractor_weights, "cache": cache_of(command), "device": device, "bf16": command.bf16}
    options["trusted"] = command.trust_extractor
    on_rank_zero(lambda: open_extractor(command.extractor, **options) and None)
    return open_extractor(command.extractor, **options)


def cache_of(command: Measuring) -> Path:
    """Where weights and reference statistics are kept."""
    from biggan.runtime.atomic_io import default_cache

    return (command.cache or default_cache()) / "metrics"


def default_out(command: EvaluateCommand, evaluation: "Evaluation") -> Path:
    """Beside the model, named by all that decides the scores."""
    if not is_model(command.samples) or Path(command.samples).is_file():
        return Path("evaluation.json")
    words = [command.recipe, evaluation.recipe]
    return Path(command.samples) / "metrics" / f"{hashlib.sha256(repr(words).encode()).hexdigest()[:12]}.json"
