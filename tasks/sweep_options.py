"""The options of a sweep's runs, which are looked at before the first of them starts."""

from collections.abc import Sequence
from pathlib import Path

from tasks.built import shown_config
from tasks.sweep_list import Sweep, SweepRun

KINDS = {"detect": "detector", "segment": "segmentor"}
"""What the models of a task have."""


def check_options(sweep: Sweep, chosen: Sequence[SweepRun], runs: Path, more: Sequence[str]) -> None:
    """Reads the command of one run of each setting as the run itself will read it.

    Args:
        sweep: The sweep.
        chosen: Its runs that are wanted.
        runs: Folder of all runs.
        more: Further options of all runs.

    Raises:
        SystemExit: An option is refused; the command line has said so.
    """
    for run in {run.setting: run for run in chosen}.values():
        shown_config(KINDS[sweep.task], sweep.arguments(run, runs, more))
