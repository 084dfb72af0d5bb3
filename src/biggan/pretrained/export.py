"""Export of models for other programs: one safetensors file, an ONNX graph, or a folder for the Hugging Face hub.

The averaged generator is exported, with its standing statistics. Shapes: N images, Z latent, E class embedding, R
resolution.
"""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from biggan.checkpoints.model_dir import ModelCard, ModelDir, export_model_file, save_model_dir
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.json_io import to_json
from biggan.configs.overrides import flatten, replace_fields
from biggan.configs.run import PLACES, RunConfig
from biggan.metrics.evaluate import format_score
from biggan.nn.inference import for_inference
from biggan.pretrained import from_pretrained
from biggan.runtime.atomic_io import atomic_path, write_file
from biggan.runtime.bounded_io import SMALL_FILE, read_file
from biggan.runtime.errors import CheckpointError, ConfigError, first_line
from biggan.runtime.json_text import read_json
from biggan.runtime.metric_logger import read_log
from biggan.runtime.text import markdown_name, markdown_text
from biggan.sampling.sampler import Sampler

ConditionName = Literal["class", "embedding"]

ONNX_TOLERANCE = 1e-3

FRONT_MATTER = "---\nlibrary_name: biggan"  # the first lines of the README.md of an export

HUB_FILES = {"README.md", "config.json", "generator.safetensors", "statistics.safetensors", "samples.png"}

LARGEST_SHEET = 1 << 28  # bytes of a sample sheet


def export_safetensors(path: Path, out: Path) -> Path:
    """Write one file with the generator, and config.json as its metadata; `from_pretrained` reads it. Standing statistics
    for other truncations are not in it: sampling collects them when needed. Returns the file.

    Raises CheckpointError where there is no model, or the file cannot be written."""
    folder = ModelDir(path)
    data = export_model_file(publishable_card(folder), folder.load("generator"))
    with reporting_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, data)
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
        difference = max(difference, float(np.abs(image - expected).max()))
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
    z_NZ = torch.stack([sampler.latent(0, index, truncation) for index in range(count)])
    y_N = sampler.cycle_labels(count, None)
    return z_NZ, y_N if condition == "class" else generator.embed(y_N).detach()


def export_hub(path: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Write a folder for the hub: the model folder (generator and standing statistics), README.md with the recipe and the
    measured scores, and the latest sample sheet. Returns the folder. Raises CheckpointError where there is no model, or the
    folder cannot be written or, unless `overwrite`, holds anything but an earlier export."""
    if not overwrite:
        refuse_filled_folder(out)
    folder = ModelDir(path)
    tensors_by_name = {name: folder.load(name) for name in ("generator", "statistics")}
    sheets = sorted(RunDir(path).samples.glob("*.png"))
    with reporting_write_errors(out):
        for stale in ("statistics.safetensors", "samples.png"):
            (out / stale).unlink(missing_ok=True)
        stored = {name: tensors for name, tensors in tensors_by_name.items() if tensors is not None}
        save_model_dir(out, publishable_card(folder), stored)
        if sheets:
            write_file(out / "samples.png", read_file(sheets[-1], LARGEST_SHEET))
        write_file(out / "README.md", model_card(folder, path, with_sheet=bool(sheets)).encode())
    return out


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


def model_card(folder: ModelDir, run: Path, *, with_sheet: bool) -> str:
    """README.md of a published model: what it is, its recipe, the measured scores, how to sample from it."""
    card, recipe = publishable_card(folder), read_recipe(run)
    model = card.model
    conditional = "class-conditional" if model.has_class_input else "unconditional"
    lines = [*FRONT_MATTER.split("\n"), f"tags: [gan, image-generation, {conditional}]", "---", ""]
    lines += [f"# {model.family}, {model.resolution} px", ""]
    steps = "" if card.step is None else f", {card.step:,} steps"
    classes = f" of {model.num_classes} classes" if model.has_class_input else ""
    trained_on = markdown_text(card.trained_on)
    lines += [f"A {conditional} generator{classes}, trained on {trained_on}{steps}.", ""]
    if with_sheet:
        rows = "one row per class" if model.has_class_input else "different latents"
        lines += [f"![{rows}, nothing picked out](samples.png)", ""]
    lines += [
        "```python",
        "import biggan",
        "",
        'biggan.from_pretrained("FOLDER OR HUB NAME").sample(16, seed=0).save("drawn")',
    ]
    lines += ["```", "", "## Recipe", ""]
    if recipe is None:
        lines += ["Not known: the weights came without the run that made them."]
    else:
        config = to_json(publishable_config(recipe)).strip()
        lines += [f"Preset {markdown_name(str(recipe.preset))}; the whole config:", "", "```json", config, "```"]
    return "\n".join([*lines, "", "## Measured", "", *measured_section(run), ""])


def publishable_card(folder: ModelDir) -> ModelCard:
    """config.json of a model, without local paths and checksums."""
    return dataclasses.replace(folder.card, trained_on=strip_local_path(folder.card.trained_on), sha256={})


def publishable_config(recipe: RunConfig) -> RunConfig:
    """The config of a run, without local paths."""
    values = flatten(recipe)
    places = {name: strip_local_path(str(values[name])) for name in PLACES if values[name] is not None}
    recipe = replace_fields(recipe, places | {"data.cache": None})
    if recipe.dataset is None:
        return recipe
    return dataclasses.replace(
        recipe, dataset=dataclasses.replace(recipe.dataset, name=strip_local_path(recipe.dataset.name))
    )


def strip_local_path(source: str) -> str:
    """The name of a data source without its folder: "folder:photos" for "folder:/home/me/photos"."""
    kind, colon, rest = source.rpartition(":")
    return f"{kind}{colon}{Path(rest).name}"


def read_recipe(path: Path) -> RunConfig | None:
    """The config of a run folder; None for a model folder."""
    run = RunDir(path)
    return run.read_config() if run.checkpoints.exists() else None


def measured_section(path: Path) -> list[str]:
    """Markdown lines: the scores that `biggan evaluate` saved last with the model; without any, the last line of the
    training log, labeled so."""
    saved, log = sorted((path / "metrics").glob("*.json"), key=lambda file: file.stat().st_mtime), RunDir(path).stats_file
    if saved:
        try:
            evaluation = read_json(saved[-1])
            scores, cautions = evaluation["scores"], evaluation.get("cautions", [])
            values = {str(name): format_score(score) for name, score in scores.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the scores in {saved[-1]} cannot be read: remove the file, or evaluate again") from error
        return [*markdown_table(values), *(f"\nCaution: {markdown_text(str(caution))}." for caution in cautions)]
    lines = read_log(log)
    if not lines:
        return ["Nothing."]
    return ["No quality figures. The last line of the training log:", "", *markdown_table(lines[-1])]


def markdown_table(values: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table with the columns quantity and value."""
    shown = {name: f"{value:.5g}" if isinstance(value, float) else str(value)[:200] for name, value in values.items()}
    rows = [f"| {markdown_name(name)} | {markdown_text(value)} |" for name, value in shown.items()]
    return ["| quantity | value |", "|---|---|", *rows]


@contextmanager
def reporting_write_errors(out: Path) -> Iterator[None]:
    """A context in which an OSError becomes a CheckpointError with a remedy."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{out} could not be written ({error}): give another --out, or free some space") from error
