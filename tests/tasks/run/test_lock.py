"""One process writes a run folder."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tasks.errors import MachineError
from tasks.run.lock import NAME, SILENCE, Owner, RunLock, read_owner, start_of_process


def put(folder: Path, owner: Owner, silent_for: float = 0.0) -> None:
    (folder / NAME).write_text(json.dumps(asdict(owner)))
    now = time.time() - silent_for
    os.utime(folder / NAME, (now, now))


def test_one_of_two_gets_it(tmp_path: Path) -> None:
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    assert one.claim() is None
    assert other.claim() == one.owner
    one.require()
    with pytest.raises(MachineError, match=f"no longer belongs to this process: process {os.getpid()} on "):
        other.require()
    other.release()  # not its own
    one.require()
    one.release()
    assert other.claim() is None and [path.name for path in tmp_path.iterdir()] == [NAME]
    other.release()


def test_a_dead_process_of_this_host_is_replaced_at_once(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    put(tmp_path, replace(Owner.here(), process=int(gone.stdout), started=5))
    assert RunLock(tmp_path).claim() is None


def test_a_reused_process_id_is_another_process(tmp_path: Path) -> None:
    put(tmp_path, replace(Owner.here(), started=start_of_process(os.getpid()) - 1))
    assert RunLock(tmp_path).claim() is None


@pytest.mark.parametrize(("silent_for", "is_taken"), [(SILENCE - 20, True), (SILENCE + 20, False)])
def test_a_process_of_another_host_lives_by_its_heartbeat(tmp_path: Path, silent_for: float, is_taken: bool) -> None:
    elsewhere = replace(Owner.here(), host="elsewhere")
    put(tmp_path, elsewhere, silent_for)
    assert RunLock(tmp_path).claim() == (elsewhere if is_taken else None)


def test_the_heartbeat_renews_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.run.lock.BEAT", 0.05)
    lock = RunLock(tmp_path)
    lock.claim()
    os.utime(tmp_path / NAME, (1.0, 1.0))
    time.sleep(0.5)
    assert (tmp_path / NAME).stat().st_mtime > time.time() - 60
    lock.release()


def test_takeover_and_a_lost_file_are_noticed(tmp_path: Path) -> None:
    lost, heir = RunLock(tmp_path), RunLock(tmp_path)
    lost.claim()
    assert heir.claim(take_over=True) is None
    with pytest.raises(MachineError, match="has taken it over"):
        lost.require()
    (tmp_path / NAME).unlink()
    with pytest.raises(MachineError, match="its lock file is gone"):
        heir.require()


def test_an_unreadable_lock_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{")
    assert read_owner(tmp_path / NAME) is None
    assert RunLock(tmp_path).claim() is None
