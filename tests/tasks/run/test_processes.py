"""One process of two fails, in every way: the job ends soon, with its line last, and nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from tasks.run import exit_codes
from tasks.run.failures import Failure
from tasks.run.processes import LocalProcesses
from tests.tasks.running import ROOT, Running, fit_arguments, two_processes

SOON = 60
"""Seconds within which a job must end."""


@pytest.fixture
def start(shapes: Path, tmp_path: Path):
    """Starts a training run in which a process fails after the second step."""
    running: list[Running] = []

    def start(rank: int, how: str, *options: str) -> Running:
        probe = (
            "--trainer.callbacks+=failure_probe.FailureProbe",
            f"--trainer.callbacks.rank={rank}",
            "--trainer.callbacks.step=2",
            f"--trainer.callbacks.how={how}",
        )
        arguments = fit_arguments("detect", shapes, tmp_path / "runs", "run", *probe, *options)
        running.append(Running("detect", arguments, TMPDIR=str(tmp_path)))
        return running[-1]

    yield start
    for one in running:
        if one.process.exitcode is None:
            one.kill()
    assert not list(tmp_path.glob("attndense-*")), "the note of the failure is left behind"


def end_of(run: Running) -> tuple[int, str]:
    """Exit code and last line of a run that fails after its second step."""
    run.wait_for("step 1/")
    code = run.end(SOON)
    run.require_no_orphans()
    return code, run.lines[-1]


@pytest.mark.slow
def test_error_in_the_second_process(start) -> None:
    """Its traceback is shown, its line comes last and names the images; nobody else's does."""
    run = start(1, "bug", *two_processes())
    code, line = end_of(run)
    assert code == exit_codes.FAILED
    assert re.fullmatch(
        r"error: process 1: KeyError: 'boxes' \(after step 2; images 0000000000\d\d.jpg, 0000000000\d\d.jpg\)", line
    )
    assert run.output.count("Traceback") == 1 and run.output.count("error: ") == 1
    assert "Connection closed" not in run.output


@pytest.mark.slow  # in every run: TestLocalProcesses
def test_killed_process(start) -> None:
    run = start(1, "kill", *two_processes())
    code, line = end_of(run)
    assert code == exit_codes.MACHINE
    assert re.fullmatch(
        r"error: process 1: killed by SIGKILL \(pid \d+\), most likely because the machine's memory is full", line
    )
    assert "Traceback" not in run.output and run.output.count("error: ") == 1


@pytest.mark.slow
def test_killed_main_process_takes_all_others_along(start) -> None:
    """Also the loader processes of both."""
    run = start(0, "hangs", *two_processes(), "--data.num_workers=1")
    run.wait_for("step 1/")
    assert len(run.children()) >= 3
    run.signal(signal.SIGKILL)
    run.process.join()
    run.require_no_orphans(5)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "who"), [(0, ""), (1, "process 1: ")])
def test_project_error(rank: int, who: str, start) -> None:
    run = start(rank, "error", *two_processes())
    assert end_of(run) == (exit_codes.MACHINE, f"error: {who}the disk is full; make room")
    assert "Traceback" not in run.output


@pytest.mark.slow
def test_error_in_the_first_process(start) -> None:
    run = start(0, "bug", *two_processes())
    code, line = end_of(run)
    assert code == exit_codes.FAILED and line.startswith("error: KeyError: 'boxes' (after step 2; images ")
    assert run.output.count("Traceback") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "who"), [(0, ""), (1, "process 1: ")])
def test_process_that_fails_and_does_not_end(rank: int, who: str, start) -> None:
    """It hangs in a clean-up, of which the job does not wait for the end."""
    run = start(rank, "never_ends", *two_processes())
    run.wait_for("step 1/")
    began = time.monotonic()
    code, line = end_of(run)
    assert code == exit_codes.MACHINE and line == f"error: {who}the disk is full; make room"
    assert time.monotonic() - began < SOON


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_loader_process(processes: int, start) -> None:
    two = two_processes() if processes == 2 else ("--data.batch_size=2",)
    run = start(0, "hangs", *two, "--data.num_workers=1")
    run.wait_for("step 1/")
    workers = [pid for pid in run.children() if _parent(pid) == run.process.pid and not _is_rank(pid)]
    os.kill(workers[0], signal.SIGKILL)
    code, line = end_of(run)
    assert code == exit_codes.MACHINE
    assert line.startswith(f"error: loader process {workers[0]} was killed, most likely because the machine's memory")


@pytest.mark.slow
def test_torchrun_ends_with_the_cause(shapes: Path, tmp_path: Path) -> None:
    """It starts the processes, ends them at the first failure, and shows that one's line at the end."""
    probe = [f"--trainer.callbacks.{option}" for option in ("rank=1", "step=2", "how=error")]
    arguments = fit_arguments(
        "detect", shapes, tmp_path / "runs", "run", "--trainer.callbacks+=failure_probe.FailureProbe"
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tasks.detect",
    ]
    answer = subprocess.run(
        [*torchrun, *arguments, *probe, *two_processes()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "tasks")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert answer.returncode == 1
    assert "error: process 1: the disk is full; make room" in answer.stderr
    root_cause = answer.stderr.rpartition("Root Cause")[2]
    assert "traceback : error: process 1: the disk is full; make room" in root_cause


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _is_rank(pid: int) -> bool:
    return b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()


class TestLocalProcesses:
    """Without a trainer."""

    @pytest.fixture(autouse=True)
    def short_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.run.processes.LEAVE", 5.0)

    def test_first_failure_counts(self) -> None:
        """The second process notes its failure before the first one loses its connection to it."""

        def fail() -> bool:
            with LocalProcesses() as processes:
                processes.note(Failure("no space", 3))
                return processes.end() == Failure("no space", 3, rank=1) and not processes.prints()

        with LocalProcesses() as processes:
            processes._observe([start_child("pass")])
            assert as_second_process(fail) == 0
            processes.note(Failure("lost connection", 3, is_echo=True))
            assert processes.end() == Failure("no space", 3, rank=1) and processes.prints()

    def test_children_are_waited_for_and_their_failure_counts(self) -> None:
        with LocalProcesses() as processes:
            child = start_child("import sys, time; time.sleep(1); sys.exit(7)")
            processes._observe([child])
            cause = processes.end()
            assert cause == Failure(f"left with exit code 7 (pid {child.pid}); what it said stands above", 7, rank=1)

    @pytest.mark.parametrize("code", [0, 143, 130, 124])
    def test_agreed_ends_are_no_failures(self, code: int) -> None:
        with LocalProcesses() as processes:
            processes._observe([start_child(f"raise SystemExit({code})")])
            assert processes.end() is None

    def test_nothing_is_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        before = dict(os.environ)
        with LocalProcesses() as processes:
            processes._observe([start_child("pass")])
            processes.note(Failure("no space", 3))
            assert len(list(tmp_path.iterdir())) == 1
            assert processes.end() == Failure("no space", 3)
        assert list(tmp_path.iterdir()) == [] and dict(os.environ) == before

    def test_without_a_place_for_the_record_the_process_speaks_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))

        def fail() -> bool:
            with LocalProcesses() as processes:
                processes.note(Failure("no space", 3))
                return processes.end() == Failure("no space", 3, rank=1) and processes.prints()

        with LocalProcesses():
            assert as_second_process(fail) == 0

    def test_torchrun_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
        with LocalProcesses() as processes:
            processes.note(Failure("lost connection", 3, is_echo=True))
            assert not list(tmp_path.iterdir())
            processes.note(Failure("no space", 3))
        assert json.loads((tmp_path / "error.json").read_text())["message"] == "error: no space"

    def test_orphan_ends_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its main process has died before it could ask to end with it."""
        gone = start_child("pass")
        gone.wait()
        monkeypatch.setenv("ATTNDENSE_MAIN_PROCESS", str(gone.pid))
        assert exit_codes.MACHINE == as_second_process(lambda: LocalProcesses().__enter__() is not None)


def as_second_process(action: Callable[[], bool]) -> int:
    """Exit code of a fork of this process that is told to be rank 1: 0 if the action is well."""
    pid = os.fork()
    if pid == 0:
        os.environ["LOCAL_RANK"] = "1"
        rank_zero_only.rank = 1
        os._exit(0 if action() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_child(program: str) -> subprocess.Popen:
    """A process as Lightning starts it for the second rank."""
    return subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"LOCAL_RANK": "1"})
