"""The games: slopes against finite differences, who circles, who arrives."""

import pytest
from conftest import call

from biggan.studies.toy_games import GAMES, GradientDescent, HistoricalAveraging, Point, distances, is_far, solvers, turns


@pytest.mark.parametrize("name", GAMES)
def test_slopes_against_finite_differences(name):
    game = GAMES[name]
    for x, y in ((1.5, 1.5), (-0.7, 2.0), (0.3, -1.0)):
        slope = game.slope(Point(x, y))
        by_x = (game.value(Point(x + 1e-5, y)) - game.value(Point(x - 1e-5, y))) / 2e-5
        by_y = (game.value(Point(x, y + 1e-5)) - game.value(Point(x, y - 1e-5))) / 2e-5
        assert slope == pytest.approx((by_x, by_y), abs=1e-6)


@pytest.mark.parametrize("name", GAMES)
def test_nobody_gains_by_moving_at_the_equilibrium(name):
    game = GAMES[name]
    assert game.slope(game.equilibrium) == (0, 0)


def test_gradient_descent_circles_and_never_arrives():
    for game in GAMES.values():
        path = GradientDescent(0.02).path(game, 2000)
        away = distances(path, game)
        assert turns(path, game) > 5
        assert min(away) > 0.9 * min(away[:200])
        assert away[-1] > away[0]


def test_on_xy_gradient_descent_grows_as_its_step_says():
    """Each step of x, y -> x - r y, y + r x lengthens the radius by sqrt(1 + r^2)."""
    away = distances(GradientDescent(0.1).path(GAMES["xy"], 100), GAMES["xy"])
    assert away[100] / away[0] == pytest.approx((1 + 0.1**2) ** 50)


def test_historical_averaging_reaches_the_papers_equilibrium():
    path = HistoricalAveraging(0.02, 0.3).path(GAMES["bent"], 2000)
    assert abs(path[-1].x - 1) < 1e-2
    assert abs(path[-1].y - 1) < 1e-2


@pytest.mark.parametrize("name", ["extragradient", "optimistic"])
def test_the_other_solvers_arrive_too(name):
    for game in GAMES.values():
        away = distances(solvers(0.1, 0.3)[name].path(game, 2000), game)
        assert away[-1] < 1e-3


def test_the_command(capsys, tmp_path):
    code, out, _ = call(capsys, "toy-games", "--steps", 300, "--out", tmp_path / "g")
    assert code == 0
    assert "historical averaging" in out
    assert {file.name for file in (tmp_path / "g").iterdir()} == {"xy.png", "bent.png"}


@pytest.mark.parametrize("words", [("--rate", 0), ("--steps", 0), ("--strength", -1)])
def test_bad_numbers(words, capsys, tmp_path):
    code, _, err = call(capsys, "toy-games", *words, "--out", tmp_path)
    assert code == 2
    assert err.startswith("biggan: ")


def test_running_away_ends_one_path_and_is_told(capsys, tmp_path):
    path = GradientDescent(0.5).path(GAMES["bent"], 5000)
    assert len(path) < 100
    assert is_far(path[-1])
    assert not is_far(path[-2])
    code, out, _ = call(capsys, "toy-games", "--rate", 0.5, "--steps", 5000, "--out", tmp_path)
    assert code == 0
    assert f"gradient descent      runs away, at step {len(path) - 1}" in out
