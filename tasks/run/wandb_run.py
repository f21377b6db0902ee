"""Weights & Biases beside a run: it shows everything, and can end nothing.

No code of W&B runs in the training process. Its first rank starts a helper process (`wandb_helper`) when there is
something to log, and a thread (`wandb_messenger`) hands the messages over; a helper, server or network that is slow,
gone or hostile costs one line, and training and `metrics.csv` go on. Only `--wandb.mode online` may refuse a run,
before its first step. Across resumes each curve shows each step once (`wandb_session`).
"""

import json
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tasks.errors import MachineError, TaskError
from tasks.headline import Direction
from tasks.run.wandb_messenger import Messenger

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}

SEED = re.compile(r"[-_]s(eed)?\d+$")
"""What tells runs of one setting apart at the end of their names."""
TAG = 64
"""Characters that W&B allows in a tag."""


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: `auto` logs online where an API key is known and the server answers, and offline otherwise, without a
            question; `online` ends the command before training where that cannot be had; `disabled` does without W&B.
            Offline runs are uploaded later with `wandb sync RUN_FOLDER/wandb/offline-run-*`. The environment variable
            WANDB_MODE beats `auto`.
        project: Project that runs are collected in, of your own or, as TEAM/PROJECT, of a team.
        group: Group within the project, which W&B folds into one line with its spread: SWEEP/SETTING for the runs of a
            sweep, so that seeds fold. Default: the run's name without its seed (`a-seed3` is in the group `a`), the
            task where the name has none.
        job_type: Kind of work, by which W&B groups and filters.
        tags: Tags of the run. Default: task, backbone, attention, head and recipe.
        upload_evaluation: Upload `evaluation.npz`, with summary, options and curves, as an artifact when training ends.
            It is a run folder for `tasks.compare`, which has intervals then.
        finish_seconds: Longest wait for the upload at the end of the command.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "attndense"
    group: str | None = None
    job_type: str = "fit"
    tags: list[str] | None = None
    upload_evaluation: bool = False
    finish_seconds: float = 30.0


def make_wandb_run(options: WandbOptions, task: str, folder: Path) -> "WandbRun | None":
    """Makes the W&B logger of a training run, or none where W&B is disabled.

    Args:
        options: What the user wants.
        task: `detect` or `segment`: the group of a run whose name has no seed.
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
        "group": options.group or (SEED.sub("", folder.name) if SEED.search(folder.name) else task),
        "job_type": options.job_type,
        "tags": options.tags,
    }
    run = WandbRun(folder, mode, identity, options.finish_seconds, options.upload_evaluation)
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
        upload_evaluation: Whether `log_evaluation` does anything.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        identity: dict[str, Any],
        finish_seconds: float,
        upload_evaluation: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.mode, self.identity, self.finish_seconds = folder, mode, identity, finish_seconds
        self.upload_evaluation = upload_evaluation
        self._messenger: Messenger | None = None
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
        self._messenger = Messenger(self.folder, self.mode, self.identity, self.finish_seconds)
        _open.append(self)
        if self.mode == "online" and (refusal := self._messenger.refusal()) is not None:
            error = TaskError if refusal.is_mistake else MachineError
            raise error(
                f"--wandb.mode online: {refusal.reason}; `wandb login` or WANDB_API_KEY sets the key, --wandb.mode "
                "auto logs offline where there is no connection"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds points to curves; those that a resumed run repeats are left out."""
        self._send("log", dict(metrics), step or 0)

    @rank_zero_only
    def catch_up(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Adds what W&B lacks of the steps before a resume, after a kill or a time without W&B.

        Args:
            rows: The rows that `CSVMetrics.continue_from` gives.
        """
        self._send("catch_up", [dict(rows[step]) for step in sorted(rows)])

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
    def keep_best(self, name: str, direction: Direction) -> None:
        """Compares runs by the `max` or `min` of a curve, not by its last point; over all starts of the run."""
        self._send("keep_best", name, direction)

    @rank_zero_only
    def add_tags(self, tags: Sequence[str]) -> None:
        """Tags the run, unless its tags were chosen."""
        if self.identity.get("tags") is None:
            self._send("add_tags", [tag[:TAG] for tag in tags])

    @rank_zero_only
    def log_evaluation(self, files: Sequence[Path]) -> None:
        """Uploads files of the run folder as an artifact, where that was asked for."""
        if self.upload_evaluation:
            self._send("log_evaluation", [file for file in files if file.is_file()])

    @rank_zero_only
    def update_summary(self, content: dict[str, Any]) -> None:
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
