"""biggan import, biggan export: weights of other implementations in, weights for others out."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from biggan.cli.common import check_out_file, check_out_folder, parse
from biggan.cli.output import say
from biggan.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImportCommand:
    """Turn a model of another implementation into a model folder.

    Sources: a folder with config.json and pytorch_model.bin (Hugging Face's BigGAN-deep); a folder with G.pth, G_ema.pth
    and D.pth, or the file of one generator (BigGAN-PyTorch); biggan-deep-128, -256 or -512; a hub name user/model.
    """

    source: tyro.conf.Positional[str]
    """A folder, a file, the name of a released model, or a hub name (see above)."""
    out: Path | None = None
    """Folder to write; None: models/ and the name of the source."""
    average: Path | None = None
    """BigGAN-PyTorch: the averaged generator (G_ema.pth), if it is not beside the source."""
    discriminator: Path | None = None
    """BigGAN-PyTorch: the discriminator (D.pth), if it is not beside the source."""
    entry: str | None = None
    """BigGAN-PyTorch: the entry to take of a file that holds several networks, such as G; None: the averaged generator."""
    class_names: Path | None = None
    """A file with one name per line; None: ImageNet's names for 1,000 classes, else numbers."""
    norm_epsilon: float = 1e-5
    """BigGAN-PyTorch: BN_eps of the run. The default is that of its launch scripts."""
    spectral_norm_epsilon: float = 1e-6
    """BigGAN-PyTorch: SN_eps of the run."""


def import_(arguments: list[str]) -> int:
    """biggan import SOURCE [options]"""
    command = parse(ImportCommand, arguments, "biggan import")
    from biggan.pretrained.importing import import_model
    from biggan.runtime.atomic_io import default_cache

    name = Path(command.source).resolve().name
    out = command.out or Path("models") / re.sub(r"\.(pth|pt|bin|safetensors)$", "", name)
    card, foreign = import_model(
        command.source,
        out,
        average=command.average,
        discriminator=command.discriminator,
        class_names=command.class_names,
        entry=command.entry,
        norm_epsilon=command.norm_epsilon,
        spectral_norm_epsilon=command.spectral_norm_epsilon,
        cache=default_cache() / "released",
    )
    model = card.model
    size = f"{model.resolution} px, width {model.width}, {model.num_classes} classes, latent {model.z_dim}"
    say(f"model  {model.family}, {size}")
    for name, tensors in foreign.weights.items():
        say(f"       {name}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} numbers")
    say(f"folder {out}", f"next   biggan sample {shlex.quote(str(out))} --n 16")
    return 0


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained generator for others to use."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder."""
    to: Literal["safetensors", "onnx", "hub"]
    """safetensors: one file that carries its config. onnx: a graph of z and class. hub: a folder with a model card."""
    out: Path | None = None
    """File or folder to write; None: below RUN/export."""
    input: Literal["class", "embedding"] = "class"
    """onnx: what the graph is given besides z."""
    truncation: float | None = None
    """onnx: the truncation whose standing statistics are baked in; z is to be drawn with it."""
    overwrite: bool = False
    """hub: write into a folder that holds other files; those of the same names are replaced."""
    push: str | None = None
    """hub: upload the folder as this model, user/name."""


def export(arguments: list[str]) -> int:
    """biggan export RUN --to KIND [options]"""
    command = parse(ExportCommand, arguments, "biggan export")
    from biggan.checkpoints.run_dir import refuse_links
    from biggan.pretrained import export as exporting

    base = command.model / "export" if command.model.is_dir() else command.model.parent / "export"
    if command.out is None:
        refuse_links(base.parent, "export")
    if command.push is not None and command.to != "hub":
        raise ConfigError(f"--push {command.push} goes with --to hub, not --to {command.to}")
    if command.input != "class" and command.to != "onnx":
        raise ConfigError(f"--input {command.input} goes with --to onnx, not --to {command.to}")
    if command.overwrite and command.to != "hub":
        raise ConfigError(f"--overwrite goes with --to hub, not --to {command.to}")
    if command.truncation is not None and command.to != "onnx":
        raise ConfigError(f"--truncation {command.truncation} goes with --to onnx: other formats keep the choice open")
    if command.to == "hub":
        check_out_folder(command.out)
    else:
        check_out_file(command.out, (f".{command.to}",))
    if command.to == "safetensors":
        say(f"file   {exporting.export_safetensors(command.model, command.out or base / 'generator.safetensors')}")
    elif command.to == "onnx":
        out = command.out or base / "generator.onnx"
        difference = exporting.export_onnx(command.model, out, condition=command.input, truncation=command.truncation)
        say(f"file   {out}", f"check  onnxruntime differs from torch by at most {difference:.2g}")
    else:
        folder = exporting.export_hub(command.model, command.out or base / "hub", overwrite=command.overwrite)
        say(f"folder {folder}")
        if command.push is not None:
            say(f"hub    {exporting.push_to_hub(folder, command.push)}")
    return 0
