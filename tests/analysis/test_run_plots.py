"""Plots of recorded logs: every quantity of today's names finds its panel, also from a log of an earlier version."""

from pathlib import Path

import pytest
from conftest import call

from biggan.analysis import run_plots
from biggan.analysis.collapse_rules import Alarm

RECORD = Path(__file__).resolve().parents[2] / "records" / "2026-11-21_collapse" / "plain"


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in order."""
    drawn, new_figure = [], run_plots.new_figure

    def keep_figure(width, height):
        drawn.append(new_figure(width, height))
        return drawn[-1]

    monkeypatch.setattr(run_plots, "new_figure", keep_figure)
    return drawn


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def check_weight_panels(figure, title):
    """Both panels have lines of several points, and every line can be told from the others by the legend."""
    assert [axes.get_title() for axes in figure.axes] == [f"generator: {title}", f"discriminator: {title}"]
    for axes in figure.axes:
        lines = lines_of(axes)
        assert len(axes.get_legend().get_texts()) == len(lines) > 5
        assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == len(lines)
        assert all(len(line.get_xdata()) > 1 for line in lines.values()), axes.get_title()


def test_an_old_log_fills_every_panel(capsys, tmp_path, figures):
    code, out, err = call(capsys, "analyze", RECORD, "--out", tmp_path)
    assert (code, err) == (0, "")
    quantities = ("sigma0", "ratio", "frobenius")  # the others were not logged then
    files = ["run.png", *(f"{quantity}.png" for quantity in quantities)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    assert [Path(word).name for word in out.split() if word.endswith(".png")] == files
    overview, *weights = figures
    panels = {axes.get_title(): lines_of(axes) for axes in overview.axes if axes.axison}
    embeddings = ("generator/embedding", "discriminator/head.embedding")
    assert {title: set(lines) for title, lines in panels.items()} == {
        "losses and penalties": {"D/loss_real", "D/loss_fake", "G/loss", "G/orthogonal"},
        "mean logits of D": {"D/logit_real", "D/logit_fake"},
        "accuracy of D": {"D/acc_real", "D/acc_fake", "D/acc_train", "D/acc_held_out"},
        "mean distance between samples": {"diversity", "diversity_within_class"},
        "norms of class embeddings": {f"{e}, {kind}" for e in embeddings for kind in ("largest", "median")},
        "frechet distance": {"frechet_distance"},
        "exp kl score": {"exp_kl_score"},
        "accuracy": {"accuracy"},
    }
    assert all(len(line.get_xdata()) > 5 for lines in panels.values() for line in lines.values())
    for figure, quantity in zip(weights, quantities, strict=True):
        check_weight_panels(figure, run_plots.WEIGHT_QUANTITIES[quantity])


def test_gradients_and_moments_of_each_weight(tmp_path, figures):
    keys = [f"{network}/blocks.{i}.weight" for network in ("generator", "discriminator") for i in range(37)]
    lines = [
        {"step": step} | {f"{kind}/{key}": 1.0 + step for kind in ("grad_norm", "moment1", "moment2") for key in keys}
        for step in (100, 200)
    ]
    files = run_plots.plot_run(lines, [], tmp_path)
    assert [file.name for file in files] == ["run.png", "grad_norm.png", "moment2.png"]
    for figure, quantity in zip(figures[1:], ("grad_norm", "moment2"), strict=True):
        check_weight_panels(figure, run_plots.WEIGHT_QUANTITIES[quantity])


def test_names_with_dollars_are_no_formulas(tmp_path, figures):
    """matplotlib takes text between dollars for a formula, and fails where it is none."""
    names = ("D/$\\frac{$", "G/$x^$", "sigma0/generator/$_{$", "sigma0/discriminator/a\x1b\\$b$")
    lines = [{"step": step} | dict.fromkeys(names, 1.0) for step in (1, 2)]
    run_plots.plot_run(lines, [Alarm("$\\rule{$", 1, "", 0)], tmp_path)
    legends = {
        text.get_text()
        for figure in figures
        for axes in figure.axes
        if axes.get_legend()
        for text in axes.get_legend().get_texts()
    }
    assert "D/\\$\\frac{\\$" in legends
    results = [{"row": "$\\frac{$", "seed": 0, "steps": 3, "scores": {"$^$": 1.0}, "collapsed": False}]
    run_plots.plot_study(results, tmp_path / "study.png")
