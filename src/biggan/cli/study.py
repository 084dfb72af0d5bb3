"""biggan study: a table of runs over settings and seeds."""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from biggan.cli.common import check_between, check_out_folder, option_value, parse, writing_to
from biggan.cli.output import say, say_text
from biggan.cli.train import start_from
from biggan.configs.monitor import MonitorConfig
from biggan.configs.overrides import replace_fields
from biggan.configs.presets import preset
from biggan.configs.run import RunConfig
from biggan.configs.unused import useless_settings
from biggan.metrics.evaluate import EvalConfig
from biggan.runtime.atomic_io import append_text, write_file
from biggan.runtime.errors import ConfigError, suggestion
from biggan.studies.definitions import STUDIES

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from biggan.studies.runner import Run


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train every setting of a study with several seeds, one run after the other, and write the table. The same command
    resumes where it stopped. Every option of `biggan train` is an option here, for all runs."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    preset: str | None = None
    """What the settings change; None: what suits the study, cifar10 for most."""
    seeds: int = 3
    """Runs of each setting, with the seeds from --train.seed on."""
    steps: int | None = None
    """Generator steps of each run, as --train.steps."""
    part: str | None = None
    """K/N: only every N-th run, from the K-th on, for several machines or processes; the table has what there is."""
    list_commands: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Write the list of commands, and run nothing."""
    trust_extractor: bool = False
    """Run the code in the FILE of --eval.extractor module:FILE, in all runs. It is remembered by the file's sha256."""
    out: Path | None = None
    """Folder of the study; None: studies/NAME."""

    def check(self) -> None:
        """Raises ConfigError on what cannot be run."""
        check_between(seeds=(self.seeds, 1, 1000), steps=(self.steps, 1, 10**9))
        check_out_folder(self.out)
        if self.part is not None:
            self.chosen([])
        if self.part is not None and self.list_commands:
            raise ConfigError(f"--part {self.part} chooses runs, and --list runs none: give one of them")

    def chosen(self, runs: "list[Run]") -> "list[Run]":
        """The runs of this part. Raises ConfigError on a part that makes no sense."""
        first, _, of = (self.part or "1/1").partition("/")
        if not (first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of)):
            raise ConfigError(f"--part {self.part}: give K/N with K from 1 to N, such as 2/4")
        return runs[int(first) - 1 :: int(of)]


def study(arguments: list[str]) -> int:
    """biggan study NAME --data SOURCE --steps N --seeds 3 [options]"""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        say("usage: biggan study NAME --data SOURCE [--preset PRESET] [--steps N] [--seeds 3] [options of biggan train]", "")
        say(*(f"  {known:18} {found.title}" for known, found in STUDIES.items()))
        return 0
    if name not in STUDIES:
        raise ConfigError(f"no study {name!r}; {suggestion(name, STUDIES)}")
    words = arguments[1:]
    plain = preset(option_value("--preset", words) or STUDIES[name].preset)
    base = start_from(plain, option_value("--init-from", words))
    command = parse(StudyCommand, words, f"biggan study {name}", StudyCommand(config=base))
    if command.steps is not None and command.config.train.minutes != base.train.minutes:
        raise ConfigError("--steps and --train.minutes both say how long a run is: give one")
    config = for_a_study(command.config, base, command.steps)
    command.check()
    config.check()
    for line in useless_settings(config, base):
        logger.warning("%s", line)
    if not config.data.source:
        raise ConfigError(f"study {name} needs images: add --data SOURCE")
    from biggan.data.dataset import count_images_and_classes
    from biggan.studies.runner import list_runs, measure_survival, written

    if not command.list_commands:
        count_images_and_classes(config.data)  # each of the runs would say what is wrong with it
    out = command.out or Path("studies") / name
    runs = list_runs(STUDIES[name], config, base if config.init_from else plain, command.seeds, out)
    if command.trust_extractor:
        runs = [run._replace(command=[*run.command, "--trust-extractor"]) for run in runs]
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "commands.txt", "".join(written(run.command) + "\n" for run in runs).encode())
    logger.info("%d runs; their commands are in %s", len(runs), out / "commands.txt")
    failed = 0
    for run in [] if command.list_commands else command.chosen(runs):
        failed += not train_one(run)
        if STUDIES[name].measures_survival:
            measure_survival(run, trust_extractor=command.trust_extractor)
    say_text(write_table(name, runs, out))
    if failed:
        raise ConfigError(
            f"{failed} of the runs failed (see the errors above): fix the cause and run the same command again"
        )
    return 0


def for_a_study(config: RunConfig, base: RunConfig, steps: int | None) -> RunConfig:
    """The config, made from `base`, with so many steps, and, unless it says otherwise, four evaluations with an Inception
    Score beside the distance, and weights measured often enough for the rules."""
    if steps is not None:
        start, before = config.train.lr_decay_start, base.train
        if start is not None and (start, config.train.steps) == (before.lr_decay_start, before.steps):
            start = start * steps // before.steps  # at the same share of the steps
        config = replace_fields(config, {"train.steps": steps, "train.minutes": None, "train.lr_decay_start": start})
    if config.eval.every is None:
        config = replace_fields(config, {"eval.every": max(1, config.train.steps // 4)})
    if config.eval.recipe == EvalConfig.recipe:
        config = replace_fields(config, {"eval.recipe": "fid5k,is5k"})
    if config.monitor.every == MonitorConfig.every:
        config = replace_fields(config, {"monitor.every": min(MonitorConfig.every, max(1, config.train.steps // 20))})
    return config


def train_one(run: "Run") -> bool:
    """One run, as a process of its own, unless it is done; whether it came to its end, which may be that it diverged."""
    from biggan.studies.runner import diverged, is_done

    if is_done(run):
        logger.info("%s, seed %d: done", run.row.name, run.seed)
        return True
    logger.info("%s, seed %d: training in %s", run.row.name, run.seed, run.folder.path)
    log = run.folder.path.with_suffix(run.folder.path.suffix + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    append_text(log, "")  # refuses links
    with open(log, "a") as file:
        code = subprocess.run([sys.executable, "-m", "biggan", *run.command], stdout=file, stderr=file).returncode
    if code == 0 or diverged(run.folder):
        return True
    last = log.read_text(errors="replace").splitlines()[-1:]
    logger.error("%s, seed %d failed with code %d: %s (all of it in %s)", run.row.name, run.seed, code, "".join(last), log)
    return False


def write_table(name: str, runs: "list[Run]", out: Path) -> str:
    """table.md, results.json, plots and a sheet for each row, of the runs that are done; the table."""
    from biggan.studies.runner import is_done, read_result
    from biggan.studies.table import markdown, record

    found = [(run, result) for run in runs if is_done(run) and (result := read_result(run)) is not None]
    if len(found) < len(runs):
        logger.info("%d of %d runs are not done yet", len(runs) - len(found), len(runs))
    if not found:
        return "no run is done yet\n"
    results = [result for _, result in found]
    order = {row: index for index, row in enumerate(dict.fromkeys(run.row.name for run in runs))}
    results.sort(key=lambda result: (order[result["row"]], result["seed"]))
    text = markdown(STUDIES[name], runs, results)
    from biggan.analysis.run_plots import plot_study, stack_sheets

    sheets = {run.row.name: sorted(run.folder.samples.glob("*.png")) for run, _ in reversed(found)}
    with writing_to(out):
        write_file(out / "table.md", text.encode())
        write_file(out / "results.json", (record(STUDIES[name], runs, results) + "\n").encode())
        plot_study(results, out / "scores.png")
        stack_sheets({row: files[-1] for row, files in reversed(sheets.items()) if files}, out / "samples.png")
    return text
