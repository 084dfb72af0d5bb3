"""The command line. Grouped as a person thinks.

The only room that parses arguments, prints results and exits. A user's error is one line and exit code 2.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from biggan.cli.analyze import analyze
from biggan.cli.bench import bench
from biggan.cli.classify import classify
from biggan.cli.convert import export, import_
from biggan.cli.data import data
from biggan.cli.diagnose import leakage, memorization
from biggan.cli.evaluate import evaluate
from biggan.cli.explore import interpolate, mix, neighbors
from biggan.cli.sample import sample
from biggan.cli.study import study
from biggan.cli.toy_games import games
from biggan.cli.train import train
from biggan.cli.truncation import truncation
from biggan.runtime.errors import ConfigError, TrainingDiverged, UserError, suggestion
from biggan.runtime.logging import set_up_logging

USAGE = """usage: biggan COMMAND ...

make      train PRESET --data SOURCE     train a generator, or carry on with a run
          sample RUN --n 64 --out DIR    draw images from a trained generator
          classify RUN IMAGES            what a semi-supervised discriminator takes each image for
look      interpolate RUN                between latents and classes: a sheet, a GIF or an MP4
          mix RUN --classes cat:0.6,dog:0.4    blends of classes
          neighbours RUN --data SOURCE   the real images nearest to generated ones
measure   evaluate RUN --data SOURCE     Inception Score, FID, KID, precision, recall, density, coverage, accuracy
          truncation RUN --data SOURCE   those against the truncation: a curve, plots, sheets
          memorisation RUN --data TRAIN --held-out TEST    how many of each its discriminator calls real
          leakage RUN --extractor module:FILE    which classes are taken for which
          bench train PRESET             images per second, FLOP per second, memory, phases; also sample, data, evaluate
understand  analyze RUN              alarms over its logs; singular values, losses, scores and samples over time
          study NAME --data SOURCE     a table of runs over settings and seeds: table1, latents, r1, collapse, ...
          games                          two-player games in two numbers, and four ways to play them
move      data inspect SOURCE            counts, sizes, broken files and a sheet of a data set
          data prepare SOURCE OUT        decode it once, into one file or into shards
          import SOURCE --out DIR        weights of BigGAN-PyTorch or Hugging Face's BigGAN, as a model folder
          export RUN --to onnx           a safetensors file, an ONNX graph, or a folder for the hub

biggan COMMAND --help tells the rest.
"""

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sample": sample,
    "classify": classify,
    "interpolate": interpolate,
    "mix": mix,
    "neighbours": neighbors,
    "evaluate": evaluate,
    "truncation": truncation,
    "memorisation": memorization,
    "leakage": leakage,
    "bench": bench,
    "analyze": analyze,
    "study": study,
    "games": games,
    "data": data,
    "import": import_,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 training diverged, 2 a user's error, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--"]:  # torchrun on Python 3.11 takes --run for its own --run-path unless told where its words end
        arguments = arguments[1:]
    set_up_logging()
    try:
        sys.exit(run(arguments))
    except UserError as error:
        if not error.reported_by_rank_zero:
            print(f"biggan: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingDiverged as error:
        print(f"biggan: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        again = "; the same command carries on from the last checkpoint" if arguments[:1] == ["train"] else ""
        print(f"biggan: interrupted{again}", file=sys.stderr)
        sys.exit(130)


def run(arguments: list[str]) -> int:
    """Dispatch to a command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        raise ConfigError(f"no command {command!r}; {suggestion(command, COMMANDS)}")
    return COMMANDS[command](rest)
