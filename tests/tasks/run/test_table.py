"""`metrics.csv` through kills, resumes, damage and full disks."""

import csv
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from tasks.run import set_aside, table
from tasks.run.table import CSVMetrics
from tasks.run.table_file import DamagedTable, read_table


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def write(folder: Path, *steps: int) -> CSVMetrics:
    metrics = CSVMetrics(folder)
    log(metrics, *steps)
    return metrics


def log(metrics: CSVMetrics, *steps: int) -> None:
    for step in steps:
        metrics.log_metrics({"a": float(step)}, step)
        metrics.save()


def test_joins_numbers_of_a_step_and_grows_columns(tmp_path: Path) -> None:
    metrics = CSVMetrics(tmp_path)
    metrics.log_metrics({"a": 1.0}, 10)
    metrics.save()
    metrics.log_metrics({"b": 2.0}, 10)
    metrics.log_metrics({"a": 3.0}, 20)
    metrics.save()
    assert rows(tmp_path) == [{"step": "10", "a": "1.0", "b": "2.0"}, {"step": "20", "a": "3.0", "b": ""}]


def test_earlier_and_unordered_steps(tmp_path: Path) -> None:
    metrics = write(tmp_path, 30)
    metrics.log_metrics({"b": 1.0}, 10)
    metrics.log_metrics({"a": 2.0}, 30)
    metrics.finalize("success")
    assert rows(tmp_path) == [{"step": "10", "a": "", "b": "1.0"}, {"step": "30", "a": "2.0", "b": ""}]


def test_names_with_commas_and_quotes(tmp_path: Path) -> None:
    name = 'val/AP/light, "green", é'
    metrics = CSVMetrics(tmp_path)
    for step in (1, 2):
        metrics.log_metrics({name: 0.5}, step)
        metrics.save()
    again = CSVMetrics(tmp_path)
    again.continue_from(2)
    again.log_metrics({"other": 1.0}, 3)
    again.save()
    assert [row[name] for row in rows(tmp_path)] == ["0.5", "0.5", ""]


def test_new_run_begins_a_new_table(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    write(tmp_path, 5)
    assert rows(tmp_path) == [{"step": "5", "a": "5.0"}]


def test_nothing_logged_writes_nothing(tmp_path: Path) -> None:
    CSVMetrics(tmp_path / "run").finalize("success")
    assert not (tmp_path / "run").exists()


def test_usual_rows_are_appended(tmp_path: Path) -> None:
    """160,000 steps that are logged every 50: what is written must not grow with the square of the rows."""
    metrics = write(tmp_path, 0)
    file = (tmp_path / "metrics.csv").stat().st_ino
    log(metrics, *range(50, 160_000, 50))
    assert (tmp_path / "metrics.csv").stat().st_ino == file  # a rewritten file is another one
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(0, 160_000, 50))


def test_rows_reach_the_disk_but_not_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = write(tmp_path, 0)
    flushes: list[int] = []
    monkeypatch.setattr(table.os, "fsync", flushes.append)
    log(metrics, *range(1, 50))
    assert len(flushes) == 1
    monkeypatch.setattr(table, "FLUSH_SECONDS", 0.01)
    time.sleep(0.02)
    log(metrics, 50)
    assert len(flushes) == 2


class TestResume:
    def test_forgets_what_the_checkpoint_did_not_see(self, tmp_path: Path) -> None:
        write(tmp_path, 10, 20, 30)
        resumed = CSVMetrics(tmp_path)
        kept = resumed.continue_from(20)
        assert kept == {10: {"step": "10", "a": "10.0"}, 20: {"step": "20", "a": "20.0"}}
        assert [row["step"] for row in rows(tmp_path)] == ["10", "20"]
        resumed.log_metrics({"a": -1.0}, 25)
        resumed.finalize("success")
        assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [("10", "10.0"), ("20", "20.0"), ("25", "-1.0")]

    def test_of_the_step_that_was_logged_last(self, tmp_path: Path) -> None:
        """A validation that is made good joins the row of its step."""
        write(tmp_path, 10, 20)
        resumed = CSVMetrics(tmp_path)
        resumed.continue_from(20)
        resumed.log_metrics({"val/mAP": 0.5}, 20)
        resumed.save()
        assert rows(tmp_path)[1] == {"step": "20", "a": "20.0", "val/mAP": "0.5"}

    def test_without_a_table(self, tmp_path: Path) -> None:
        resumed = CSVMetrics(tmp_path)
        assert resumed.continue_from(20) == {}
        log(resumed, 25)
        assert [row["step"] for row in rows(tmp_path)] == ["25"]

    def test_reads_the_tables_of_earlier_versions(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.csv").write_bytes(b"step,a,b\r\n10,1.0,\r\n20,2.0,0.5\r\n")
        resumed = CSVMetrics(tmp_path)
        resumed.continue_from(20)
        log(resumed, 30)
        assert (tmp_path / "metrics.csv").read_bytes() == b"step,a,b\n10,1.0,\n20,2.0,0.5\n30,30.0,\n"

    @pytest.mark.parametrize("cut", range(1, 8))
    def test_leaves_out_a_line_that_a_kill_has_cut(self, tmp_path: Path, cut: int) -> None:
        write(tmp_path, 10, 20, 30)
        content = (tmp_path / "metrics.csv").read_bytes()
        assert content.endswith(b"\n30,30.0\n")
        (tmp_path / "metrics.csv").write_bytes(content[:-cut])
        resumed = CSVMetrics(tmp_path)
        resumed.continue_from(40)
        log(resumed, 50)
        assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "50"]
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"step,a",
            b"10,1.0\n20,2.0\n",
            b"epoch,a\n1,2\n",
            b"step,a\n1.5,2\n",
            b"step,a\nten,2\n",
            b"step,a\n,2\n",
            b"step,a\n-1,2\n",
            b"step,a\n1\n2,3\n",
            b"step,a\n1,2,3\n4,5\n",
            b"step,a,a\n1,2,3\n",
            b"step,a\n1,2\n" + bytes(4096),
            b"step,a\n1,\xff\n",
            b'step,"a\n1,2\n',
            bytes(range(256)),
        ],
    )
    def test_sets_a_damaged_table_aside(self, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[str] = []
        monkeypatch.setattr(set_aside, "rank_zero_info", said.append)
        (tmp_path / "metrics.csv").write_bytes(content)
        (tmp_path / "metrics.csv.damaged").write_text("an older one")
        with pytest.raises(DamagedTable):
            read_table(tmp_path / "metrics.csv")
        resumed = CSVMetrics(tmp_path)
        resumed.continue_from(20)
        log(resumed, 25)
        assert rows(tmp_path) == [{"step": "25", "a": "25.0"}]
        assert (tmp_path / "metrics.csv.damaged.2").read_bytes() == content
        assert (tmp_path / "metrics.csv.damaged").read_text() == "an older one"
        assert len(said) == 1 and "metrics.csv.damaged.2" in said[0] and "\n" not in said[0]


def write_for_ever(folder: Path, first: int) -> None:
    metrics = CSVMetrics(folder)
    metrics.continue_from(first)
    for step in range(first + 1, 10**9):
        metrics.log_metrics({"a": float(step)}, step)
        metrics.save()
        if step % 20 == 0:
            metrics.log_metrics({"b": step / 20}, step)  # rewritten
            metrics.save()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """No row but the last is ever missing, doubled or wrong."""
    ends = [0]
    for attempt in range(8):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path, ends[-1]))
        writer.start()
        time.sleep(random.Random(attempt).uniform(0.05, 0.3))
        writer.kill()
        writer.join()
        _, found = read_table(tmp_path / "metrics.csv")
        assert list(found) == list(range(1, len(found) + 1)) and len(found) >= ends[-1]
        ends.append(len(found))
        for step, row in found.items():
            assert row["a"] == str(float(step))
            assert row.get("b") == (str(step / 20) if step % 20 == 0 else None) or step in ends
    assert ends[-1] > 100
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".tmp"} == {"metrics.csv"}


class TestFailure:
    """What cannot be written is an OSError, and what was written stays."""

    @pytest.mark.parametrize("columns", ["known", "new"])
    def test_disk_is_full(self, tmp_path: Path, columns: str) -> None:
        metrics = write(tmp_path, 10, 20)
        before = (tmp_path / "metrics.csv").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limits[1]))
        try:
            with pytest.raises(OSError, match=r"metrics\.csv|File too large"):
                metrics.log_metrics({"a" if columns == "known" else "b": 30.0}, 30)
                metrics.save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert (tmp_path / "metrics.csv").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]

    def test_folder_is_gone(self, tmp_path: Path) -> None:
        metrics = write(tmp_path / "run", 10)
        (tmp_path / "run" / "metrics.csv").unlink()
        (tmp_path / "run").rmdir()
        with pytest.raises(OSError, match="run"):
            log(metrics, 20)
        assert not (tmp_path / "run").exists()

    def test_folder_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("")
        with pytest.raises(OSError, match="run"):
            write(tmp_path / "run", 10)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
    def test_permission_is_lost(self, tmp_path: Path) -> None:
        metrics = write(tmp_path, 10)
        (tmp_path / "metrics.csv").chmod(0o400)
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(PermissionError, match=r"metrics\.csv"):
                log(metrics, 20)
        finally:
            tmp_path.chmod(0o700)

    def test_removed_table_is_begun_anew(self, tmp_path: Path) -> None:
        metrics = write(tmp_path, 10)
        (tmp_path / "metrics.csv").unlink()
        log(metrics, 20)
        assert rows(tmp_path) == [{"step": "20", "a": "20.0"}]


def test_only_the_first_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table.rank_zero_only, "rank", 1)
    assert write(tmp_path, 10).continue_from(5) == {} and list(tmp_path.iterdir()) == []
