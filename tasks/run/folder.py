"""Where a run writes: `runs/<task>/<name>/`, claimed by one process, found again by the job that goes on.

A run folder stands alone: `run.json` (what the run is and how it stands), `config.<subcommand>.yaml`,
`checkpoints/`, `metrics.csv`, `summary.json`, `pictures/`, `predictions/`, and W&B's own files in `wandb/`. Who writes
it now is in `run.lock`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePath
from typing import Literal

from tasks.errors import TaskError
from tasks.run.checkpoint_files import CHECKPOINTS
from tasks.run.job import Job
from tasks.run.lock import Owner, RunLock, host_name
from tasks.run.record import RECORD, RunRecord, read_record

Resume = Literal["auto", "never", "must"]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run, of this or an earlier version."""
    return (folder / RECORD).exists() or (folder / CHECKPOINTS).exists()


@dataclass(frozen=True)
class Request:
    """What the command line says of the run folder.

    Attributes:
        task: `detect` or `segment`.
        root: Folder of all runs.
        name: The user's own name; none takes the config's.
        config: First config file of the command line.
        checkpoint: Checkpoint that is continued or evaluated.
        resume: Whether to go on with a run that exists; none: only where the scheduler says that it is the same job.
        command: The command line.
    """

    task: str
    root: Path
    name: str | None = None
    config: Path | None = None
    checkpoint: Path | None = None
    resume: Resume | None = None
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the run lies below the folder of its task.

        Raises:
            TaskError: It would lie elsewhere.
        """
        name = PurePath(self.name or "")
        if self.name is not None and (not name.parts or name.is_absolute() or ".." in name.parts):
            raise TaskError(f"--name is {self.name!r}, expected a name such as first or sweep/first")
        if str(self.root) == "null":
            raise TaskError("--runs is null, expected a folder; leave it out for runs")

    def base(self, job: Job) -> Path:
        """The folder by its name, before any number is put behind it."""
        folder = self.root / self.task
        if self.name is not None:
            return folder / self.name
        if self.config is not None and is_run(self.config.parent):
            return self.config.parent  # the saved config of a run
        name = self.config.stem if self.config else "run"
        return folder / (name if job.label is None else f"{name}-{job.label}")


@dataclass(frozen=True)
class Claim:
    """A run folder that this process owns.

    Attributes:
        folder: The folder.
        lock: Its lock, held by this process.
        found: What was there before; none for a new run.
        is_made: Whether the folder was not there before.
    """

    folder: Path
    lock: RunLock
    found: RunRecord | None
    is_made: bool = False


def claim_run_folder(request: Request, job: Job) -> Claim:
    """Chooses and claims the folder of a training run; for the first process of a run only.

    - A job that its scheduler has started again goes on in its own folder, found by its key and command line, also
      where an earlier life of it seems alive (a lost node's task).
    - `resume` of `auto` or `must` goes on in the folder of this name, unless a living process writes it.
    - A checkpoint in a run folder is continued there, unless a name is given.
    - Otherwise the run is new: the first free of NAME, NAME-2, NAME-3, ...

    Raises:
        TaskError: There is nothing to resume, or a living process writes the run that the checkpoint belongs to.
    """
    base = request.base(job)
    resume = request.resume or ("auto" if job.restarts > 0 else "never")
    if request.checkpoint is not None:
        own = request.checkpoint.parent.parent
        if request.checkpoint.parent.name == CHECKPOINTS and (request.name is None or own.resolve() == base.resolve()):
            return _claim_existing(own)
        return _claim_new(base, request, job)
    if resume != "never":
        for folder in _own_folders(base, request, job):
            lock = RunLock(folder)
            lock.claim(take_over=True)
            return Claim(folder, lock, read_record(folder))
        if request.resume is not None and is_run(base):
            claim = _try(base)
            if isinstance(claim, Claim):
                return claim
            if resume == "must":
                raise TaskError(f"--resume must: {claim} is running {base}; wait for it, or stop it")
    if resume == "must":
        raise TaskError(f"--resume must: there is no run in {base}; give its --name, or leave --resume out")
    return _claim_new(base, request, job)


def evaluation_folder(request: Request, job: Job) -> Path:
    """Where `validate`, `test` and `predict` write: beside the checkpoint that they take, unless a name is given."""
    checkpoint = request.checkpoint
    if request.name is None and checkpoint is not None and checkpoint.parent.name == CHECKPOINTS:
        return checkpoint.parent.parent
    return request.base(job)


def _own_folders(base: Path, request: Request, job: Job) -> Iterator[Path]:
    """Folders that an earlier life of this job has claimed with this command line, oldest first."""
    if job.key is None or job.restarts == 0:
        return
    for folder in sorted(base.parent.glob(f"{base.name}*"), key=lambda folder: (len(folder.name), folder.name)):
        record = read_record(folder)
        if record is not None and record.job == job.key and record.restarts < job.restarts:
            if record.command == list(request.command):
                yield folder


def _claim_existing(folder: Path) -> Claim:
    claim = _try(folder)
    if isinstance(claim, Owner):
        raise TaskError(f"{claim} is running {folder}; wait for it, stop it, or give this run a --name of its own")
    return claim


def _try(folder: Path) -> Claim | Owner:
    lock = RunLock(folder)
    owner = lock.claim()
    return Claim(folder, lock, read_record(folder) or RunRecord()) if owner is None else owner


def _claim_new(base: Path, request: Request, job: Job) -> Claim:
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if is_run(folder):
            continue
        is_made = not folder.exists()
        _make(folder, request.root)
        lock = RunLock(folder)
        if lock.claim() is not None:
            continue
        if is_run(folder):  # another process has claimed it, and has ended, since we looked
            lock.release()
            continue
        RunRecord(command=list(request.command), job=job.key, restarts=job.restarts).write(folder)
        return Claim(folder, lock, None, is_made)
    raise AssertionError("unreachable")


def _make(folder: Path, root: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise TaskError(f"--runs {root}: {error.filename} leads through a file; expected a folder") from error
    except FileNotFoundError as error:  # what the system keeps in /proc takes no folders
        raise TaskError(f"--runs {root}: no folder can be made there; give one in which you may write") from error


def take_up(claim: Claim, job: Job, step: int = 0) -> None:
    """Notes in the record of a run that it starts, or goes on.

    Args:
        claim: The run.
        job: The job of this process.
        step: Optimiser steps that it goes on from.
    """
    record = read_record(claim.folder) or RunRecord()
    taken = replace(record, job=job.key or record.job, restarts=job.restarts)
    taken.started(step, host_name(), claim.folder).write(claim.folder)
