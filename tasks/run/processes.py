"""The processes of a command on this machine: an error in one of them ends all of them, and its line is the last one.

Lightning (2.6.6) looks every 5 s whether a process that it has started has failed, and then kills the main process
without a word; when the main process fails, the others stay until their collective times out, and when it is killed,
for ever. Here every process notes its failure before it leaves, the main process says which was the first, and no
process outlives it.
"""

import ctypes
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import subprocess_script as launcher
from lightning.pytorch.trainer import call as trainer_call
from lightning.pytorch.utilities import rank_zero_only

from tasks.run import exit_codes
from tasks.run.failures import STOPPED, Failure, failure_of

POLL = 0.2
"""Seconds between looks at the other processes."""
NOTICE = 8.0
"""Seconds in which a process learns by itself that another has failed, and in which the other's cause is waited for."""
LEAVE = 25.0
"""Seconds in which a failed main process cleans up; the whole job ends within 60 s."""

_RECORD, _MAIN = "ATTNDENSE_FAILURE", "ATTNDENSE_MAIN_PROCESS"


class LocalProcesses:
    """This process and those that Lightning starts from it; a context around the command.

    Started by srun or torchrun, a process has no such company: they end the job themselves, at the first failure.
    """

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []
        self.is_child = os.environ.get(_MAIN) == str(os.getppid()) and int(os.environ.get("LOCAL_RANK", "0")) > 0
        self._record = Path(os.environ[_RECORD]) if self.is_child else _free_name()
        self._failure: Failure | None = None
        self._is_leaving, self._has_ended = threading.Event(), threading.Event()

    def __enter__(self) -> "LocalProcesses":
        _leave_if_orphaned()
        _die_with_parents()
        if self.is_child:
            _die_with(int(os.environ[_MAIN]))
        else:
            os.environ.update({_RECORD: str(self._record), _MAIN: str(os.getpid())})
        self._patches = ExitStack()
        for module, name, ours in (
            (fabric_launcher, "_launch_process_observer", self._observe),
            (launcher, "_launch_process_observer", self._observe),
            (trainer_call, "_interrupt", partial(self._interrupt, trainer_call._interrupt)),
        ):
            self._patches.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, ours)
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._patches.close()
        if not self.is_child:
            self._record.unlink(missing_ok=True)
            os.environ.pop(_RECORD, None)
            os.environ.pop(_MAIN, None)

    def failed(self, error: BaseException) -> Failure | None:
        """Notes that this process has failed, before it cleans up; the first failure of the job counts.

        Args:
            error: What has ended the command. A traceback is shown where it is an error of the program.

        Returns:
            The first failure of this process; none where the run was only asked to stop.
        """
        if self._failure is None and (failure := failure_of(error)) is not None:
            if failure.exit_code == exit_codes.FAILED:
                traceback.print_exception(error)
            self.note(failure)
        return self._failure

    def note(self, failure: Failure) -> None:
        """The same for a failure that is explained already; from now on this process must end within `LEAVE`."""
        self._failure = replace(failure, rank=getattr(rank_zero_only, "rank", None) or 0)
        if not failure.is_echo and (self.children or self.is_child):
            _write_first(self._record, asdict(self._failure))
        if not failure.is_echo and "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun shows it at the end
            file = Path(os.environ["TORCHELASTIC_ERROR_FILE"])
            _write_first(file, {"message": self._failure.line(), "timestamp": int(time.time())})
        self._is_leaving.set()
        threading.Thread(target=self._end_in_time, daemon=True, name="failure-deadline").start()

    def is_done(self) -> None:
        """Takes the deadlines away: what this process still has to do, an upload say, may take its time."""
        if self._failure is None:
            self._has_ended.set()

    def end(self) -> Failure | None:
        """Ends the other processes, after having waited for them if all is well.

        Returns:
            How the job has failed, or in a process that Lightning has started, how that process has.
        """
        if self.is_child:
            if self._failure is not None and self._failure.is_echo:
                _wait(self._record.exists, NOTICE)
            return self._failure
        if self._failure is None:
            _wait(lambda: all(child.poll() is not None for child in self.children), LEAVE)
        elif self._failure.is_echo and self.children:
            _wait(lambda: self._cause() is not None, NOTICE)
        cause = self._cause()
        for child in self.children:
            child.kill()
        self._has_ended.set()
        return cause

    def prints(self) -> bool:
        """Whether this process prints its line: not where the main process knows it."""
        return not (self.is_child and self._record.exists())

    def _observe(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Takes the place of Lightning's observer."""
        self.children = children
        threading.Thread(target=self._watch, daemon=True, name="process-observer").start()

    def _watch(self) -> None:
        while self._cause() is None:
            if self._has_ended.wait(POLL):
                return
        if not self._is_leaving.wait(NOTICE):
            self._end_at_once()

    def _interrupt(self, interrupt: Callable[..., None], trainer: Trainer, exception: BaseException) -> None:
        """Lightning's handling of an exception, which can wait for other processes; they must know before."""
        self.failed(exception)
        interrupt(trainer, exception)

    def _end_in_time(self) -> None:
        deadline = time.monotonic() + LEAVE
        if self._has_ended.wait(LEAVE) and not (self.children or self.is_child):
            return
        time.sleep(max(0.0, deadline - time.monotonic()))  # leaving a process group can hang, too
        if not (self._has_ended.is_set() and threading.main_thread().is_alive()):  # else a program called, and goes on
            self._end_at_once()

    def _end_at_once(self) -> None:
        cause = self._cause()
        assert cause is not None
        if self.prints() and not self._has_ended.is_set():
            print(cause.line(), file=sys.stderr, flush=True)  # noqa: T201
        for process in (*self.children, *multiprocessing.active_children()):
            process.kill()  # type: ignore[attr-defined]  # two classes
        if not self.is_child:
            self._record.unlink(missing_ok=True)
        os._exit(cause.exit_code)

    def _cause(self) -> Failure | None:
        """The first failure of the job, as far as it is known."""
        if self._record.exists():
            return Failure(**json.loads(self._record.read_text()))
        if self._failure is not None and not self._failure.is_echo:
            return self._failure
        ended = [(child.poll() or 0, rank, child.pid) for rank, child in enumerate(self.children, start=1)]
        failed = sorted(end for end in ended if end[0] not in (exit_codes.FINISHED, *STOPPED))
        return _sudden_end(*failed[0]) if failed else self._failure  # killed ones have negative codes, and come first


def _wait(until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(POLL / 4)


def _sudden_end(code: int, rank: int, pid: int) -> Failure:
    if code > 0:
        return Failure(f"left with exit code {code} (pid {pid}); what it said stands above", code, rank=rank)
    name = signal.Signals(-code).name
    memory = ", most likely because the machine's memory is full" if -code == signal.SIGKILL else ""
    return Failure(f"killed by {name} (pid {pid}){memory}", exit_codes.MACHINE, rank=rank)


def _free_name() -> Path:
    """Where the first failure is noted; nothing is written before there is one."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # no folder can be written to
        folder = os.curdir
    return Path(folder, f"attndense-{secrets.token_hex(8)}.json").absolute()


def _write_first(record: Path, content: dict[str, Any]) -> None:
    """Writes the record unless there is one; whole, so that it can be read at any moment."""
    draft = record.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # there is one, or nothing can be written; then this process prints its line itself
        draft.write_text(json.dumps(content))
        os.link(draft, record)
    with suppress(OSError):
        draft.unlink()


# Linux ends a process together with its parent if it asks for that. Loader processes ask when they are forked.

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_forking: list[int] = []


def _die_with_parents() -> None:
    """Makes every process that this one forks from now on end with it, even at kill -9."""
    if not _forking:
        os.register_at_fork(before=lambda: _forking.__setitem__(0, os.getpid()), after_in_child=_die_with_forking)
    _forking[:] = [os.getpid()]


def _die_with_forking() -> None:
    _die_with(_forking[0])


def _leave_if_orphaned() -> None:
    """Ends a process whose main process was gone before it could ask to end with it."""
    main = os.environ.get(_MAIN)
    if main is not None and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        try:
            os.kill(int(main), 0)
        except ProcessLookupError:
            os._exit(exit_codes.MACHINE)


def _die_with(parent: int) -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended meanwhile
            os._exit(exit_codes.MACHINE)
