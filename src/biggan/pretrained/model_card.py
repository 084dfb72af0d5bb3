"""README.md of a published model: what it is, its recipe and its measured scores, without what is private."""

import dataclasses
from pathlib import Path
from typing import Any

from biggan.checkpoints.model_dir import ModelCard, ModelDir
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.json_io import to_json
from biggan.configs.overrides import flatten, replace_fields
from biggan.configs.run import PLACES, RunConfig
from biggan.data.sources import public_name
from biggan.metrics.evaluate import format_score, require_finite
from biggan.runtime.errors import CheckpointError, NonFiniteScore
from biggan.runtime.json_text import read_json
from biggan.runtime.metric_logger import is_finite, read_log
from biggan.runtime.text import markdown_name, markdown_text

FRONT_MATTER = "---\nlibrary_name: biggan"  # the first lines of the README.md of an export


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
    return dataclasses.replace(folder.card, trained_on=public_name(folder.card.trained_on), sha256={})


def publishable_config(recipe: RunConfig) -> RunConfig:
    """The config of a run, without local paths."""
    values = flatten(recipe)
    places = {name: public_name(str(values[name])) for name in PLACES if values[name] is not None}
    recipe = replace_fields(recipe, places | {"data.cache": None})
    if recipe.dataset is None:
        return recipe
    return dataclasses.replace(recipe, dataset=dataclasses.replace(recipe.dataset, name=public_name(recipe.dataset.name)))


def read_recipe(path: Path) -> RunConfig | None:
    """The config of a run folder; None for a model folder."""
    run = RunDir(path)
    return run.read_config() if run.checkpoints.exists() else None


def measured_section(path: Path) -> list[str]:
    """Markdown lines: the scores that `biggan evaluate` saved last with the model; without any, the last line of the
    training log, labeled so."""
    found, log = [file for file in (path / "metrics").glob("*.json") if file.is_file()], RunDir(path).stats_file
    saved = sorted(found, key=lambda file: file.stat().st_mtime)
    if saved:
        try:
            evaluation = read_json(saved[-1])
            scores, cautions = evaluation["scores"], evaluation.get("cautions", [])
            require_finite(scores)
            values = {str(name): format_score(score) for name, score in scores.items()}
        except (NonFiniteScore, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the scores in {saved[-1]} cannot be read: remove the file, or evaluate again") from error
        return [*markdown_table(values), *(f"\nCaution: {markdown_text(str(caution))}." for caution in cautions)]
    lines = read_log(log)
    finite = {name: value for name, value in (lines[-1] if lines else {}).items() if is_finite(value)}
    if not finite:
        return ["Nothing."]
    return ["No quality figures. The last line of the training log:", "", *markdown_table(finite)]


def markdown_table(values: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table with the columns quantity and value."""
    shown = {name: f"{value:.5g}" if isinstance(value, float) else str(value)[:200] for name, value in values.items()}
    rows = [f"| {markdown_name(name)} | {markdown_text(value)} |" for name, value in shown.items()]
    return ["| quantity | value |", "|---|---|", *rows]
