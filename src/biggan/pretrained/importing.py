"""`biggan import`: whatever the user names, recognised, read, and written as a model folder of ours."""

import collections
import re
from pathlib import Path
from typing import NamedTuple

from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.pretrained.biggan_pytorch import read_biggan_pytorch
from biggan.pretrained.download import RELEASED, looks_like_a_hub_name, released, snapshot
from biggan.pretrained.hugging_face import read_hugging_face
from biggan.pretrained.translate import Foreign
from biggan.runtime.errors import CheckpointError, ConfigError

IMAGENET = 1000


class Files(NamedTuple):
    """The files of one BigGAN-PyTorch run."""

    generator: Path
    average: Path | None
    discriminator: Path | None


def import_model(
    source: str,
    out: Path,
    *,
    average: Path | None = None,
    discriminator: Path | None = None,
    class_names: Path | None = None,
    norm_epsilon: float = 1e-5,
    spectral_norm_epsilon: float = 1e-6,
    cache: Path,
) -> tuple[ModelCard, Foreign]:
    """Write the model folder `out` from a foreign model: a folder or file on disk, a released name, or a hub name.

    `average`, `discriminator` and the epsilons are for BigGAN-PyTorch. `class_names`: a file with one name per line; without
    one, a model of 1,000 classes gets ImageNet's names, any other numbers. Raises CheckpointError where the source cannot be
    fetched, read or recognised, ConfigError where the names do not fit.
    """
    foreign = read_foreign(
        source,
        average=average,
        discriminator=discriminator,
        norm_epsilon=norm_epsilon,
        spectral_norm_epsilon=spectral_norm_epsilon,
        cache=cache,
    )
    card = ModelCard(
        model=foreign.model,
        latent=foreign.latent,
        class_names=names_for(foreign.model.num_classes, class_names),
        step=None,
        trained_on=f"data that are not known (imported from {foreign.source})",
        statistics_at=foreign.statistics_at,
    )
    if (out / "config.json").exists():
        raise CheckpointError(f"{out} exists and holds a config.json: give another --out")
    save_model_dir(out, card, foreign.parts)
    return card, foreign


def read_foreign(
    source: str,
    *,
    average: Path | None,
    discriminator: Path | None,
    norm_epsilon: float,
    spectral_norm_epsilon: float,
    cache: Path,
) -> Foreign:
    """The foreign model that `source` names."""
    path = Path(source)
    if not path.exists():
        if source in RELEASED:
            path = released(source, cache)
        elif looks_like_a_hub_name(source):
            path = snapshot(source)
        else:
            raise CheckpointError(
                f"no file or folder {source}, and it is no released name ({', '.join(RELEASED)}) nor a hub name user/model"
            )
    if path.is_dir() and any((path / name).exists() for name in ("generator.safetensors", "model/generator.safetensors")):
        raise CheckpointError(f"{path} is a model of biggan already: use it as it is")
    if path.is_dir() and (path / "config.json").exists():
        return read_hugging_face(path)
    files = find_files(path) if path.is_dir() else beside(path)
    return read_biggan_pytorch(
        files.generator,
        average=average or files.average,
        discriminator=discriminator or files.discriminator,
        norm_epsilon=norm_epsilon,
        spectral_norm_epsilon=spectral_norm_epsilon,
    )


def find_files(folder: Path) -> Files:
    """G*.pth, G_ema*.pth and D*.pth of one saving: the one without a suffix, or the only one.

    Raises CheckpointError where there is none, or several with a suffix."""
    savings = {suffix: files for suffix, files in savings_in(folder).items() if "G" in files or "G_ema" in files}
    if not savings:
        raise CheckpointError(
            f"{folder} holds neither config.json with pytorch_model.bin (Hugging Face) nor G.pth (BigGAN-PyTorch)"
        )
    if "" not in savings and len(savings) > 1:
        names = ", ".join(files.get("G", files.get("G_ema")).name for files in savings.values())
        raise CheckpointError(
            f"{folder} holds several generators ({names}): name one file, with --average and --discriminator"
        )
    files = savings.get("", next(iter(savings.values())))
    average = files.get("G_ema")
    return Files(files.get("G", average), average if "G" in files else None, files.get("D"))


def savings_in(folder: Path) -> dict[str, dict[str, Path]]:
    """{suffix: {"G", "G_ema" or "D": file}} of all savings in a folder."""
    found: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(G|G_ema|D)((?:_(?!ema|optim).+)?)\.(?:pth|pt|safetensors)", path.name)
        if match is not None:
            found[match[2]][match[1]] = path
    return found


def beside(file: Path) -> Files:
    """The file of a generator, with the averaged generator and the discriminator of the same saving if they are there."""
    saving = next((files for files in savings_in(file.parent).values() if file in files.values()), {})
    average = saving.get("G_ema")
    return Files(file, None if average == file else average, saving.get("D"))


def names_for(classes: int, file: Path | None) -> tuple[str, ...]:
    """A name for each class. Raises ConfigError where a file holds another number of names, or one name twice."""
    if file is None:
        return imagenet_names() if classes == IMAGENET else tuple(map(str, range(classes)))
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--class-names {file} cannot be read ({error})") from error
    if len(names) != classes:
        raise ConfigError(f"--class-names {file} holds {len(names)} names, the model has {classes} classes")
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"--class-names {file} holds {twice[0]!r} twice: number them apart")
    return names


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet in the usual order, from torchvision. Raises ConfigError where that is not installed."""
    try:
        from torchvision.models import ResNet18_Weights
    except ImportError as error:
        raise ConfigError(
            "the names of ImageNet's classes come with torchvision: pip install 'biggan[imagenet]', or --class-names FILE"
        ) from error
    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
