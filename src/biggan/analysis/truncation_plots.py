"""Plots of a truncation curve, by matplotlib."""

from pathlib import Path

from biggan.analysis.run_plots import new_figure
from biggan.analysis.truncation import DISTANCES, ENTROPIES, Point

NO_TRUNCATION = 4.0  # where "none" stands on the axis of thresholds


def plot_curves(curves: dict[str, list[Point]], folder: Path) -> list[Path]:
    """distance-against-score.png, as in the paper's figures, and against-threshold.png, one panel per score; the files.

    Raises ConfigError where matplotlib is not installed, OSError where the folder cannot be written."""
    first = next(iter(curves.values()))[0]
    scores = [name for name in first.evaluation.scores if not name.startswith("intra")]
    distance = next((name for name in scores if name in DISTANCES), None)
    entropy = next((name for name in scores if name in ENTROPIES), None)
    files = []
    if distance and entropy:
        figure = new_figure(6, 4.5)
        axes = figure.subplots()
        for label, points in curves.items():
            axes.plot([p.value(entropy) for p in points], [p.value(distance) for p in points], "o-", label=label)
            for point in points:
                axes.annotate(point.name, (point.value(entropy), point.value(distance)), fontsize=7)
        axes.set(xlabel=entropy.replace("_", " "), ylabel=distance.replace("_", " "))
        axes.legend()
        files.append(folder / "distance-against-score.png")
        figure.savefig(files[-1], dpi=120)
    rows = -(-len(scores) // 3)
    figure = new_figure(12, 3 * rows)
    panels = figure.subplots(rows, 3, squeeze=False).flat
    for axes, score in zip(panels, scores, strict=False):
        for label, points in curves.items():
            places = [point.threshold or NO_TRUNCATION for point in points]
            axes.plot(places, [point.value(score) for point in points], "o-", label=label)
        axes.set(title=score.replace("_", " "), xlabel="threshold", xscale="log")
        named = {point.threshold or NO_TRUNCATION: point.name for points in curves.values() for point in points}
        axes.set_xticks(list(named), labels=list(named.values()))
        axes.minorticks_off()
    for axes in list(figure.axes)[len(scores) :]:
        axes.axis("off")
    figure.axes[0].legend()
    files.append(folder / "against-threshold.png")
    figure.savefig(files[-1], dpi=120)
    return files
