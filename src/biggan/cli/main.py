"""The command line: which verbs there are, how each is found, and what an error looks like.

The only folder that parses arguments, prints results and exits. A user's error is one line and exit code 2. A verb's
module is imported when the verb is asked for, so that help and errors come at once."""

import importlib
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from biggan.cli.output import say_text, tolerant_output
from biggan.runtime.environment import environment_world
from biggan.runtime.errors import ConfigError, TrainingDiverged, UserError, reason_for, remedy_for, suggestion
from biggan.runtime.logging import set_up_logging
from biggan.runtime.text import printable

USAGE = """usage: biggan VERB ...

train and sample
  train PRESET --data SOURCE      train a generator, or resume a run
  sample RUN --n 64 --out DIR     sample images from a trained generator
  interpolate RUN                 between latents and classes: a sheet, a GIF or an MP4
  mix RUN --classes cat:0.6,dog:0.4     mixtures of class embeddings
evaluate
  evaluate RUN --data SOURCE      Inception Score, FID, KID, precision, recall, density, coverage, accuracy
  truncation RUN --data SOURCE    those scores against the truncation threshold: a curve, plots, sheets
  neighbors RUN --data SOURCE     the real images nearest to generated ones
  memorization RUN --data TRAIN --held-out TEST    how many of each its discriminator classifies as real
  leakage RUN --extractor module:FILE    which classes an external classifier confuses
  classify RUN IMAGES             classify images with a semi-supervised discriminator
analyze
  analyze RUN                     collapse alarms over its logs; singular values, losses, scores, samples over time
  study NAME --data SOURCE        a table of runs over settings and seeds: table1, latents, r1, collapse, ...
  toy-games                       two-parameter minimax games, and four solvers
  bench train PRESET              images per second, FLOP per second, memory; also sample, data, evaluate
data and weights
  data inspect SOURCE             counts, sizes, broken files and a sheet of a data set
  data prepare SOURCE OUT         decode it once, into one file or into shards
  import SOURCE --out DIR         weights of BigGAN-PyTorch or Hugging Face's BigGAN, as a model folder
  export RUN --to onnx            a safetensors file, an ONNX graph, or a folder for the hub

biggan VERB --help shows its options.
"""

VERBS = {
    "train": "biggan.cli.train:train",
    "sample": "biggan.cli.sample:sample",
    "interpolate": "biggan.cli.explore:interpolate",
    "mix": "biggan.cli.explore:mix",
    "evaluate": "biggan.cli.evaluate:evaluate",
    "truncation": "biggan.cli.truncation:truncation",
    "neighbors": "biggan.cli.explore:neighbors",
    "memorization": "biggan.cli.diagnose:memorization",
    "leakage": "biggan.cli.diagnose:leakage",
    "classify": "biggan.cli.classify:classify",
    "analyze": "biggan.cli.analyze:analyze",
    "study": "biggan.cli.study:study",
    "toy-games": "biggan.cli.toy_games:toy_games",
    "bench": "biggan.cli.bench:bench",
    "data": "biggan.cli.data:data",
    "import": "biggan.cli.convert:import_",
    "export": "biggan.cli.convert:export",
}
WITH_RANKS = ("train", "sample", "evaluate", "truncation", "bench")
"""Verbs that torchrun may start as several processes; the others work in one."""
NARROWEST = 40
"""Columns of the narrowest terminal that texts are wrapped for."""

RENAMED_VERBS = {"neighbours": "neighbors", "memorisation": "memorization", "games": "toy-games"}


@tolerant_output()
def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 training diverged, 2 a user's error, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--"]:  # needed after torchrun, which takes --run for its own --run-path
        arguments = arguments[1:]
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)  # help texts would be wrapped for ever
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        set_up_logging(logging.INFO)
        sys.exit(run(arguments))
    except UserError as error:
        if not error.reported_by_rank_zero:
            print(f"biggan: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except TrainingDiverged as error:
        print(f"biggan: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        exit_interrupted("".join(map(str, error.args)))
    except Exception as error:
        if interrupted.is_set():  # KeyboardInterrupt in the middle of a library may come out as any other exception
            exit_interrupted()
        if not isinstance(error, (OSError, MemoryError)) and "can't start new thread" not in str(error):
            raise
        print(f"biggan: {printable(system_error(error))}", file=sys.stderr)
        sys.exit(2)


def system_error(error: Exception) -> str:
    """What the system refused, in one line: a folder may not be entered, a name is too long, memory is used up."""
    if isinstance(error, MemoryError):
        return "there is not enough memory: close other programs, or use less data"
    if not isinstance(error, OSError):
        return f"{error}: the system allows no more (ulimit -u): close other programs"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason_for(error)}: {remedy_for(error, 'another path')}"


interrupted = threading.Event()
"""Whether Ctrl-C was pressed."""


def exit_interrupted(hint: str = "") -> NoReturn:
    """Exit as a program that Ctrl-C has ended."""
    if environment_world().is_rank_zero:
        print(f"biggan: interrupted{printable(hint)}", file=sys.stderr)
    sys.exit(130)


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does: it raises KeyboardInterrupt, but ends the process at once while a module is being imported, whose
    code may turn the exception into any other, or print it."""
    interrupted.set()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Find the verb and run it; its exit code. Raises UserError."""
    if not arguments or arguments[0] in ("-h", "--help"):
        say_text(USAGE)
        return 0 if arguments else 2
    verb, *rest = arguments
    if any("\0" in word for word in arguments):
        raise ConfigError("an argument holds a NUL character, which no name and no path can have")
    if any(word == "" or (word.startswith("--") and word.endswith("=")) for word in arguments):
        raise ConfigError("an argument is empty: was a variable of the shell not set?")
    if verb in RENAMED_VERBS:
        raise ConfigError(f"the verb {verb!r} is now {RENAMED_VERBS[verb]!r}")
    if verb not in VERBS:
        raise ConfigError(f"no verb {verb!r}; {suggestion(verb, VERBS)}")
    if verb not in WITH_RANKS and environment_world().size > 1:  # every rank would do all of it, and write the same files
        raise ConfigError(f"biggan {verb} works in one process: start it without torchrun, or unset WORLD_SIZE")
    return load_verb(verb)(rest)


def load_verb(verb: str) -> Callable[[list[str]], int]:
    """The function of a verb: words after it -> exit code."""
    module, _, name = VERBS[verb].partition(":")
    return getattr(importlib.import_module(module), name)
