"""Plots of one run over its steps, and of a study over its settings, by matplotlib."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from biggan.analysis.collapse_rules import Alarm, Line
from biggan.data.sources import open_image
from biggan.runtime.errors import ConfigError

SCORES = (
    "fid",
    "frechet_distance",
    "kid",
    "kernel_distance",
    "inception_score",
    "exp_kl_score",
    "accuracy",
    "conditional_accuracy",
    "test_error",
)

KINDS = {
    "sigma0": "first singular value",
    "ratio": "first / second singular value",
    "frobenius": "Frobenius norm",
    "gradient": "length of the gradient",
    "moment2": "root mean square of Adam's second moment",
}


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that size in inches. Raises ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("plots need matplotlib: pip install 'biggan-torch[metrics]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def column(lines: Iterable[Line], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity."""
    pairs = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in pairs], [value for _, value in pairs]


def plot_run(lines: list[Line], alarms: list[Alarm], folder: Path) -> list[Path]:
    """run.png (losses, D's scores and calls, diversity, scores) and, where weights were watched, one file for each of
    KINDS, G and D side by side, a line for each weight; alarms are dashed. The files."""
    keys = list(dict.fromkeys(key for line in lines for key in line))
    files = [folder / "run.png"]
    overview(lines, keys, alarms, files[0])
    watched = [line for line in lines if any(key.startswith("sigma0/") for key in line)]
    if not watched:
        return files
    for kind, title in KINDS.items():
        files.append(folder / f"{kind}.png")
        figure = new_figure(13, 5)
        for axes, network in zip(figure.subplots(1, 2), ("generator", "discriminator"), strict=True):
            names = [key.partition("/")[2] for key in keys if key.startswith(f"sigma0/{network}/")]
            shown = False
            for index, name in enumerate(names):
                steps, values = layer_values(watched, kind, name)
                shown = shown or any(value > 0 for value in values)
                style = ("-", "--", ":")[index // 10 % 3]
                axes.plot(steps, values, style, label=name.removeprefix(f"{network}/").removesuffix(".weight"), lw=1)
            axes.set(title=f"{network}: {title}", xlabel="step", yscale="log" if shown else "linear")
            mark(axes, alarms)
            axes.legend(fontsize=5, ncols=3, loc="upper left")
        figure.savefig(files[-1], dpi=110)
    return files


def layer_values(lines: list[Line], kind: str, name: str) -> tuple[list[int], list[float]]:
    """A quantity of one weight over the steps."""
    if kind != "ratio":
        return column(lines, f"{kind}/{name}")
    both = [line for line in lines if f"sigma1/{name}" in line and line[f"sigma1/{name}"] > 0]
    return [line["step"] for line in both], [line[f"sigma0/{name}"] / line[f"sigma1/{name}"] for line in both]


def overview(lines: list[Line], keys: list[str], alarms: list[Alarm], file: Path) -> None:
    """Everything that is one number for the whole run."""
    groups = {
        "losses": [key for key in keys if key.startswith(("D/", "G/"))],
        "D's mean scores": ["D/logit_real", "D/logit_fake"],
        "share that D calls right (real: called real)": [key for key in keys if key.startswith("D_") and "right" in key],
        "distance of pairs of samples": ["diversity", "diversity_within_class"],
    }
    groups |= {key.replace("_", " "): [key] for key in SCORES if key in keys}
    tables = [key for key in keys if key.startswith("class/")]
    lines = [line | lengths_of_classes(line, tables) for line in lines]
    groups["class vectors"] = [
        f"{kind} of {table.removeprefix('class/')}" for table in tables for kind in ("longest", "median")
    ]
    keys = [*keys, *groups["class vectors"]]
    groups = {title: [key for key in names if key in keys] for title, names in groups.items()}
    groups = {title: names for title, names in groups.items() if names}
    rows = -(-len(groups) // 3)
    figure = new_figure(14, 3.6 * rows)
    panels = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axes, (title, names) in zip(panels, groups.items(), strict=False):
        for name in names:
            axes.plot(*column(lines, name), label=name.replace("_", " "), lw=1)
        axes.set(title=title, xlabel="step")
        axes.locator_params(axis="x", nbins=6)
        mark(axes, alarms)
        axes.legend(fontsize=7)
    for axes in panels[len(groups) :]:
        axes.axis("off")
    figure.savefig(file, dpi=100)


def lengths_of_classes(line: Line, tables: list[str]) -> Line:
    """The longest and the median class vector of each table."""
    found = {}
    for table in tables:
        if table in line:
            name = table.removeprefix("class/")
            found |= {f"longest of {name}": max(line[table]), f"median of {name}": statistics.median(line[table])}
    return found


def mark(axes: Any, alarms: list[Alarm]) -> None:
    """A dashed line at each alarm, named."""
    for index, alarm in enumerate(alarms):
        axes.axvline(alarm.step, color="red", linestyle="--", lw=0.8)
        place = (alarm.step, 0.98 - 0.07 * (index % 6))
        axes.annotate(alarm.rule, place, xycoords=("data", "axes fraction"), fontsize=6, color="red", ha="right", va="top")


def plot_study(results: list[dict[str, Any]], file: Path) -> None:
    """A panel for each score, and one for the steps: a dot for each run, a bar at each mean; crossed where it collapsed."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    scores = list(results[0]["scores"])
    figure = new_figure(3.4 * (len(scores) + 1) + 1.5, 0.32 * len(rows) + 1.4)
    panels = figure.subplots(1, len(scores) + 1, sharey=True)
    for axes, name in zip(panels, ["steps", *scores], strict=True):
        for place, row in enumerate(rows):
            mine = [result for result in results if result["row"] == row]
            values = [result["steps"] if name == "steps" else result["scores"][name] for result in mine]
            marks = ["x" if result["collapsed"] else "o" for result in mine]
            for value, sign in zip(values, marks, strict=True):
                axes.plot(value, place, sign, color="C0", ms=5)
            axes.plot(sum(values) / len(values), place, "|", color="black", ms=14)
        axes.set(title="steps to collapse (x) or end" if name == "steps" else name.replace("_", " "))
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), labels=rows)
    panels[0].invert_yaxis()
    figure.savefig(file, dpi=110)


def sheet_of_rows(sheets: dict[str, Path], file: Path) -> None:
    """The top of each setting's sheet, one below the other, named."""
    strips = []
    for name, path in sheets.items():
        with open_image(path) as sheet:
            strip = sheet.convert("RGB").crop((0, 0, sheet.width, min(sheet.height, sheet.width // 5)))
        strips.append((name, strip))
    if not strips:
        return
    width, label = max(strip.width for _, strip in strips), 14
    whole = Image.new("RGB", (width, sum(strip.height + label for _, strip in strips)), "white")
    draw, top = ImageDraw.Draw(whole), 0
    for name, strip in strips:
        draw.text((2, top + 1), name, fill="black")
        whole.paste(strip, (0, top + label))
        top += strip.height + label
    whole.save(file)
