"""biggan classify, biggan games."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import tyro
from torch import Tensor

from biggan.cli.arguments import parse, progress_bar
from biggan.errors import ConfigError
from biggan.precision import DeviceName
from biggan.randomness import addressed_generator

if TYPE_CHECKING:
    from biggan.data.sources import Listing


@dataclass(frozen=True, kw_only=True)
class ClassifyCommand:
    """What the discriminator of a semi-supervised run takes each image for; how often it is wrong, where the images lie in
    folders named as its classes."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder, with a classifier."""
    images: tyro.conf.Positional[str]
    """A folder, a .zip, or another data source of single files, as --data of biggan train takes it; not a prepared one."""
    out: Path | None = None
    """A .csv file for every image's class and its probability; None: only the first are shown."""
    batch: int = 100
    """Images at a time, in a fixed random order. Minibatch features compare those with each other, so that with them an
    answer depends a little on the batch, and those of a smaller last one more."""
    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class GamesCommand:
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


def classify(arguments: list[str]) -> int:
    """biggan classify RUN IMAGES [options]"""
    command = parse(ClassifyCommand, arguments, "biggan classify")
    if command.batch < 1:
        raise ConfigError(f"--batch {command.batch} must be at least 1")
    from biggan.checkpoint import ModelFolder
    from biggan.classifier import open_classifier
    from biggan.data.sources import list_source

    classifier = open_classifier(command.model, command.device)
    resolution = ModelFolder(command.model).card.model.resolution
    listing = list_source(command.images)
    count, found = len(listing.images), []
    order = torch.randperm(count, generator=addressed_generator(0, "every image once")).tolist()
    batches = in_batches(listing, order, resolution, command.batch)
    for answer in classifier.predictions(progress_bar(batches, -(-count // command.batch), "classes")):
        found += zip(*(values.tolist() for values in answer), strict=True)
    found = [answer for _, answer in sorted(zip(order, found, strict=True))]
    names = [classifier.class_names[number] for number, _ in found]
    rows = [(image, name, share) for image, name, (_, share) in zip(listing.images, names, found, strict=True)]
    for image, name, probability in rows[: None if command.out is None and len(rows) <= 20 else 10]:
        print(f"{image}  {name}  {probability:.3f}")
    if set(listing.class_names) <= set(classifier.class_names):
        truth = [listing.class_names[label] for label in listing.labels]
        wrong = sum(name != true for name, true in zip(names, truth, strict=True))
        print(f"{wrong} of {len(rows)} wrong ({100 * wrong / len(rows):.2f} %)")
    if command.out is not None:
        write_csv(command.out, rows)
        print(f"every image: {command.out}")
    return 0


def in_batches(listing: "Listing", order: list[int], resolution: int, batch: int) -> Iterator[Tensor]:
    """The images of a listing in this order, uint8 (<= batch, 3, R, R). Raises DataError on one that cannot be read."""
    from biggan.data.layouts import pixels_of

    for first in range(0, len(order), batch):
        part = [pixels_of(listing, index, resolution=resolution)[0] for index in order[first : first + batch]]
        yield torch.stack([torch.from_numpy(pixels.copy()) for pixels in part])


def write_csv(file: Path, rows: list[tuple[str, str, float]]) -> None:
    """One line for each image. Raises ConfigError where it cannot be written."""
    import csv

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["image", "class", "probability"])
            writer.writerows((image, name, f"{probability:.6f}") for image, name, probability in rows)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error}): give another --out") from error


def games(arguments: list[str]) -> int:
    """biggan games [options]"""
    command = parse(GamesCommand, arguments, "biggan games")
    from biggan.analysis.game_plots import plot_game
    from biggan.games import GAMES, check, distances, is_far, solvers, turns

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
