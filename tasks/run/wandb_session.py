"""An open run of W&B in the helper process, made to outlive kills and resumes.

Three things that W&B (0.31) does not do for a run that is killed and goes on from a checkpoint are done here, so that
each curve shows each step once:

- It cannot take points back, and a resumed run repeats steps: what W&B surely has is not sent again.
- It holds back what an offline run has logged (100 steps and more), and `wandb sync` stops at a file that a kill has
  cut, and doubles its points when tried again: such a file is set aside, and its steps are sent again (`catch_up`).
- It forgets the best of the parts before: maxima and minima are kept here.
"""

import contextlib
import copy
import json
import math
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.headline import Direction
from tasks.run.table_file import SECONDS

STEP = "trainer/global_step"
"""The horizontal axis of every curve, as Lightning's own logger calls it."""
SENT = "wandb_sent.json"
"""In the run folder: what W&B surely has."""
NOT_LOGGED = ("step", SECONDS)
"""Columns of `metrics.csv` that are no curves: W&B has a clock of its own."""
WHOLE = "whole"
"""Marks the folder of a start that W&B has written to its end."""
ARRIVAL_SECONDS = 30
"""Time after which a server has what W&B was given."""
UNREACHABLE_SECONDS = 5
REFUSED = "Fatal error while uploading"
"""What W&B prints where a server refuses data in the middle of a run (quota, permission); it says so nowhere else."""

Limit = Callable[[float, str], AbstractContextManager[None]]
"""Ends the process when a block takes longer than some seconds."""


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


@dataclass
class Sent:
    """What W&B has of the run: the last step of every curve, its maximum and its minimum."""

    steps: dict[str, int] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)
    minima: dict[str, float] = field(default_factory=dict)


class Session:
    """An open run of W&B.

    Args:
        start: How to open it.
        limit: Bounds what may hang.

    Raises:
        Exception: What W&B raises: it is imported here, and has dozens of errors.
    """

    def __init__(self, start: Start, limit: Limit) -> None:
        import wandb

        self._limit = limit
        sys.argv[:] = start.command
        with limit(start.seconds, "it did not open the run"):
            settings = wandb.Settings(
                silent=True,
                console="off",
                init_timeout=0.75 * start.seconds,
                finish_timeout=0.75 * start.finish_seconds,  # it then writes what it could not upload
                finish_timeout_raises=True,
                x_stats_pid=os.getppid(),
            )
            if start.mode == "online":
                _check_connection(wandb.setup().settings.base_url)
            _set_cut_files_aside(start.folder, start.identity["id"])
            self.run = wandb.init(
                dir=start.folder, mode=start.mode, resume="allow", settings=settings, **start.identity
            )
            self.run.define_metric(STEP)
            self.run.define_metric("*", step_metric=STEP, step_sync=True)
        self.folder = Path(self.run.dir).parent
        self._said = self.folder / "helper.log"
        with self._said.open("wb") as file:
            os.dup2(file.fileno(), 2)
        self._is_online = start.mode == "online"
        self._image, self._artifact = wandb.Image, wandb.Artifact
        self._file = start.folder / SENT
        self._sent = _read_sent(self._file, self.run.id)
        self._on_its_way: tuple[float, Sent] | None = None
        self._shown_best: dict[str, Direction] = {}

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Adds points to curves, those left out that W&B has."""
        new = {name: value for name, value in metrics.items() if step > self._sent.steps.get(name, -1)}
        if not new:
            return
        self.run.log({**new, STEP: step})
        self._sent.steps.update(dict.fromkeys(new, step))
        for name, value in new.items():
            if isinstance(value, int | float) and not math.isnan(value):
                self._sent.maxima[name] = max(value, self._sent.maxima.get(name, -math.inf))
                self._sent.minima[name] = min(value, self._sent.minima.get(name, math.inf))
                self._show_best(name)
        if self._is_online:
            self._remember_what_has_arrived()

    def catch_up(self, rows: list[dict[str, str]]) -> None:
        """Adds the rows of `metrics.csv`, in the order of their steps, as far as W&B lacks them."""
        for row in rows:
            self.log({name: float(value) for name, value in row.items() if name not in NOT_LOGGED}, int(row["step"]))

    def log_pictures(self, name: str, pictures: list[Any], captions: list[str], step: int) -> None:
        """Shows pictures (H, W, 3) under one name."""
        shown = [self._image(picture, caption=caption) for picture, caption in zip(pictures, captions, strict=True)]
        self.log({name: shown}, step)

    def update_config(self, content: dict[str, Any]) -> None:
        """Sets options that runs are filtered and compared by."""
        self.run.config.update(content, allow_val_change=True)

    def keep_best(self, name: str, direction: Direction) -> None:
        """Shows a curve's maximum or minimum, not its last point, in W&B's table of runs."""
        self.run.define_metric(name, step_metric=STEP, summary="none")
        self._shown_best[name] = direction
        self._show_best(name)

    def add_tags(self, tags: list[str]) -> None:
        """Adds tags to those that the run has."""
        self.run.tags = tuple(dict.fromkeys([*(self.run.tags or ()), *tags]))

    def log_evaluation(self, files: list[Path]) -> None:
        """Uploads files as an artifact of the run."""
        artifact = self._artifact(f"run-{self.run.id}-evaluation", type="evaluation")
        for file in files:
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)

    def update_summary(self, content: dict[str, Any]) -> None:
        """Sets columns of W&B's table of runs."""
        self.run.summary.update(content)

    def finish(self, exit_code: int, seconds: float) -> None:
        """Waits until everything is uploaded or written."""
        import wandb

        with self._limit(seconds, "the upload did not end"):
            self.run.finish(exit_code=exit_code)
            wandb.teardown()
        if REFUSED in self._said.read_text(errors="replace"):
            raise ConnectionError("the server has refused an upload")
        with contextlib.suppress(OSError):  # as in `_remember`
            (self.folder / WHOLE).touch()
        self._remember(self._sent)

    def _show_best(self, name: str) -> None:
        direction = self._shown_best.get(name)
        best = self._sent.minima if direction == "min" else self._sent.maxima
        if direction is not None and name in best:
            self.run.summary.update({name: {direction: best[name]}})

    def _remember_what_has_arrived(self) -> None:
        """Notes what was sent a while ago; what a killed run has sent since then is sent again."""
        if self._on_its_way is None:
            self._on_its_way = time.monotonic(), copy.deepcopy(self._sent)
        elif time.monotonic() - self._on_its_way[0] > ARRIVAL_SECONDS:
            self._remember(self._on_its_way[1])
            self._on_its_way = None

    def _remember(self, sent: Sent) -> None:
        temporary = self._file.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk ends the run elsewhere; at worst W&B gets some points twice
            temporary.write_text(json.dumps({"id": self.run.id, **asdict(sent)}))
            temporary.replace(self._file)


def _read_sent(file: Path, run_id: str) -> Sent:
    """What W&B has of a run of this id; nothing where the file is missing, damaged or another run's."""
    try:
        content = json.loads(file.read_text())
        of_this_run = content.pop("id") == run_id and all(isinstance(part, dict) for part in content.values())
        return Sent(**content) if of_this_run else Sent()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Sent()


def _set_cut_files_aside(folder: Path, run_id: str) -> None:
    """Hides the files of killed offline starts from `wandb sync`."""
    for file in folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"):
        if not (file.parent / WHOLE).exists():
            with contextlib.suppress(OSError):  # in a folder that cannot be written W&B writes elsewhere
                file.rename(file.with_suffix(".wandb.cut"))


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
