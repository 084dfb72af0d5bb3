"""biggan analyze: collapse alarms and plots of one run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from biggan.cli.common import check_out_folder, parse, writing_to
from biggan.cli.output import say
from biggan.configs.monitor import MonitorConfig
from biggan.configs.overrides import replace_fields
from biggan.runtime.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class AnalyzeCommand:
    """Analyze a run: alarms over its logs, and plots of its losses, scores, singular values and samples over time."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a folder with its logs."""
    out: Path | None = None
    """Folder for the plots; None: analysis/ in the run."""
    metric_factor: float | None = None
    """A score so many times worse than the best raises an alarm; None: as the run has it."""


def analyze(arguments: list[str]) -> int:
    """biggan analyze RUN [options]"""
    command = parse(AnalyzeCommand, arguments, "biggan analyze")
    from biggan.analysis.collapse_rules import find_alarms
    from biggan.analysis.run_plots import plot_run
    from biggan.checkpoints.init_from import read_run_config
    from biggan.checkpoints.run_dir import RunDir, read_run_logs, refuse_links

    config = read_run_config(command.run).monitor if RunDir(command.run).config_file.exists() else MonitorConfig()
    if command.metric_factor is not None:
        config = replace_fields(config, {"metric_factor": command.metric_factor})
    config.check()
    check_out_folder(command.out)
    lines = read_run_logs(command.run)
    if not lines:
        raise CheckpointError(f"{command.run} holds no log of a run: name a run folder")
    alarms = find_alarms(lines, config)
    for alarm in alarms:
        say(f"alarm at step {alarm.step}: {alarm.rule} ({alarm.evidence}); healthy until step {alarm.healthy}")
    if not alarms:
        say(f"no alarm in {lines[-1]['step']} steps")
    for earlier in sorted([*command.run.glob("rollback-*"), *command.run.glob("return-*")]):  # return-N: earlier versions
        say(f"the run rolled back: its logs as they were are in {earlier}, which can be analyzed too")
    out = command.out or command.run / "analysis"
    if command.out is None:
        refuse_links(command.run, "analysis")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        for plot in plot_run(lines, alarms, out):
            say(f"plot {plot}")
    return 0
