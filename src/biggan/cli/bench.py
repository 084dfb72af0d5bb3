"""biggan bench: speed of training, sampling, reading data and extracting features."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from biggan.cli.common import check_between, option_value, parse, preset_argument
from biggan.cli.output import say, say_text
from biggan.cli.train import start_from
from biggan.configs.run import RunConfig
from biggan.runtime.errors import ConfigError, suggestion

MEASURED = ("train", "sample", "data", "evaluate")


@dataclass(frozen=True, kw_only=True)
class BenchCommand:
    """Measure speed on this machine: of a preset's training on random images, of its generator, of reading a data set, or
    of an extractor (--eval.extractor)."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    compare: tuple[str, ...] = ()
    """train: a second setting, run alternately with the first: train.precision=fp32 train.memory_format=contiguous ..."""
    batch: int = 64
    """sample, evaluate: images per pass."""
    compile: bool = False
    """sample: with torch.compile too."""
    rounds: int = 5
    """train, sample, evaluate: how often each setting is timed; the medians are reported."""
    seconds: float = 5.0
    """Length of each timing."""
    trust_extractor: bool = False
    """evaluate: run the code in the FILE of --eval.extractor module:FILE. It is remembered by the file's sha256."""

    def check(self) -> None:
        """Raises ConfigError on what cannot be measured."""
        check_between(batch=(self.batch, 1, 100_000), rounds=(self.rounds, 1, 10_000), seconds=(self.seconds, 1e-3, 86_400))
        self.config.check()


OPTIONS_OF: dict[str, tuple[object, tuple[str, ...]]] = {
    "compare": ((), ("train",)),
    "batch": (BenchCommand.batch, ("sample", "evaluate")),
    "compile": (False, ("sample",)),
    "rounds": (BenchCommand.rounds, ("train", "sample", "evaluate")),
    "trust_extractor": (False, ("evaluate",)),
}
"""Options that not everything that is measured has: their defaults, and what has them."""


def bench(arguments: list[str]) -> int:
    """biggan bench WHAT PRESET [options]"""
    what = arguments[0] if arguments else ""
    if what in ("-h", "--help"):
        say(f"usage: biggan bench {{{','.join(MEASURED)}}} PRESET [options]", "", "biggan bench train --help: the presets.")
        return 0
    if what not in MEASURED:
        raise ConfigError(f"bench{what and ' ' + what}: name what to measure; {suggestion(what, MEASURED)}")
    base = start_from(preset_argument(f"bench {what}", arguments[1:]), option_value("--init-from", arguments))
    prog = f"biggan bench {what} {' '.join(arguments[1:2])}"
    command = parse(BenchCommand, arguments[2:], prog, BenchCommand(config=base))
    command.check()
    for option, (default, uses) in OPTIONS_OF.items():
        if getattr(command, option) != default and what not in uses:
            raise ConfigError(f"--{option.replace('_', '-')} goes with bench {' and '.join(uses)}, not bench {what}")
    if what == "data" and not command.config.data.source:
        raise ConfigError("bench data needs images: add --data folder:DIR or --data zip:FILE")
    from biggan.configs.overrides import apply_overrides
    from biggan.profiling.benchmark import bench_data, bench_evaluate, bench_sample, bench_train
    from biggan.runtime.memory import keep_freed_memory

    keep_freed_memory()
    timing = {"rounds": command.rounds, "seconds": command.seconds}
    if what == "sample":
        say_text(bench_sample(command.config, batch=command.batch, compiled=command.compile, **timing))
    elif what == "evaluate":
        say_text(bench_evaluate(command.config, batch=command.batch, trust_extractor=command.trust_extractor, **timing))
    elif what == "data":
        say_text(bench_data(command.config, seconds=command.seconds))
    else:
        settings = {"this setting": command.config}
        if command.compare:
            settings[" ".join(command.compare)] = apply_overrides(command.config, command.compare)
        say_text(bench_train(settings, rounds=command.rounds, seconds=command.seconds))
    return 0
