"""Plots of two-player games: the paths of solvers, and their distance to the equilibrium."""

from collections.abc import Sequence
from pathlib import Path

from biggan.analysis.run_plots import new_figure, save_figure

Path2D = Sequence[tuple[float, float]]


def plot_game(title: str, equilibrium: tuple[float, float], paths: dict[str, Path2D], file: Path) -> None:
    """Plot the path of each solver, and the distances to the equilibrium over the steps on a logarithmic axis.
    `paths`: {solver: points (x, y)}. Raises ConfigError where matplotlib is not installed, OSError where the file cannot be
    written."""
    figure = new_figure(3.2 * (len(paths) + 1), 3.6)
    panels = figure.subplots(1, len(paths) + 1)
    for index, (axes, (name, path)) in enumerate(zip(panels, paths.items(), strict=False)):
        x, y = zip(*path, strict=True)
        axes.plot(x, y, lw=0.8, color=f"C{index}")
        axes.plot(*path[0], "o", color="black", ms=4)
        axes.plot(*equilibrium, "+", color="red", ms=10)
        axes.set(title=name, xlabel="x", ylabel="y")
        axes.set_aspect("equal", "datalim")
        distances = [((a - equilibrium[0]) ** 2 + (b - equilibrium[1]) ** 2) ** 0.5 for a, b in path]
        panels[-1].plot(distances, color=f"C{index}", label=name, lw=1)
    panels[-1].set(title="distance to the equilibrium", xlabel="step", yscale="log")
    panels[-1].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    figure.suptitle(f"{title}: start (dot), equilibrium (cross)")
    save_figure(figure, file, dpi=110, bbox_inches="tight")
