"""Hands what is logged to the process that talks to W&B, without ever waiting for it."""

import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from tasks.run.files import write_text
from tasks.run.set_aside import set_aside
from tasks.run.wandb_helper import Closed, Failed, Opened
from tasks.run.wandb_session import Start

ID = "wandb_id.txt"
ONLINE_SECONDS = 20
"""Time that a server has to open a run where `online` is demanded; then the command ends."""
AUTO_SECONDS = 8
"""The same under `auto`; then the run is logged offline. Training does not wait for it."""
OFFLINE_SECONDS = 60
IMPORT_SECONDS = 8
"""Time that the helper may take beyond its own limits, to import W&B and to answer."""
HANG_SECONDS = 120
"""Time that a message may wait for the helper before it counts as hanging; longer than it takes to open a run."""


class Messenger:
    """Hands messages to the helper process, from a thread of its own.

    Args:
        folder: The run folder.
        mode: `auto`, `online` or `offline`.
        identity: Arguments of `wandb.init` that name the run.
        finish_seconds: Longest wait at the end.
    """

    def __init__(self, folder: Path, mode: str, identity: dict[str, Any], finish_seconds: float) -> None:
        self.folder, self.mode, self.finish_seconds = folder, mode, finish_seconds
        self.identity = {**identity, "id": _wandb_id(folder)}
        self._messages: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._last_progress = time.monotonic()
        self._helper: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._data = str(folder / "wandb")
        self._refusal: Failed | None = None
        self._is_decided = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def send(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Puts a message into the queue."""
        if self._is_over:
            return
        now = time.monotonic()
        if self._messages.empty():
            self._last_progress = now
        elif now - self._last_progress > HANG_SECONDS:
            self._give_up("its helper process hangs")
        self._messages.put((method, arguments))

    def refusal(self) -> Failed | None:
        """Waits until the run is open, or is not to be had."""
        if not self._is_decided.wait(ONLINE_SECONDS + IMPORT_SECONDS):
            self._refusal = Failed(f"no answer within {ONLINE_SECONDS + IMPORT_SECONDS} s")
            self._stop_helper()
        return self._refusal

    def finish(self, exit_code: int, seconds: float) -> None:
        """Closes the run in bounded time."""
        deadline = time.monotonic() + seconds
        self.send("finish", (exit_code, deadline))
        self._thread.join(seconds + 1)
        if self._thread.is_alive():
            self._give_up(f"the upload did not end within {seconds:.0f} s")
        self._stop_helper()

    def _work(self) -> None:
        try:
            if self._opens():
                self._is_decided.set()
                self._hand_over()
        except Exception as error:
            self._give_up(str(error) or type(error).__name__)
        finally:
            self._is_decided.set()

    def _opens(self) -> bool:
        """Opens the run: online if it can be had, otherwise offline unless online is demanded."""
        if self.mode != "offline":
            answer = self._start("online", ONLINE_SECONDS if self.mode == "online" else AUTO_SECONDS)
            if isinstance(answer, Opened):
                rank_zero_info(f"W&B: {answer.url}")
                return True
            self._stop_helper()
            if self.mode == "online":
                self._refusal, self._is_over = answer, True
                return False
            rank_zero_info(
                f"W&B: this run is logged offline ({answer.reason}); upload it with: wandb sync {self._data}"
            )
        answer = self._start("offline", OFFLINE_SECONDS)
        if isinstance(answer, Failed):
            self._give_up(answer.reason)
        return isinstance(answer, Opened)

    def _start(self, mode: Literal["online", "offline"], seconds: float) -> Opened | Failed:
        self._pipe, other_end = Pipe()
        with other_end:
            self._helper = subprocess.Popen(
                [sys.executable, "-c", "from tasks.run.wandb_helper import main; main()", str(other_end.fileno())],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(self.folder),
                start_new_session=True,  # Ctrl-C is for the training process
            )
        self._pipe.send(Start(self.folder, mode, self.identity, seconds, self.finish_seconds, sys.argv))
        answer = self._answer(seconds + IMPORT_SECONDS)
        if isinstance(answer, Opened):
            self._data = f"--include-online {answer.folder}" if mode == "online" else str(answer.folder.parent)
            if self.folder.resolve() not in answer.folder.resolve().parents:
                rank_zero_info(f"W&B cannot write into {self.folder} and writes into {answer.folder}")
        assert isinstance(answer, Opened | Failed)
        return answer

    def _answer(self, seconds: float) -> Opened | Closed | Failed:
        assert self._pipe is not None and self._helper is not None
        try:
            if self._pipe.poll(max(seconds, 0)):
                answer: Opened | Closed | Failed = self._pipe.recv()
                return answer
            return Failed(f"no answer within {seconds:.0f} s")
        except (EOFError, OSError):
            return Failed("its helper process has ended")

    def _hand_over(self) -> None:
        assert self._pipe is not None and self._helper is not None
        while not self._is_over:
            method, arguments = self._messages.get()
            if method == "finish":
                exit_code, deadline = arguments
                arguments = (exit_code, max(deadline - time.monotonic(), 0.1))
            try:
                if self._helper.poll() is not None:
                    raise BrokenPipeError  # a data loader's worker may hold a copy of the pipe's other end
                self._pipe.send((method, arguments))
                answer = self._answer(arguments[1] + 1) if method == "finish" else None
            except OSError:
                answer = self._answer(1)
            if isinstance(answer, Failed):
                self._give_up(answer.reason)
            if answer is not None:
                return
            self._last_progress = time.monotonic()

    def _give_up(self, reason: str) -> None:
        """Says so once; nothing more is sent."""
        if not self._is_over:
            self._is_over = True
            rank_zero_info(
                f"W&B is over for this run: {reason}. Training and metrics.csv go on; upload what it has with: "
                f"wandb sync {self._data}"
            )
            self._stop_helper()

    def _stop_helper(self) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()


def _environment(folder: Path) -> dict[str, str]:
    """The helper's environment: its own W&B, and folders for W&B's files where the home folder will not do."""
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_SERVICE", "WANDB_MODE")}
    if not os.access(os.path.expanduser("~"), os.W_OK):
        for name in ("CONFIG", "CACHE", "DATA"):
            environment.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb" / name.lower()))
    return environment


def _wandb_id(folder: Path) -> str:
    """The id of the folder's W&B run, made up by its first start."""
    file = folder / ID
    try:
        if file.exists():
            text = file.read_bytes()
            if re.fullmatch(rb"[\w-]{1,64}", text):
                return text.decode()
            set_aside(file, "expected an id of letters and digits")
        new = secrets.token_hex(6)
        write_text(file, new)
        return new
    except OSError:  # the run itself says more about a folder that cannot be written
        return secrets.token_hex(6)
