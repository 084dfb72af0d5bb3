"""TODO: split from cli.classify."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from biggan.cli.common import parse
from biggan.runtime.errors import ConfigError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class ToyGamesCommand:
    """Play two games in two numbers with gradient descent, historical averaging, extragradient and optimistic steps: the
    paths, and the distance to the equilibrium."""

    game: Literal["both", "xy", "bent"] = "both"
    """xy; bent: the paper's (f(x) - 1)(y - 1)."""
    rate: float = 0.02
    """Length of a step, times the slope."""
    strength: float = 0.3
    """Of historical averaging."""
    steps: int = 2000
    out: Path = Path("games")
    """Folder for a plot of each game."""


def games(arguments: list[str]) -> int:
    """biggan games [options]"""
    command = parse(ToyGamesCommand, arguments, "biggan games")
    from biggan.analysis.toy_game_plots import plot_game
    from biggan.studies.toy_games import GAMES, check, distances, is_far, solvers, turns

    check(command.rate, command.strength, command.steps)
    names = GAMES if command.game == "both" else (command.game,)
    try:
        command.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{command.out} cannot be written ({error}): give another --out") from error
    for name in names:
        game = GAMES[name]
        paths = {
            title: solver.path(game, command.steps) for title, solver in solvers(command.rate, command.strength).items()
        }
        print(f"{game.title}: equilibrium {tuple(game.equilibrium)}, from {tuple(game.start)}, {command.steps} steps")
        for title, path in paths.items():
            away = distances(path, game)
            ends = f"runs away, at step {len(path) - 1}" if is_far(path[-1]) else f"ends {away[-1]:.1e} away"
            print(f"  {title:21} {ends}, after {turns(path, game):.1f} turns around it")
        file = command.out / f"{name}.png"
        plot_game(game.title, game.equilibrium, paths, file)
        print(f"  plot {file}")
    return 0
