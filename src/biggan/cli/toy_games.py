"""biggan toy-games: two-player games in two numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biggan.cli.common import check_between, check_out_folder, parse, writing_to
from biggan.cli.output import say


@dataclass(frozen=True, kw_only=True)
class ToyGamesCommand:
    """Play two games in two numbers with gradient descent, historical averaging, extragradient and optimistic steps: the
    paths, and the distance to the equilibrium."""

    game: Literal["both", "xy", "bent"] = "both"
    """xy: the value x y. bent: the paper's (f(x) - 1)(y - 1), f(x) = x below 0 and x^2 above."""
    rate: float = 0.02
    """Learning rate: a step is this times the gradient."""
    strength: float = 0.3
    """Strength of historical averaging."""
    steps: int = 2000
    """Steps of each solver."""
    out: Path = Path("toy-games")
    """Folder for a plot of each game."""


def toy_games(arguments: list[str]) -> int:
    """biggan toy-games [options]"""
    command = parse(ToyGamesCommand, arguments, "biggan toy-games")
    from biggan.analysis.toy_game_plots import plot_game
    from biggan.studies.toy_games import GAMES, check, distances, is_far, solvers, turns

    check_between(steps=(command.steps, 1, 10_000_000))
    check(command.rate, command.strength, command.steps)
    check_out_folder(command.out)
    names = GAMES if command.game == "both" else (command.game,)
    with writing_to(command.out):
        command.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        game = GAMES[name]
        paths = {
            title: solver.path(game, command.steps) for title, solver in solvers(command.rate, command.strength).items()
        }
        say(f"{game.title}: equilibrium {tuple(game.equilibrium)}, from {tuple(game.start)}, {command.steps} steps")
        for title, path in paths.items():
            away = distances(path, game)
            ends = f"runs away, at step {len(path) - 1}" if is_far(path[-1]) else f"ends {away[-1]:.1e} away"
            say(f"  {title:21} {ends}, after {turns(path, game):.1f} turns around it")
        file = command.out / f"{name}.png"
        plot_game(game.title, game.equilibrium, paths, file)
        say(f"  plot {file}")
    return 0
