"""`run.json` and what the summary takes over from it, also after a kill."""

import json
import os
from pathlib import Path

from tasks.run.clock import RunClock
from tasks.run.record import RunRecord, StartRecord, read_record
from tasks.run.table import CSVMetrics


def test_the_chain_names_every_start_and_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"task": "detect", "seed": 3}))
    record = RunRecord(command=["fit"]).started(0, "node1", tmp_path).with_device("a GPU")
    record.write(tmp_path)
    assert read_record(tmp_path) == record and record.starts[0].device == "a GPU" and record.starts[0].host == "node1"
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "task": "detect",
        "seed": 3,
        "exit": "running, or killed",
        "resumed_at": "",
    }
    stopped = RunRecord(status="stopped", step=6, reason="stopped by SIGTERM", starts=record.starts).ended(7)
    again = stopped.started(6, "node2", tmp_path)
    assert again.status == "running" and again.reason == "" and again.starts[0] == stopped.starts[0]
    assert (stopped.starts[0].last_step, stopped.starts[0].reason) == (7, "stopped by SIGTERM")
    assert stopped.starts[0].ended >= stopped.starts[0].time
    (own := RunRecord(status="finished", step=12, starts=again.starts).ended(12)).write(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["exit"] == own.starts[1].reason == "finished" and summary["resumed_at"] == "6"


def test_a_killed_start_is_closed_by_the_next_one_with_what_it_has_logged(tmp_path: Path) -> None:
    started = RunRecord(starts=[StartRecord("2026-01-01T10:00:00+00:00", "node1", 0)])
    silent = started.started(0, "node1", tmp_path).starts[0]
    assert (silent.reason, silent.ended, silent.last_step) == ("killed", "", None)
    table = CSVMetrics(tmp_path)
    for step in (0, 4):
        table.log_metrics({"train/loss": 1.0}, step)
    table.save()
    os.utime(tmp_path / "metrics.csv", (1767265200,) * 2)  # 2026-01-01, 11:00 UTC
    killed, going_on = started.started(3, "node2", tmp_path).starts
    assert (killed.reason, killed.last_step, going_on.step, going_on.host) == ("killed", 5, 3, "node2")
    assert killed.ended.startswith("2026-01-01T") and "00:00" in killed.ended and going_on.reason == ""
    os.utime(tmp_path / "metrics.csv", (1767250000,) * 2)  # what it holds is of an earlier start
    assert started.started(3, "node2", tmp_path).starts[0].last_step is None


def test_how_a_run_ended_in_words() -> None:
    assert RunRecord().exit == "running, or killed"
    assert RunRecord(status="finished").exit == "finished"
    assert RunRecord(status="finished", reason="early stopping").exit == "finished: early stopping"
    assert RunRecord(status="failed", reason="no memory").exit == "failed: no memory"
    assert RunRecord(status="stopped", reason="stopped by SIGINT").exit == "stopped by SIGINT"


def test_a_damaged_summary_stays_as_it_is(tmp_path: Path) -> None:
    for content in ("{", "[1]"):
        (tmp_path / "summary.json").write_text(content)
        RunRecord().write(tmp_path)
        assert (tmp_path / "summary.json").read_text() == content


def test_the_clock_leaves_out_the_pauses(tmp_path: Path) -> None:
    clock = RunClock()
    assert clock.seconds == 0
    clock.go_on_from(100.0)
    assert clock.seconds == 100
    clock.start()
    table = CSVMetrics(tmp_path, clock=clock)
    table.log_metrics({"train/loss": 1.0}, 4)
    table.save()
    header, row = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == "step,seconds,train/loss" and 100 <= float(row.split(",")[1]) < 130
