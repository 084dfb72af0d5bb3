"""`biggan import`: reads a model of another implementation and writes it as a model folder."""

import collections
import os
import re
from pathlib import Path
from typing import NamedTuple

from biggan.checkpoints.model_dir import ModelCard, save_model_dir
from biggan.pretrained.biggan_pytorch import read_biggan_pytorch
from biggan.pretrained.download import RELEASED_MODELS, download_released, download_snapshot, is_hub_name
from biggan.pretrained.hugging_face import read_hugging_face
from biggan.pretrained.translate import ImportedModel
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.text import printable

IMAGENET_CLASSES = 1000

NORM_EPSILON, SPECTRAL_NORM_EPSILON = 1e-5, 1e-6
"""Of BigGAN-PyTorch's launch scripts."""
WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


class CheckpointFiles(NamedTuple):
    """The checkpoint files of a BigGAN-PyTorch run, of one saving."""

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
    entry: str | None = None,
    norm_epsilon: float = NORM_EPSILON,
    spectral_norm_epsilon: float = SPECTRAL_NORM_EPSILON,
    cache: Path,
) -> tuple[ModelCard, ImportedModel]:
    """Write the model folder `out` from a model of another implementation: a folder or file on disk, the name of a released
    model, or a name on the Hugging Face hub. Returns its config.json and the model.

    `average` and `discriminator` (files of the other networks), `entry` (of a file with several networks, the one to take)
    and the epsilons are for BigGAN-PyTorch. `class_names`: a file with one name per line; without one, a model of 1,000
    classes gets the names of ImageNet's, any other gets numbers. Raises CheckpointError where the
    source cannot be downloaded, read or recognized, ConfigError where the names do not fit.
    """
    if os.path.isdir(out) and os.listdir(out):
        raise CheckpointError(f"{out} exists and is not empty: give another --out")
    imported = read_imported_model(
        source,
        average=average,
        discriminator=discriminator,
        entry=entry,
        norm_epsilon=norm_epsilon,
        spectral_norm_epsilon=spectral_norm_epsilon,
        cache=cache,
    )
    card = ModelCard(
        model=imported.model,
        latent=imported.latent,
        class_names=choose_class_names(imported.model.num_classes, class_names),
        step=None,
        trained_on=f"data that are not known (imported from {imported.source})",
        statistics_at=imported.statistics_at,
    )
    save_model_dir(out, card, imported.weights)
    return card, imported


def read_imported_model(
    source: str,
    *,
    average: Path | None,
    discriminator: Path | None,
    entry: str | None,
    norm_epsilon: float,
    spectral_norm_epsilon: float,
    cache: Path,
) -> ImportedModel:
    """The model that `source` names, as in `import_model`."""
    path = Path(source)
    if not os.path.exists(path):
        if source in RELEASED_MODELS:
            path = download_released(source, cache)
        elif is_hub_name(source):
            path = download_snapshot(source)
        else:
            raise CheckpointError(
                f"no file or folder {source}, and it is no released name ({', '.join(RELEASED_MODELS)}) nor a hub name "
                "user/model"
            )
    if path.is_dir() and any((path / name).exists() for name in ("generator.safetensors", "model/generator.safetensors")):
        raise CheckpointError(f"{path} is a model of biggan already: use it as it is")
    if path.is_dir() and (path / "config.json").exists():
        given = {
            "--entry": entry is not None,
            "--average": average is not None,
            "--discriminator": discriminator is not None,
            "--norm-epsilon": norm_epsilon != NORM_EPSILON,
            "--spectral-norm-epsilon": spectral_norm_epsilon != SPECTRAL_NORM_EPSILON,
        }
        useless = next((option for option, is_given in given.items() if is_given), None)
        if useless is not None:
            raise ConfigError(f"{useless} is for models of BigGAN-PyTorch, and {path} is of Hugging Face: leave it out")
        return read_hugging_face(path)
    files = find_files(path) if path.is_dir() else find_companions(path)
    return read_biggan_pytorch(
        files.generator,
        average=average or (files.average if entry is None else None),
        discriminator=discriminator or files.discriminator,
        entry=entry,
        norm_epsilon=norm_epsilon,
        spectral_norm_epsilon=spectral_norm_epsilon,
    )


def find_files(folder: Path) -> CheckpointFiles:
    """G*.pth, G_ema*.pth and D*.pth with the same suffix in a folder: those without suffix, or the only ones.

    A folder with one file of weights under another name is that file. Raises CheckpointError where there is no generator,
    or several with different suffixes."""
    groups = {suffix: files for suffix, files in group_by_suffix(folder).items() if "G" in files or "G_ema" in files}
    files_of_weights = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHTS_SUFFIXES]
    if not groups and len(files_of_weights) == 1:
        return CheckpointFiles(files_of_weights[0], None, None)
    if not groups:
        raise CheckpointError(
            f"{folder} holds neither config.json with pytorch_model.bin (Hugging Face) nor G.pth (BigGAN-PyTorch)"
        )
    if "" not in groups and len(groups) > 1:
        names = ", ".join(files.get("G", files.get("G_ema")).name for files in groups.values())
        raise CheckpointError(
            f"{folder} holds several generators ({names}): name one file, with --average and --discriminator"
        )
    files = groups.get("", next(iter(groups.values())))
    average = files.get("G_ema")
    return CheckpointFiles(files.get("G", average), average if "G" in files else None, files.get("D"))


def group_by_suffix(folder: Path) -> dict[str, dict[str, Path]]:
    """{suffix: {"G", "G_ema" or "D": file}} for all checkpoint files in a folder."""
    groups: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(G|G_ema|D)((?:_(?!ema|optim).+)?)\.(?:pth|pt|safetensors)", path.name)
        if match is not None:
            groups[match[2]][match[1]] = path
    return groups


def find_companions(file: Path) -> CheckpointFiles:
    """A generator's file, with the averaged generator and the discriminator of the same suffix in its folder, if present."""
    group = next((files for files in group_by_suffix(file.parent).values() if file in files.values()), {})
    average = group.get("G_ema")
    return CheckpointFiles(file, None if average == file else average, group.get("D"))


def choose_class_names(classes: int, file: Path | None) -> tuple[str, ...]:
    """A name for each class. Raises ConfigError where the file holds another number of names, or a name twice."""
    if file is None:
        return imagenet_names() if classes == IMAGENET_CLASSES else tuple(map(str, range(classes)))
    try:
        text = read_file(file, SMALL_FILE).decode("utf-8-sig")
        names = tuple(line.strip() for line in text.replace("\r\n", "\n").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--class-names {file} cannot be read ({error})") from error
    if len(names) != classes:
        raise ConfigError(f"--class-names {file} holds {len(names)} names, the model has {classes} classes")
    odd = next((name for name in names if printable(name) != name), None)
    if odd is not None:
        raise ConfigError(f"--class-names {file} holds control characters in {odd!r}: remove them")
    duplicates = [name for name, count in collections.Counter(names).items() if count > 1]
    if duplicates:
        raise ConfigError(f"--class-names {file} holds {duplicates[0]!r} twice: number them apart")
    return names


def imagenet_names() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes in their usual order, from torchvision. Raises ConfigError where torchvision is
    not installed."""
    try:
        from torchvision.models import ResNet18_Weights
    except ImportError as error:
        raise ConfigError(
            "the names of ImageNet's classes come with torchvision: pip install 'biggan-torch[imagenet]', "
            "or --class-names FILE"
        ) from error
    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
