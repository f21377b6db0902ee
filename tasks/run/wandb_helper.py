"""The process that talks to Weights & Biases: what goes wrong there stays there.

`tasks.run.wandb_messenger` starts it with one end of a pipe and sends a `Start`, then pairs of a method of `Session`
and its arguments; it is answered with `Opened` or `Failed`, and at the end with `Closed` or `Failed`. This process ends
itself in bounded time, also when the training process is gone or W&B does not answer. It imports neither torch nor
Lightning.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasks.run.wandb_session import Session, Start

MISTAKES = ("UsageError", "AuthenticationError", "ValidationError")
"""What W&B raises where the user can help."""
GONE = ("ConnectionResetError", "BrokenPipeError", "HandleAbandonedError", "MailboxClosedError", "WandbApiFailedError")
"""What W&B raises where its own process wandb-core is gone."""


@dataclass(frozen=True)
class Opened:
    """The run is open: its page (none when offline), and the folder that W&B writes."""

    url: str | None
    folder: Path


@dataclass(frozen=True)
class Closed:
    """Everything is uploaded, or written."""


@dataclass(frozen=True)
class Failed:
    """W&B is over for this process.

    Attributes:
        reason: One line.
        is_mistake: Whether the user can correct it: no key, a wrong key, a name that W&B refuses.
    """

    reason: str
    is_mistake: bool = False


_training: Connection
"""The training process."""


@contextlib.contextmanager
def _limit(seconds: float, what: str) -> Iterator[None]:
    """Ends this process when a block takes longer, wherever it hangs."""

    def give_up() -> None:
        _end(Failed(f"{what} within {seconds:.0f} s"))

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(answer: Closed | Failed) -> None:
    with contextlib.suppress(OSError):  # the training process may be gone
        _training.send(answer)
    os._exit(0)  # W&B's own work at the exit may hang


def _failed(error: Exception) -> Failed:
    kind = type(error).__name__
    text = "its process wandb-core has ended" if kind in GONE else " ".join(str(error).split()) or kind
    return Failed(text[:300], kind in MISTAKES)


def _receive(start: Start, training_process: int) -> tuple[str, tuple[Any, ...]]:
    """The next message; that to finish where the training process is gone."""
    try:
        while not _training.poll(1):
            if os.getppid() != training_process:  # its data loader's workers may still hold the pipe open
                raise EOFError
        return _training.recv()
    except (EOFError, OSError):
        return "finish", (1, start.finish_seconds)


def main() -> None:
    """Serves one run of W&B."""
    global _training
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the training process decides when this one ends
    training_process = os.getppid()
    _training = Connection(int(sys.argv[1]))
    start: Start = _training.recv()
    try:
        session = Session(start, _limit)
        _training.send(Opened(session.run.url, session.folder))
        method = ""
        while method != "finish":
            method, arguments = _receive(start, training_process)
            getattr(session, method)(*arguments)
    except Exception as error:
        _end(_failed(error))
    _end(Closed())


if __name__ == "__main__":
    main()
