"""biggan bench."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from biggan.cli.arguments import parse, preset_argument, value_of
from biggan.cli.make import start_from
from biggan.config import RunConfig
from biggan.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BenchCommand:
    """Measure the speed of a preset's training on this machine, on random images."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    compare: tuple[str, ...] = ()
    """A second setting, run alternately with the first: train.precision=fp32 train.memory_format=contiguous ..."""
    rounds: int = 5
    """How often each setting is timed; the medians are reported."""
    seconds: float = 5.0
    """Length of each timing."""


def bench(arguments: list[str]) -> int:
    """biggan bench train PRESET [options]"""
    if not arguments or arguments[0] not in ("train", "-h", "--help"):
        raise ConfigError(f"bench {arguments[0] if arguments else ''}: name what to measure; known: train")
    base = start_from(preset_argument("bench train", arguments[1:]), value_of("--init-from", arguments))
    prog = f"biggan bench train {' '.join(arguments[1:2])}"
    command = parse(BenchCommand, arguments[2:], prog, BenchCommand(config=base))
    from biggan.bench import bench_train, with_settings
    from biggan.precision import keep_freed_memory

    keep_freed_memory()
    command.config.check()
    settings = {"this setting": command.config}
    if command.compare:
        settings[" ".join(command.compare)] = with_settings(command.config, command.compare)
    print(bench_train(settings, rounds=command.rounds, seconds=command.seconds), end="")
    return 0
