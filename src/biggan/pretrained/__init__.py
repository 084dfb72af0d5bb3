"""Pretrained models: opening a model from disk or a hub as a sampler, importing weights of other implementations, exporting.

`from_pretrained` opens a model. importing reads weights of other implementations, by biggan_pytorch and hugging_face;
download gets them from hubs; export writes weights for other programs.
"""

import math
from itertools import pairwise
from pathlib import Path

from torch import nn

from biggan.checkpoints.model_dir import ModelDir
from biggan.checkpoints.run_model import open_model
from biggan.models.registry import FAMILIES
from biggan.pretrained.download import download_snapshot, is_hub_name
from biggan.runtime.atomic_io import default_cache
from biggan.runtime.errors import CheckpointError
from biggan.runtime.precision import DeviceName, PrecisionName, choose_precision
from biggan.sampling.sampler import Sampler
from biggan.sampling.standing_statistics import StatisticsTable


def from_pretrained(
    path: str | Path,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    compiled: bool = False,
    cache: Path | None = None,
) -> Sampler:
    """A sampler for the model in a model folder, in a run folder (without a model yet: of its newest checkpoint), or on the
    Hugging Face hub under "user/model".

    `from_pretrained("runs/digits").sample(16, classes=[3], truncation=0.7, seed=0).save("out")`.
    `compiled`: sample through torch.compile, which pays off for many images. `cache`: the folder whose subfolder statistics
    keeps the standing statistics collected for a truncation (None: the default cache). Raises CheckpointError where there is
    no model, or it cannot be read or downloaded.
    """
    if not Path(path).exists() and is_hub_name(str(path)):
        path = download_snapshot(str(path))
    folder = open_model(Path(path))
    card = folder.card
    generator = FAMILIES[card.model.family].generator(card.model)
    folder.load_into(generator, "generator")
    resolved = choose_precision(device, precision, "channels-last")
    resolved.place(generator).eval().requires_grad_(False)
    return Sampler(
        generator,
        latent_dim=card.model.z_dim,
        latent=card.latent,
        class_names=card.class_names,
        precision=resolved,
        standing_stats_batches=folder.standing_stats_batches,
        has_statistics=folder.has_statistics,
        statistics_table=read_statistics_table(folder, generator),
        statistics_cache=statistics_folder(cache),
        compiled=compiled,
    )


def statistics_folder(cache: Path | None) -> Path | None:
    """Where a cache folder (None: the default one) holds standing statistics; None: the user has no home folder."""
    try:
        return (cache or default_cache()) / "statistics"
    except RuntimeError:  # of Path.home()
        return None


def read_statistics_table(folder: ModelDir, generator: nn.Module) -> StatisticsTable | None:
    """The standing statistics for several truncations in a model folder, or None. Raises CheckpointError where they do not
    match its config.json or the generator."""
    values = folder.load("statistics")
    if values is None:
        return None
    truncations = folder.card.statistics_at
    ascending = all(below < above < math.inf for below, above in pairwise(truncations))
    if len(truncations) < 2 or not ascending or truncations[0] == -math.inf:
        raise CheckpointError(f"{folder.path}: statistics_at in config.json must be two truncations or more, ascending")
    buffers = {
        name: buffer.shape for name, buffer in generator.named_buffers() if name.split(".")[-1].startswith("standing")
    }
    expected = {name: (len(truncations), *shape) for name, shape in buffers.items()}
    found = {name: (*value.shape,) for name, value in values.items()}
    if expected != found or not all(value.is_floating_point() for value in values.values()):
        raise CheckpointError(
            f"{folder.path}: statistics.safetensors does not hold {len(truncations)} sets for every norm of the generator"
        )
    return StatisticsTable(truncations, values)
