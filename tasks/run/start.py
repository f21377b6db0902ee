"""How a training run begins: its folder claimed, its checkpoint chosen, by the first process for all."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from tasks.errors import TaskError
from tasks.headline import Direction
from tasks.run.checkpoint_files import BEST, CHECKPOINTS, LAST
from tasks.run.files import remove_leftovers
from tasks.run.folder import Claim, Request, claim_run_folder, evaluation_folder, take_up
from tasks.run.job import Job
from tasks.run.lock import RunLock
from tasks.run.record import RunRecord, Status, read_record
from tasks.run.rendezvous import agree
from tasks.run.resume import newest_good_checkpoint, require_same_options
from tasks.weights import verify_checkpoint

_HANDED_DOWN = "ATTNDENSE_RUN"


@dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
        folder: The run folder.
        checkpoint: What it continues from; none begins anew.
        step: Optimiser steps that the checkpoint has seen.
        continues: Whether the folder held this run before: its table, summary and curves go on.
        finished: What to say instead of training: the run has reached its end before.
    """

    folder: str
    checkpoint: str | None = None
    step: int = 0
    continues: bool = False
    finished: str | None = None


class RunEnded(SystemExit):
    """A command ends without training to the end of the run: there is nothing more to do, or no more time.

    Attributes:
        folder: The run folder.
    """

    def __init__(self, folder: Path, exit_code: int) -> None:
        super().__init__(exit_code)
        self.folder = folder


class RunStart:
    """The beginning, and the giving back, of a run folder.

    Attributes:
        start: How the run begins.
        lock: The lock of its folder; only in the first process.
    """

    def __init__(self, request: Request, job: Job, config: Mapping[str, Any], new_schedule: bool) -> None:
        self.request, self.job, self.config, self.new_schedule = request, job, config, new_schedule
        self.lock: RunLock | None = None
        self._is_made = False
        self._found: RunRecord | None = None
        inherited = os.environ.get(_HANDED_DOWN)
        words = inherited if inherited is not None else agree(job, self._choose)
        self.start = Start(**json.loads(words))
        self.folder = Path(self.start.folder)
        os.environ[_HANDED_DOWN] = words  # for the processes that Lightning starts
        self._handed_down = inherited is None

    def abandon(self, reason: str) -> None:
        """Leaves a run as it was that has not begun to train: its folder goes if it came with it.

        Args:
            reason: Why; it is kept beside the start in the record of a run that was there before.
        """
        if self.lock is None:
            return
        if self._is_made:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._found is not None and (record := read_record(self.folder)) is not None:
            replace(self._found, starts=record.ended(max(self.start.step, 0), reason).starts).write(self.folder)

    def close(self) -> None:
        """Gives the folder back."""
        if self._handed_down:
            os.environ.pop(_HANDED_DOWN, None)
        if self.lock is not None:
            self.lock.release()

    def _choose(self) -> str:
        checkpoint = self.request.checkpoint
        step = 0 if checkpoint is None else int(verify_checkpoint(checkpoint)["global_step"])  # before anything is made
        claim = claim_run_folder(self.request, self.job)
        self.lock, self._is_made, self._found = claim.lock, claim.is_made, claim.found
        try:
            start = self._begin(claim, step)
        except BaseException:
            claim.lock.release()
            raise
        return json.dumps(asdict(start))

    def _begin(self, claim: Claim, step: int) -> Start:
        folder, checkpoint = claim.folder, self.request.checkpoint
        remove_leftovers(folder)
        remove_leftovers(folder / CHECKPOINTS)
        if checkpoint is not None:
            take_up(claim, self.job, step)
            return Start(str(folder), str(checkpoint), step, continues=claim.found is not None)
        if claim.found is None:
            take_up(claim, self.job)
            return Start(str(folder))
        require_same_options(folder, self.config, self.new_schedule)
        found = newest_good_checkpoint(folder)
        if claim.found.status == "finished" and self._asks_for_no_more(claim.found):
            return Start(str(folder), finished=finished_words(folder, claim.found))
        if found is None and self.request.resume == "must":
            raise TaskError(f"--resume must: no good checkpoint in {folder / CHECKPOINTS}")
        take_up(claim, self.job, 0 if found is None else found.step)
        if found is None:
            rank_zero_info(f"no checkpoint in {folder} yet: it starts from the beginning")
            return Start(str(folder), continues=True, step=-1)
        rank_zero_info(f"going on with {folder} from {found.path.name}: step {found.step}, epoch {found.epoch}")
        return Start(str(folder), str(found.path), found.step, continues=True)

    def _asks_for_no_more(self, record: RunRecord) -> bool:
        trainer = self.config["trainer"]
        steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
        more_steps = steps in (-1, None) or steps > record.step
        more_epochs = epochs in (-1, None) or epochs > record.epoch
        return not (more_steps and more_epochs) or record.reason != ""


def finished_words(folder: Path, record: RunRecord) -> str:
    """What a finished run says when it is asked to go on."""
    score = ", ".join(f"{name} {value:.4g}" for name, value in record.score.items()) or "no score"
    return (
        f"{folder} is finished: {score} after {record.step} steps; give more --trainer.max_epochs or max_steps to go on"
    )


def close_record(
    folder: Path,
    status: Status,
    saved_at: tuple[int, int] | None,
    score: Mapping[str, float],
    reason: str = "",
    direction: Direction = "max",
    last_step: int | None = None,
) -> None:
    """Writes how a run stands at the end of a command; step and epoch stay where this start has saved nothing."""
    record = read_record(folder) or RunRecord()
    step, epoch = saved_at or (record.step, record.epoch)
    closed = replace(record, status=status, step=step, epoch=epoch, reason=reason)
    scored = replace(closed, score=dict(score), direction=direction)
    scored.ended(step if last_step is None else last_step).write(folder)


def named_checkpoint(request: Request, job: Job, name: str) -> Path:
    """The file that `--ckpt_path` means: `best` and `last` are those of the run that the other options name.

    Where that has none, as with a new `--name` for what is written, they are those of the run whose config is given.

    Raises:
        TaskError: It does not exist.
    """
    if name in ("best", "last"):
        named = evaluation_folder(replace(request, checkpoint=None), job)
        given = [] if request.config is None else [request.config.parent]
        paths = [folder / CHECKPOINTS / (BEST if name == "best" else LAST) for folder in (named, *given)]
        for path in paths:
            if path.is_file():
                return path
        raise TaskError(f"--ckpt_path {name}: no {paths[0]}; name the run with --name, or give the file itself")
    path = Path(name)
    if not path.is_file():
        raise TaskError(f"no checkpoint at {path}; --ckpt_path expects a file such as RUN/{CHECKPOINTS}/last.ckpt")
    return path
