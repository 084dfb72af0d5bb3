"""Weights for others: one safetensors file, an ONNX graph, or a folder as Hugging Face's hub expects it.

What is exported is the averaged generator with its standing statistics.
"""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from biggan.checkpoints.model_dir import ModelCard, ModelDir, save_model_dir
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.json_io import from_json, to_json
from biggan.configs.run import RunConfig
from biggan.nn.inference import for_inference
from biggan.pretrained import from_pretrained
from biggan.runtime.atomic_io import write_file
from biggan.runtime.errors import CheckpointError, ConfigError, first_line
from biggan.sampling.sampler import Sampler

InputName = Literal["class", "embedding"]

ONNX_TOLERANCE = 1e-3


def export_safetensors(path: Path, out: Path) -> Path:
    """One file: the generator, with config.json as its metadata, which `from_pretrained` reads. Statistics for further
    truncations stay behind; they are computed anew when they are asked for.

    Raises CheckpointError where there is no model, or the disk does not take the file."""
    folder = ModelDir(path)
    card = dataclasses.replace(published_card(folder), statistics_at=())
    data = safetensors.torch.save(folder.load("generator"), metadata={"format": "pt", "config": to_json(card)})
    with refusing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, data)
    return out


def export_onnx(path: Path, out: Path, *, given: InputName = "class", truncation: float | None = None) -> float:
    """An ONNX graph: z (N, Z) float32 and y (N,) int64, or with `given="embedding"` e (N, E) float32, to images (N, 3, R, R)
    in [-1, 1], for any N. The standing statistics are those of the truncation; z is to be drawn with it. The graph's
    metadata hold config.json as "biggan" (latents, class names) and the "truncation".

    Returns the largest difference from torch over two batches, computed by onnxruntime. Raises ConfigError where onnx is not
    installed or the truncation has no sense, CheckpointError where the graph is off by more than 1e-3.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed, and ONNX needs it: pip install 'biggan[onnx]'") from error
    sampler = from_pretrained(path, device="cpu", precision="fp32")
    sampler.prior.check_truncation(truncation)
    sampler.set_statistics(truncation)
    generator = for_inference(sampler.generator, torch.float32, torch.contiguous_format)
    graph = (FromClass(generator) if given == "class" else FromEmbedding(generator)).eval()
    second = "y" if given == "class" else "e"
    inputs = example(sampler, generator, given, truncation, count=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # both inputs share one, which is what we want
        program = torch.onnx.export(
            graph,
            inputs,
            input_names=["z", second],
            output_names=["image"],
            dynamic_shapes={"z": {0: "batch"}, second: {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props["biggan"] = to_json(published_card(ModelDir(path)))
    program.model.metadata_props["truncation"] = json.dumps(truncation)
    scratch = out.with_name(f".{out.name}.writing")
    with refusing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        program.save(scratch)
        try:
            session = onnxruntime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
            difference = largest_difference(session, graph, sampler, given, truncation)
            if not difference < ONNX_TOLERANCE:
                raise CheckpointError(
                    f"the graph is off by {difference:.2g} from torch, more than {ONNX_TOLERANCE}: not written"
                )
            scratch.rename(out)
        finally:
            scratch.unlink(missing_ok=True)
    return difference


def largest_difference(
    session: Any, graph: nn.Module, sampler: Sampler, given: InputName, truncation: float | None
) -> float:
    """Between onnxruntime and torch, over a batch of 1 and one of 3."""
    difference, second = 0.0, "y" if given == "class" else "e"
    for count in (1, 3):
        inputs = example(sampler, graph.generator, given, truncation, count=count)
        with torch.no_grad():
            expected = graph(*inputs).numpy()
        (got,) = session.run(None, dict(zip(("z", second), (tensor.numpy() for tensor in inputs), strict=True)))
        difference = max(difference, float(np.abs(got - expected).max()))
    return difference


class FromClass(nn.Module):
    """The generator as a function of z and y."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.generator(z, y)  # (N, 3, R, R)


class FromEmbedding(nn.Module):
    """The generator as a function of z and the class embedding."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        return self.generator.synthesize(z, e)  # (N, 3, R, R)


def example(
    sampler: Sampler, generator: nn.Module, given: InputName, truncation: float | None, *, count: int
) -> tuple[Tensor, Tensor]:
    """Inputs of the graph: latents, and classes or their embeddings."""
    z_NZ = torch.stack([sampler.latent(0, index, truncation) for index in range(count)])
    y_N = sampler.labels_in_turn(count, None)
    return z_NZ, y_N if given == "class" else generator.embed(y_N).detach()


def export_hub(path: Path, out: Path) -> Path:
    """A folder for the hub: the model folder (generator and statistics), README.md with the recipe and what was measured,
    and the newest sheet. Raises CheckpointError where there is no model, or the disk does not take it."""
    folder = ModelDir(path)
    parts = {name: folder.load(name) for name in ("generator", "statistics")}
    sheets = sorted(RunDir(path).samples.glob("*.png"))
    with refusing(out):
        for stale in ("statistics.safetensors", "samples.png"):
            (out / stale).unlink(missing_ok=True)
        save_model_dir(
            out, published_card(folder), {name: tensors for name, tensors in parts.items() if tensors is not None}
        )
        if sheets:
            shutil.copyfile(sheets[-1], out / "samples.png")
        write_file(out / "README.md", model_card(folder, path, with_sheet=bool(sheets)).encode())
    return out


def push_to_hub(folder: Path, name: str) -> str:
    """Upload a folder made by `export_hub` as the model "user/model"; returns its address. Raises ConfigError where
    huggingface_hub is not installed, CheckpointError where the hub refuses or is out of reach."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError("huggingface_hub is not installed: pip install 'biggan[hub]'") from error
    try:
        HfApi().create_repo(name, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=str(folder))
    except Exception as error:  # its own errors, and those of whatever HTTP library it uses
        raise CheckpointError(f"{folder} is ready, but the hub does not take it as {name} ({first_line(error)})") from error
    return f"https://huggingface.co/{name}"


def model_card(folder: ModelDir, run: Path, *, with_sheet: bool) -> str:
    """README.md of a published model: what it is, its recipe, what was measured, how to use it."""
    card, recipe = published_card(folder), run_config(run)
    model = card.model
    lines = ["---", "library_name: biggan", "tags: [gan, image-generation, class-conditional]", "---", ""]
    lines += [f"# {model.family}, {model.resolution} px", ""]
    steps = "" if card.step is None else f", {card.step:,} steps"
    lines += [f"A class-conditional generator of {model.num_classes} classes, trained on {card.trained_on}{steps}.", ""]
    if with_sheet:
        lines += ["![one row per class, nothing picked out](samples.png)", ""]
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
        lines += [f"Preset `{recipe.preset}`; the whole config:", "", "```json", to_json(published(recipe)).strip(), "```"]
    return "\n".join([*lines, "", "## Measured", "", *measured(run), ""])


def published_card(folder: ModelDir) -> ModelCard:
    """config.json without the paths of the machine that the model was trained on."""
    return dataclasses.replace(folder.card, trained_on=published_name(folder.card.trained_on))


def published(recipe: RunConfig) -> RunConfig:
    """A config without the paths of the machine that it ran on."""
    source = None if recipe.data.source is None else published_name(recipe.data.source)
    found = None if recipe.found is None else dataclasses.replace(recipe.found, name=published_name(recipe.found.name))
    init_from = None if recipe.init_from is None else Path(recipe.init_from).name
    data = dataclasses.replace(recipe.data, source=source, cache=None)
    return dataclasses.replace(recipe, data=data, found=found, init_from=init_from)


def published_name(source: str) -> str:
    """ "folder:/home/me/photos" as "folder:photos"."""
    kind, colon, rest = source.rpartition(":")
    return f"{kind}{colon}{Path(rest).name}"


def run_config(path: Path) -> RunConfig | None:
    """The config of a run folder, None for a model folder."""
    run = RunDir(path)
    return from_json(run.config_file.read_text(), RunConfig, run.config_file) if run.checkpoints.exists() else None


def measured(path: Path) -> list[str]:
    """A table of RUN/metrics.json; without one, the last line of the log, called what it is."""
    metrics, log = path / "metrics.json", RunDir(path).stats_file
    if metrics.exists():
        return table(json.loads(metrics.read_text()))
    if not log.exists():
        return ["Nothing."]
    return [
        "No quality figures. The last line of the training log:",
        "",
        *table(json.loads(log.read_text().splitlines()[-1])),
    ]


def table(values: dict[str, object]) -> list[str]:
    """Two columns of Markdown."""
    rows = [
        f"| {name} | {value:.5g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in values.items()
    ]
    return ["| quantity | value |", "|---|---|", *rows]


@contextmanager
def refusing(out: Path) -> Iterator[None]:
    """What the system refuses becomes a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{out} could not be written ({error}): give another --out, or free some space") from error
