"""Stop requests: SIGTERM, SIGUSR1 and SIGINT to any process, at any moment, agreed on by all at the next boundary.

What happens when the job is told to stop: the handler only notes the signal (a thread reads it from a pipe, so it is
noted even while the main thread waits inside a C call); all processes agree before the next optimiser step, or before
the next batch of an evaluation, that one of them has been asked; the run saves one checkpoint and ends with
`StopRun`, whose exit code is 128 + signal. A second signal that comes at least `SAME_REQUEST` seconds after the first
leaves at once (a time limit and a preemption of Slurm send two SIGTERMs a moment apart, which are one request), and so
does the end of the time that was granted.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children

from tasks.run import exit_codes

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME_REQUEST = 2.0
"""Seconds within which further signals belong to the first request."""


class StopRun(Exception):
    """The run ends because it was asked to, after it has saved.

    Attributes:
        signal: Number of the signal.
        exit_code: 128 + signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number
        self.exit_code = exit_codes.of_signal(number)


class StopRequests:
    """Notes the stop signals that this process gets.

    Args:
        seconds: Time from the first signal until the process leaves without having reached a boundary. A cluster's
            grace period (Slurm's KillWait, 30 s by default) should be longer.
        leave: Ends the process with an exit code; another function in tests.
    """

    def __init__(self, seconds: float = 25.0, leave: Callable[[int], None] | None = None) -> None:
        self.seconds = seconds
        self.last_words = "nothing was saved"
        self._leave = leave or self._leave_now
        self._first: tuple[int, float] | None = None
        self._has_stopped = threading.Event()

    @property
    def signal(self) -> int:
        """Number of the first signal that has come, 0 for none."""
        return 0 if self._first is None else self._first[0]

    def note(self, number: int) -> None:
        """Takes a signal: the first is a request, a later one leaves at once."""
        now = time.monotonic()
        if self._first is None:
            self._first = number, now
            print(  # noqa: T201
                f"{signal.Signals(number).name}: stopping at the next step; again to leave at once", file=sys.stderr
            )
            threading.Thread(target=self._wait, daemon=True, name="stop-deadline").start()
        elif now - self._first[1] >= SAME_REQUEST:
            self._leave(exit_codes.of_signal(number))

    def done(self) -> None:
        """Takes the deadline away: the run has saved and is leaving by itself."""
        self._has_stopped.set()

    def _wait(self) -> None:
        if not self._has_stopped.wait(self.seconds):
            self.last_words = f"no step ended within {self.seconds:g} s (--stop_within): {self.last_words}"
            self._leave(exit_codes.of_signal(self.signal))

    def _leave_now(self, code: int) -> None:
        print(f"stopped at once: {self.last_words}", file=sys.stderr, flush=True)  # noqa: T201
        end_children()
        os._exit(code)


def end_children() -> None:
    """Kills the loader workers of this process, so that none outlives it."""
    for child in active_children():
        child.kill()


@contextmanager
def listening(requests: StopRequests, leaves: bool = False) -> Iterator[None]:
    """Hands the stop signals of this process to `requests` until the context ends; only in the main thread.

    Forked children (loader workers) start with the signals ignored: a cluster sends them to every process of a step,
    and the training process decides.

    Args:
        requests: Takes the signals.
        leaves: The process ends with the context, and ignores the signals while it cleans up: srun sends SIGTERM to the
            other tasks as soon as the first has left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _noted) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _register_fork_guard()
    _listening.add(os.getpid())
    threading.Thread(target=_read, args=(reader, requests), daemon=True, name="stop-signals").start()
    try:
        yield
    finally:
        _listening.discard(os.getpid())
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if leaves else handler)
        os.close(writer)  # ends the thread


_listening: set[int] = set()
_guards: list[bool] = []


def _register_fork_guard() -> None:
    if not _guards:
        _guards.append(True)
        os.register_at_fork(after_in_child=ignore_in_child)


def ignore_in_child() -> None:
    """Makes a forked child of a listening process ignore the stop signals, and detaches it from the parent's pipe."""
    if os.getppid() in _listening:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _noted(_number: int, _frame: object) -> None:
    """Does nothing: that a handler exists makes Python write the signal's number into the pipe."""


def _read(reader: int, requests: StopRequests) -> None:
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while numbers := pipe.read(16):
            for number in numbers:
                if number in SIGNALS:
                    requests.note(number)
