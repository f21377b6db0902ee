"""The process that talks to Weights & Biases: whatever goes wrong there, the training process does not take part in it.

`tasks.run.wandb_run` starts it with one end of a pipe and sends a `Start`, then pairs of a method of `Session` and its
arguments; it is answered with `Opened` or `Failed`, and at the end with `Closed` or `Failed`. This process ends itself
in bounded time, also when the training process is gone or W&B does not answer. It imports neither torch nor Lightning.
"""

import contextlib
import json
import math
import os
import signal
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

STEP = "trainer/global_step"
"""The horizontal axis of every curve, as Lightning's own logger calls it."""
SENT = "wandb_sent.json"
"""What W&B already has of the run: the last step of every curve, and the maxima."""
UNREACHABLE_SECONDS = 5
GONE = ("HandleAbandonedError", "MailboxClosedError", "WandbApiFailedError")
"""What W&B raises where its own process wandb-core is gone."""


@dataclass(frozen=True)
class Start:
    """How to open the run.

    Attributes:
        folder: The run folder.
        mode: Whether to talk to the server or to write files for a later `wandb sync`.
        identity: Arguments of `wandb.init` that name the run.
        seconds: Time to open the run, counted from the end of the import.
        finish_seconds: Time to close it when the training process is gone.
        command: The training command, which W&B shows.
    """

    folder: Path
    mode: Literal["online", "offline"]
    identity: dict[str, Any]
    seconds: float
    finish_seconds: float
    command: list[str]


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


class Session:
    """An open run of W&B.

    A run that goes on from a checkpoint repeats steps that W&B already has, and W&B cannot take a point back. Each
    curve therefore goes on behind the last step that it has, so that none is drawn twice. W&B forgets maxima when a run
    is resumed, online or offline, so they are kept here.
    """

    def __init__(self, start: Start) -> None:
        import wandb

        with _limit(start.seconds, "it did not open the run"):
            sys.argv[:] = start.command
            settings = wandb.Settings(
                silent=True, console="off", init_timeout=0.75 * start.seconds, x_stats_pid=os.getppid()
            )
            url = wandb.setup(settings).settings.base_url
            if start.mode == "online":
                wandb.login(verify=False)  # without a terminal it asks nothing; raises UsageError where no key is known
                _check_connection(url)
            self.run = wandb.init(
                dir=start.folder, mode=start.mode, resume="allow", settings=settings, **start.identity
            )
            self.run.define_metric(STEP)
            self.run.define_metric("*", step_metric=STEP, step_sync=True)
        self._image = wandb.Image
        self._file = start.folder / SENT
        self._maximised: set[str] = set()
        sent = _read_sent(self._file, self.run.id)
        self._steps: dict[str, int] = sent.get("steps", {})
        self._maxima: dict[str, float] = sent.get("maxima", {})

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Adds points to curves, those left out that W&B has."""
        new = {name: value for name, value in metrics.items() if step > self._steps.get(name, -1)}
        if not new:
            return
        self.run.log({**new, STEP: step})
        self._steps |= dict.fromkeys(new, step)
        for name in self._maximised & new.keys():
            if new[name] > self._maxima.get(name, -math.inf):
                self._maxima[name] = new[name]
                self.run.summary.update({name: {"max": new[name]}})
        self._remember()

    def log_pictures(self, name: str, pictures: list[np.ndarray], captions: list[str], step: int) -> None:
        """Shows pictures (H, W, 3) under one name."""
        shown = [self._image(picture, caption=caption) for picture, caption in zip(pictures, captions, strict=True)]
        self.log({name: shown}, step)

    def update_config(self, content: dict[str, Any]) -> None:
        """Sets options that runs are filtered and compared by."""
        self.run.config.update(content, allow_val_change=True)

    def keep_maximum(self, name: str) -> None:
        """Shows a curve's maximum, not its last point, in W&B's table of runs."""
        self.run.define_metric(name, step_metric=STEP, summary="none")
        self._maximised.add(name)
        if name in self._maxima:
            self.run.summary.update({name: {"max": self._maxima[name]}})

    def update_summary(self, content: dict[str, Any]) -> None:
        """Sets columns of W&B's table of runs."""
        self.run.summary.update(content)

    def finish(self, exit_code: int, seconds: float) -> None:
        """Waits until everything is uploaded or written."""
        import wandb

        with _limit(seconds, "the upload did not end"):
            self.run.finish(exit_code=exit_code)
            wandb.teardown()

    def _remember(self) -> None:
        content = json.dumps({"id": self.run.id, "steps": self._steps, "maxima": self._maxima})
        temporary = self._file.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # the run says more about its folder; at worst a resumed curve overlaps
            temporary.write_text(content)
            temporary.replace(self._file)


_training: Connection
"""The training process."""


def _read_sent(file: Path, run_id: str) -> dict[str, Any]:
    """What W&B has of a run of this id; nothing where the file is missing, damaged or another run's."""
    try:
        content = json.loads(file.read_text())
        return (
            content if content["id"] == run_id and {type(content["steps"]), type(content["maxima"])} == {dict} else {}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _check_connection(url: str) -> None:
    """Says quickly what W&B itself would say after a minute of trying again; any answer of a server will do."""
    try:
        urllib.request.urlopen(url, timeout=UNREACHABLE_SECONDS).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # W&B has certificates of its own
            raise ConnectionError(f"{url} cannot be reached: {reason}") from error


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
    mistakes = ("UsageError", "AuthenticationError", "ValidationError")
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ConnectionResetError | BrokenPipeError) or type(error).__name__ in GONE:
        text = "its process wandb-core has ended"
    return Failed(text[:300], type(error).__name__ in mistakes)


def _receive(start: Start, training_process: int) -> tuple[str, tuple[Any, ...]]:
    """The next message; that to finish where the training process is gone."""
    try:
        while not _training.poll(5):
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
        session = Session(start)
        _training.send(Opened(session.run.url, Path(session.run.dir).parent))
        method = ""
        while method != "finish":
            method, arguments = _receive(start, training_process)
            getattr(session, method)(*arguments)
    except Exception as error:
        _end(_failed(error))
    _end(Closed())


if __name__ == "__main__":
    main()
