"""Plots of truncation curves, drawn with matplotlib."""

from pathlib import Path

from biggan.analysis.run_plots import new_figure, save_figure
from biggan.analysis.truncation import CurvePoint
from biggan.runtime.text import plot_text

NO_TRUNCATION = 4.0  # position of "none" on the axis of thresholds


def plot_curves(curves: dict[str, list[CurvePoint]], folder: Path) -> list[Path]:
    """Plot named curves; returns the files. distance-against-score.png has the distance to the real images against the
    Inception Score, as BigGAN's figures; against-threshold.png has a panel for each score.

    Raises ConfigError where matplotlib is not installed, OSError where the folder cannot be written."""
    first = next(iter(curves.values()))[0]
    scores = [name for name in first.evaluation.scores if not name.startswith("intra")]
    distance, entropy_score = first.axes()
    files = []
    if distance and entropy_score:
        figure = new_figure(6, 4.5)
        axes = figure.subplots()
        for label, points in curves.items():
            axes.plot([p.value(entropy_score) for p in points], [p.value(distance) for p in points], "o-", label=label)
            for point in points:
                axes.annotate(point.name, (point.value(entropy_score), point.value(distance)), fontsize=7)
        axes.set(xlabel=plot_text(entropy_score.replace("_", " ")), ylabel=plot_text(distance.replace("_", " ")))
        axes.legend()
        files.append(folder / "distance-against-score.png")
        save_figure(figure, files[-1], dpi=120)
    rows = -(-len(scores) // 3)
    figure = new_figure(12, 3 * rows)
    panels = figure.subplots(rows, 3, squeeze=False).flat
    for axes, score in zip(panels, scores, strict=False):
        for label, points in curves.items():
            positions = [point.threshold or NO_TRUNCATION for point in points]
            axes.plot(positions, [point.value(score) for point in points], "o-", label=label)
        axes.set(title=plot_text(score.replace("_", " ")), xlabel="threshold", xscale="log")
        tick_labels = {point.threshold or NO_TRUNCATION: point.name for points in curves.values() for point in points}
        axes.set_xticks(list(tick_labels), labels=list(tick_labels.values()))
        axes.minorticks_off()
    for axes in list(figure.axes)[len(scores) :]:
        axes.axis("off")
    figure.axes[0].legend()
    files.append(folder / "against-threshold.png")
    save_figure(figure, files[-1], dpi=120)
    return files
