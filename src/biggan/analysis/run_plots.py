"""Plots of a run over its generator steps, and of a study over its settings, drawn with matplotlib."""

import math
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from biggan.analysis.collapse_rules import Alarm, Line
from biggan.data.image_decoding import open_image
from biggan.metrics.evaluate import SCORE_NAMES
from biggan.runtime.atomic_io import atomic_path
from biggan.runtime.errors import ConfigError
from biggan.runtime.text import plot_text, printable
from biggan.sampling.image_io import save_image

SCORES = (*SCORE_NAMES, "conditional_accuracy", "test_error")

# {file name: title}; the names, except "ratio", begin the log keys: "sigma0/generator/linear.weight".
WEIGHT_QUANTITIES = {
    "sigma0": "first singular value",
    "ratio": "first / second singular value",
    "frobenius": "Frobenius norm",
    "grad_norm": "norm of the gradient",
    "moment2": "square root of Adam's mean second moment",
}

MAX_DRAWN = 1e100
"""Larger values are gaps in plots: matplotlib cannot compute with them."""

LINE_STYLES = ("-", "--", ":", "-.")

LEGEND_COLUMNS = 3

Curve = tuple[list[int], list[float]]  # steps, and the value at each


def new_figure(width: float, height: float) -> Any:
    """An empty figure, width and height in inches. Raises ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("plots need matplotlib: pip install 'biggan-torch[metrics]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, file: Path, **options: Any) -> None:
    """Write a figure, whole or not at all; `options` are matplotlib's. Raises OSError."""
    with atomic_path(file) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, and of layouts that do not fit
        figure.savefig(scratch, **options)


def column(lines: Iterable[Line], key: str) -> Curve:
    """Steps and values of one quantity, of the lines that hold it."""
    pairs = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in pairs], [value if abs(value) < MAX_DRAWN else math.nan for _, value in pairs]


def plot_run(lines: list[Line], alarms: list[Alarm], folder: Path) -> list[Path]:
    """Plot the logs of a run, `lines` in the order of their steps, with a dashed line at each alarm; returns the files.

    run.png has a panel for each of losses, logits, accuracies, diversity, class embeddings and scores. Where the collapse
    monitor has measured the weights, there is also a file for each of `WEIGHT_QUANTITIES` in the logs, with a line for each
    weight, generator and discriminator side by side. Raises ConfigError where matplotlib is not installed, OSError where the
    folder cannot be written."""
    files = [folder / "run.png"]
    keys = list(dict.fromkeys(key for line in lines for key in line))
    plot_overview(lines, keys, alarms, files[0])
    for quantity, title in WEIGHT_QUANTITIES.items():
        prefix = "sigma1" if quantity == "ratio" else quantity
        names = [key.removeprefix(f"{prefix}/") for key in keys if key.startswith(f"{prefix}/")]
        if names:
            files.append(folder / f"{quantity}.png")
            curves = {name: weight_values(lines, quantity, name) for name in names}
            plot_weights(curves, title, alarms, files[-1])
    return files


def plot_overview(lines: list[Line], keys: list[str], alarms: list[Alarm], file: Path) -> None:
    """A panel for each group of quantities that are single numbers for a run; `keys`: those of all lines."""
    norm_keys = [key for key in keys if key.startswith("class_norm/")]
    lines = [line | summarize_class_norms(line, norm_keys) for line in lines]
    logits, accuracies = ([key for key in keys if key.startswith(prefix)] for prefix in ("D/logit_", "D/acc_"))
    panels: dict[str, list[str]] = {
        "losses and penalties": [key for key in keys if key[:2] in ("D/", "G/") and key not in logits + accuracies],
        "mean logits of D": logits,
        "accuracy of D": accuracies,
        "mean distance between samples": [key for key in ("diversity", "diversity_within_class") if key in keys],
        "norms of class embeddings": [f"{key}, {name}" for key in norm_keys for name in ("largest", "median")],
    }
    panels |= {key.replace("_", " "): [key] for key in SCORES if key in keys}
    panels = {title: names for title, names in panels.items() if names}
    rows = max(1, math.ceil(len(panels) / 3))
    figure = new_figure(14, 3.8 * rows)
    all_axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axes, (title, names) in zip(all_axes, panels.items(), strict=False):
        for name in names:
            axes.plot(*column(lines, name), label=plot_text(name.removeprefix("class_norm/")), lw=1)
        axes.set(title=plot_text(title), xlabel="step")
        axes.locator_params(axis="x", nbins=6)
        mark_alarms(axes, alarms)
        if len(names) > 1:
            axes.legend(fontsize=8)
    for axes in all_axes[len(panels) :]:
        axes.axis("off")
    save_figure(figure, file, dpi=100)


def plot_weights(curves: dict[str, Curve], title: str, alarms: list[Alarm], file: Path) -> None:
    """A line for each weight, generator and discriminator side by side; `curves`: {"generator/linear.weight": values}. The
    legends stand below the panels."""
    networks = ("generator", "discriminator")
    names = {network: [name for name in curves if name.startswith(f"{network}/")] for network in networks}
    legend_rows = math.ceil(max(map(len, names.values())) / LEGEND_COLUMNS)
    figure = new_figure(15, 5 + 0.17 * legend_rows)
    for axes, network in zip(figure.subplots(1, 2), networks, strict=True):
        for index, name in enumerate(names[network]):
            style = LINE_STYLES[index // 10 % len(LINE_STYLES)]  # matplotlib repeats its colors after 10 lines
            label = name.removeprefix(f"{network}/").removesuffix(".weight")
            axes.plot(*curves[name], style, label=plot_text(label), lw=1)
        positive = any(value > 0 for name in names[network] for value in curves[name][1])
        axes.set(title=f"{network}: {title}", xlabel="step", yscale="log" if positive else "linear")
        mark_alarms(axes, alarms)
        if names[network]:
            axes.legend(fontsize=7, ncols=LEGEND_COLUMNS, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save_figure(figure, file, dpi=110)


def weight_values(lines: list[Line], quantity: str, name: str) -> Curve:
    """Steps and values of one quantity of one weight."""
    if quantity != "ratio":
        return column(lines, f"{quantity}/{name}")
    with_both = [line for line in lines if line.get(f"sigma1/{name}", 0) > 0]
    return [line["step"] for line in with_both], [line[f"sigma0/{name}"] / line[f"sigma1/{name}"] for line in with_both]


def summarize_class_norms(line: Line, keys: list[str]) -> Line:
    """The largest and the median norm of the class embeddings under each key of a line."""
    summary: Line = {}
    for key in keys:
        if key in line:
            summary |= {f"{key}, largest": max(line[key]), f"{key}, median": statistics.median(line[key])}
    return summary


def mark_alarms(axes: Any, alarms: list[Alarm]) -> None:
    """A dashed vertical line at the step of each alarm, with the name of its rule."""
    for index, alarm in enumerate(alarms):
        axes.axvline(alarm.step, color="red", linestyle="--", lw=0.8)
        position = (alarm.step, 0.98 - 0.07 * (index % 6))  # staggered, so that names of close alarms do not overlap
        style = {"fontsize": 6, "color": "red", "ha": "right", "va": "top"}
        axes.annotate(plot_text(alarm.rule), position, xycoords=("data", "axes fraction"), **style)


def plot_study(results: list[dict[str, Any]], file: Path) -> None:
    """A panel for the number of steps and one for each score, a row for each setting: a bar at the mean and a mark for each
    run, a cross where it collapsed."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    scores = list(results[0]["scores"])
    figure = new_figure(3.4 * (len(scores) + 1) + 1.5, 0.32 * len(rows) + 1.4)
    panels = figure.subplots(1, len(scores) + 1, sharey=True)
    for axes, name in zip(panels, ["steps", *scores], strict=True):
        for y, row in enumerate(rows):
            row_results = [result for result in results if result["row"] == row]
            values = [result["steps"] if name == "steps" else result["scores"][name] for result in row_results]
            markers = ["x" if result["collapsed"] else "o" for result in row_results]
            for value, marker in zip(values, markers, strict=True):
                axes.plot(value, y, marker, color="C0", ms=5)
            axes.plot(sum(values) / len(values), y, "|", color="black", ms=14)
        axes.set(title="steps to collapse (x) or end" if name == "steps" else plot_text(name.replace("_", " ")))
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), labels=[plot_text(row) for row in rows])
    panels[0].invert_yaxis()
    save_figure(figure, file, dpi=110)


def stack_sheets(sheets: dict[str, Path], file: Path) -> None:
    """Write one image with the top of each sample sheet under the name of its setting. Writes nothing for no sheets; raises
    OSError where the file cannot be written."""
    strips = []
    for name, path in sheets.items():
        with open_image(path) as sheet:
            strip = sheet.convert("RGB").crop((0, 0, sheet.width, min(sheet.height, sheet.width // 5)))
        strips.append((name, strip))
    if not strips:
        return
    width, label_height = max(strip.width for _, strip in strips), 14
    canvas = Image.new("RGB", (width, sum(strip.height + label_height for _, strip in strips)), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for name, strip in strips:
        draw.text((2, top + 1), printable(name), fill="black")
        canvas.paste(strip, (0, top + label_height))
        top += strip.height + label_height
    save_image(canvas, file)
