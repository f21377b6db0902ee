"""A study as it lies on the disk: two tasks, three mechanisms, two seeds, and what else a folder of runs holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run.record import RunRecord
from tests.tasks.report.opened import launched
from tests.tasks.report.run_folders import write_run

QUALITIES = {"none": 0.5, "SqueezeExcitation": 0.53, "CoordinateAttention": 0.6}


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Folder of the runs, and the summaries of the finished ones by their folders. Read-only."""
    root = tmp_path_factory.mktemp("study")
    summaries = {}
    for task in ("detect", "segment"):
        for attention, quality in QUALITIES.items():
            for seed in (0, 1):
                folder = root / task / f"{attention}-seed{seed}"
                summaries[str(folder)] = write_run(folder, task, attention, seed, quality)
    other = root / "detect" / "other-data"
    summaries[str(other)] = write_run(other, quality=0.9, data=1)
    stopped = RunRecord(status="stopped", step=12, reason="stopped by SIGTERM")
    write_run(root / "detect" / "stopped", quality=0.95, seed=2, record=stopped)
    failed = RunRecord(status="failed", step=6, reason="loss is not finite at step 7")
    write_run(root / "segment" / "failed", "segment", seed=2, record=failed)
    RunRecord(status="running", step=3).write(root / "segment" / "early")
    (root / "detect" / "damaged").mkdir()
    (root / "detect" / "damaged" / "summary.json").write_text("{")
    return root, summaries


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The driver, and Debian's Chromium."""
    with launched() as driver_and_chromium:
        yield driver_and_chromium
