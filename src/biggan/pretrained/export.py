"""Export of models for other programs: one safetensors file, an ONNX graph, or a folder for the Hugging Face hub.

The averaged generator is exported, with its standing statistics. Shapes: N images, Z latent, E class embedding, R
resolution.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from biggan.checkpoints.model_dir import ModelDir, export_model_file, save_model_dir
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.json_io import to_json
from biggan.data.image_decoding import open_image
from biggan.nn.inference import for_inference
from biggan.pretrained import from_pretrained
from biggan.pretrained.model_card import FRONT_MATTER, model_card, publishable_card
from biggan.runtime.atomic_io import atomic_path, write_file, write_stream
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.errors import CheckpointError, ConfigError, first_line, reason_for, remedy_for
from biggan.sampling.image_io import save_image
from biggan.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

ConditionName = Literal["class", "embedding"]

ONNX_TOLERANCE = 1e-3

HUB_FILES = {"README.md", "config.json", "generator.safetensors", "statistics.safetensors", "samples.png"}

LARGEST_SHEET = 1 << 28  # bytes of a sample sheet


def export_safetensors(path: Path, out: Path) -> Path:
    """Write one file with the generator, and config.json as its metadata; `from_pretrained` reads it. Standing statistics
    for other truncations are not in it: sampling collects them when needed. Returns the file.

    Raises CheckpointError where there is no model, or the file cannot be written."""
    folder = ModelDir(path)
    if os.path.realpath(out) == os.path.realpath(folder.path / "generator.safetensors"):
        raise CheckpointError(f"{out} is the model that is exported: give another --out")
    file = export_model_file(publishable_card(folder), folder.load("generator"))
    with reporting_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_stream(out, file.blocks())
    return out


def export_onnx(path: Path, out: Path, *, condition: ConditionName = "class", truncation: float | None = None) -> float:
    """Write an ONNX graph: z (N, Z) float32 and y (N,) int64, or with `condition="embedding"` e (N, E) float32, to images
    (N, 3, R, R) in [-1, 1], for any N. The standing statistics are those for `truncation`, with which z is to be drawn. The
    metadata of the graph hold config.json as "biggan" (latent distribution, class names) and the "truncation".

    Returns the largest difference between onnxruntime and torch over two batches. Raises ConfigError where onnx is not
    installed or the truncation is not supported, CheckpointError where the difference is 1e-3 or more, or the file cannot be
    written.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed, and ONNX needs it: pip install 'biggan-torch[onnx]'") from error
    sampler = from_pretrained(path, device="cpu", precision="fp32")
    sampler.prior.check_truncation(truncation)
    if condition == "embedding":
        sampler.check_conditional("--input embedding")
    sampler.set_statistics(truncation)
    generator = for_inference(sampler.generator, torch.float32, torch.contiguous_format)
    graph = (ClassInputGenerator(generator) if condition == "class" else EmbeddingInputGenerator(generator)).eval()
    second = "y" if condition == "class" else "e"
    inputs = example_inputs(sampler, generator, condition, truncation, count=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # of z and y, which share the axis "batch" on purpose
        program = torch.onnx.export(
            graph,
            inputs,
            input_names=["z", second],
            output_names=["image"],
            dynamic_shapes={"z": {0: "batch"}, second: {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props["biggan"] = to_json(publishable_card(ModelDir(path)))
    program.model.metadata_props["truncation"] = json.dumps(truncation)
    with reporting_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as scratch:
            program.save(scratch)
            session = onnxruntime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
            difference = max_difference(session, graph, sampler, condition, truncation)
            if not difference < ONNX_TOLERANCE:
                raise CheckpointError(
                    f"the graph is off by {difference:.2g} from torch, more than {ONNX_TOLERANCE}: not written"
                )
    return difference


def max_difference(
    session: Any, graph: nn.Module, sampler: Sampler, condition: ConditionName, truncation: float | None
) -> float:
    """The largest absolute difference between the images of onnxruntime and torch, over a batch of 1 and one of 3."""
    difference, second = 0.0, "y" if condition == "class" else "e"
    for count in (1, 3):
        inputs = example_inputs(sampler, graph.generator, condition, truncation, count=count)
        with torch.no_grad():
            expected = graph(*inputs).numpy()
        (image,) = session.run(None, dict(zip(("z", second), (tensor.numpy() for tensor in inputs), strict=True)))
        difference = float(np.maximum(difference, np.abs(image - expected).max()))  # not a number if one is not
    return difference


class ClassInputGenerator(nn.Module):
    """The generator as a function of z and y."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.generator(z, y)  # (N, 3, R, R)


class EmbeddingInputGenerator(nn.Module):
    """The generator as a function of z and the class embedding."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        return self.generator.synthesize(z, e)  # (N, 3, R, R)


def example_inputs(
    sampler: Sampler, generator: nn.Module, condition: ConditionName, truncation: float | None, *, count: int
) -> tuple[Tensor, Tensor]:
    """Inputs of the graph: latents (N, Z), and class labels (N,) or class embeddings (N, E)."""
    z_NZ = sampler.latents(0, range(count), truncation)
    y_N = sampler.cycle_labels(count, None)
    return z_NZ, y_N if condition == "class" else generator.embed(y_N).detach()


def export_hub(path: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Write a folder for the hub: the model folder (generator and standing statistics), README.md with the recipe and the
    measured scores, and the latest sample sheet. Returns the folder. Raises CheckpointError where there is no model, or the
    folder cannot be written or, unless `overwrite`, holds anything but an earlier export."""
    if not overwrite:
        refuse_filled_folder(out)
    if (out / "checkpoints").exists() or os.path.realpath(out) in (os.path.realpath(path), os.path.realpath(path / "model")):
        raise CheckpointError(f"{out} is the run or the model that is exported: give another --out")
    folder = ModelDir(path)
    tensors_by_name = {name: folder.load(name) for name in ("generator", "statistics")}
    sheets = sorted(file for file in RunDir(path).samples.glob("*.png") if not file.is_symlink())
    sheet = read_sheet(sheets[-1]) if sheets and not RunDir(path).samples.is_symlink() else None
    card = model_card(folder, path, with_sheet=sheet is not None)
    stored = {name: tensors for name, tensors in tensors_by_name.items() if tensors is not None}
    with reporting_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "README.md", card.encode())  # first: by it an export that was cut off is known again
        save_model_dir(out, publishable_card(folder), stored)
        if sheet is not None:
            save_image(sheet, out / "samples.png")
        for name, is_part in (("statistics.safetensors", "statistics" in stored), ("samples.png", sheet is not None)):
            if not is_part:  # of an earlier export
                (out / name).unlink(missing_ok=True)
    return out


def read_sheet(file: Path) -> Image.Image | None:
    """The pixels of a sample sheet, without anything else that the file may hold; None, with a warning, if it is no image.
    What is published must not be another file of this machine, to which a run of somebody else could link."""
    try:
        with open_image(io.BytesIO(read_file(file, LARGEST_SHEET))) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds of error
        logger.warning("%s is no image (%s): the export has no sheet", file, first_line(error))
        return None


def refuse_filled_folder(out: Path) -> None:
    """Raises CheckpointError where a folder holds anything but an earlier export for the hub."""
    if not out.is_dir():
        return
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")}  # .git of a hub's clone may stay
    try:
        exported = read_file(out / "README.md", SMALL_FILE).startswith(FRONT_MATTER.encode())
    except OSError:
        exported = False
    if found and not (exported and found <= HUB_FILES):
        raise CheckpointError(
            f"{out} holds {', '.join(sorted(found)[:3])}{', ...' if len(found) > 3 else ''}, which is no earlier export: "
            "give another --out, or --overwrite to replace files of the same names"
        )


def push_to_hub(folder: Path, name: str) -> str:
    """Upload a folder made by `export_hub` as the model "user/model"; returns its URL. Raises ConfigError where
    huggingface_hub is not installed, CheckpointError where the upload fails."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError("huggingface_hub is not installed: pip install 'biggan-torch[hub]'") from error
    try:
        HfApi().create_repo(name, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=str(folder))
    except Exception as error:  # huggingface_hub's own errors, and those of its HTTP library
        raise CheckpointError(f"{folder} is ready, but the hub does not take it as {name} ({first_line(error)})") from error
    return f"https://huggingface.co/{name}"


@contextmanager
def reporting_write_errors(out: Path) -> Iterator[None]:
    """A context in which an OSError becomes a CheckpointError with a remedy."""
    try:
        yield
    except OSError as error:
        reason, remedy = reason_for(error), remedy_for(error, "another --out")
        raise CheckpointError(f"{out} could not be written ({reason}): {remedy}") from error
