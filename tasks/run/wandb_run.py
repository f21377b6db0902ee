"""Weights & Biases beside a run: it shows everything, and can end nothing.

No code of W&B runs in the training process. Its first rank starts a helper process (`tasks.run.wandb_helper`) when
there is something to log, and a thread hands the messages over; a helper, server or network that is slow, gone or
hostile costs one line, and training and `metrics.csv` go on. Only `--wandb.mode online` may refuse a run, before its
first step.
"""

import json
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from tasks.errors import MachineError, TaskError
from tasks.run.files import write_text
from tasks.run.set_aside import set_aside
from tasks.run.wandb_helper import Closed, Failed, Opened, Start

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
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: `auto` logs online where an API key is known and the server answers, and offline otherwise, without a
            question; `online` ends the command before training where that cannot be had; `disabled` does without W&B.
            Offline runs are uploaded later with `wandb sync RUN_FOLDER/wandb/offline-run-*`. The environment variable
            WANDB_MODE beats `auto`.
        project: Project that runs are collected in, of your own or, as TEAM/PROJECT, of a team.
        group: Group within the project. Default: the task.
        tags: Tags of the run.
        finish_seconds: Longest wait for the upload at the end of the command.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "attndense"
    group: str | None = None
    tags: list[str] | None = None
    finish_seconds: float = 30.0


def make_wandb_run(options: WandbOptions, task: str, folder: Path) -> "WandbRun | None":
    """Makes the W&B logger of a training run, or none where W&B is disabled.

    Args:
        options: What the user wants.
        task: `detect` or `segment`: the default group.
        folder: The run folder; the run is called after it, and its id is kept there.

    Raises:
        TaskError: The project cannot be a project's name, or `online` is demanded and W&B refuses the key or the run.
        MachineError: `online` is demanded and the server cannot be reached.
    """
    mode = options.mode if options.mode != "auto" else _MODES.get(os.environ.get("WANDB_MODE", ""), "auto")
    if mode == "disabled":
        return None
    entity, project = _split_project(options.project)
    identity = {
        "name": folder.name,
        "entity": entity,
        "project": project,
        "group": options.group or task,
        "tags": options.tags,
    }
    run = WandbRun(folder, mode, identity, options.finish_seconds)
    if mode == "online":
        run.open()
    return run


def _split_project(name: str) -> tuple[str | None, str]:
    """Team, or None, and project."""
    entity, _, project = name.rpartition("/")
    if not project or len(project) > 128 or re.search(r"[\\#?%:]", name) or "/" in entity or name.startswith("/"):
        raise TaskError(
            f"--wandb.project {name!r} is no project of W&B; expected PROJECT or TEAM/PROJECT, 128 characters at most, "
            r"none of \ # ? % :"
        )
    return entity or None, project


class WandbRun(Logger):
    """A training run in W&B. None of its methods but `open` raises, waits or does anything but on the first rank.

    Args:
        folder: The run folder.
        mode: `auto`, `online` or `offline`.
        identity: Arguments of `wandb.init` that name the run.
        finish_seconds: Longest wait at the end.
    """

    def __init__(self, folder: Path, mode: str, identity: dict[str, Any], finish_seconds: float) -> None:
        super().__init__()
        self.folder, self.mode, self.identity, self.finish_seconds = folder, mode, identity, finish_seconds
        self._messenger: _Messenger | None = None
        self._exit_code = 0

    def __getstate__(self) -> dict[str, Any]:
        """For processes that are spawned: the first rank among them starts a helper of its own."""
        return {**self.__dict__, "_messenger": None}

    @property
    def name(self) -> str:
        """The project."""
        return str(self.identity["project"])

    @property
    def version(self) -> str:
        """The run's name."""
        return str(self.identity["name"])

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @rank_zero_only
    def open(self) -> None:
        """Starts the helper process, and waits for it where `online` is demanded.

        Raises:
            TaskError: W&B refuses the key or the run.
            MachineError: The server cannot be reached.
        """
        self._messenger = _Messenger(self.folder, self.mode, self.identity, self.finish_seconds)
        _open.append(self)
        if self.mode == "online" and (refusal := self._messenger.refusal()) is not None:
            error = TaskError if refusal.is_mistake else MachineError
            raise error(
                f"--wandb.mode online: {refusal.reason}; `wandb login` or WANDB_API_KEY sets the key, --wandb.mode "
                "auto logs offline where there is no connection"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds points at a step to curves; those of steps that a resumed run repeats are left out."""
        self._send("log", dict(metrics), step or 0)

    @rank_zero_only
    def log_pictures(self, name: str, pictures: list[np.ndarray], captions: list[str], step: int) -> None:
        """Shows pictures (H, W, 3) uint8 under one name."""
        self._send("log_pictures", name, pictures, captions, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **_: Any) -> None:
        """Sets options that runs are filtered and compared by."""
        self.update_config(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def update_config(self, content: dict[str, Any]) -> None:
        """Sets options that runs are filtered and compared by; what JSON does not know becomes text."""
        self._send("update_config", json.loads(json.dumps(content, default=str)))

    @rank_zero_only
    def keep_maximum(self, name: str) -> None:
        """Compares runs by the maximum of a curve, not by its last point; over all starts of the run."""
        self._send("keep_maximum", name)

    @rank_zero_only
    def update_summary(self, content: dict[str, float]) -> None:
        """Sets columns of W&B's table of runs."""
        self._send("update_summary", content)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Remembers how training ended; `finish` closes the run."""
        self._exit_code = 0 if status == "success" else 1

    @rank_zero_only
    def finish(self, exit_code: int | None = None, seconds: float | None = None) -> None:
        """Closes the run, and waits for the upload.

        Args:
            exit_code: How the command ends, 0 for a finished run; default: as Lightning has told `finalize`.
            seconds: Longest wait; default: `finish_seconds`.
        """
        messenger, self._messenger = self._messenger, None
        if messenger is not None:
            _open.remove(self)
            messenger.finish(
                self._exit_code if exit_code is None else exit_code, self.finish_seconds if seconds is None else seconds
            )

    def _send(self, method: str, *arguments: Any) -> None:
        if self._messenger is None:
            self.open()
        assert self._messenger is not None
        self._messenger.send(method, arguments)


_open: list[WandbRun] = []
"""Runs of this process that are not closed."""


def finish_wandb(exit_code: int | None = None, seconds: float | None = None) -> None:
    """Closes the W&B run of this process, if there is one; see `WandbRun.finish`."""
    for run in list(_open):
        run.finish(exit_code, seconds)


class _Messenger:
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
