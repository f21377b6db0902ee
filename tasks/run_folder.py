"""Where a run writes: `runs/<task>/<name>/`, chosen once and known to every process.

A run folder stands alone: `config.<subcommand>.yaml`, `checkpoints/best.ckpt` and `last.ckpt`, `metrics.csv`,
`summary.json`, `pictures/`, `predictions/`, and W&B's own files in `wandb/`.
"""

import os
from itertools import count
from pathlib import Path

from tasks.errors import TaskError

CHECKPOINTS = "checkpoints"
_CHOSEN = "ATTNDENSE_RUN_FOLDER"


def choose_run_folder(
    task: str, root: Path, name: str | None, config: Path | None, checkpoint: Path | None, fits: bool
) -> Path:
    """Chooses the folder of this run.

    A run that continues or evaluates a checkpoint writes into the checkpoint's own run folder, unless a name is given.
    Otherwise the folder is called like the first config file, with a number behind it when such a run exists, so that
    no run overwrites another. Processes that this one starts inherit the choice through the environment; under Slurm,
    where all start at once, the job's number makes the name unique and stable over requeues.

    Args:
        task: `detect` or `segment`.
        root: Folder of all runs.
        name: The user's own name.
        config: First config file of the command line.
        checkpoint: Checkpoint that is resumed or evaluated.
        fits: True for training.

    Returns:
        The folder; it need not exist.

    Raises:
        TaskError: Several processes were started from outside and could not agree on a new name.
    """
    inherited = os.environ.get(_CHOSEN)
    if inherited is not None:
        return Path(inherited)
    if name is None and checkpoint is not None and checkpoint.parent.name == CHECKPOINTS:
        return checkpoint.parent.parent
    folder = root / task / (name or (config.stem if config else "run"))
    job = os.environ.get("SLURM_JOB_ID")
    if name is None and job is not None:
        folder = folder.with_name(f"{folder.name}-{job}")
    elif fits and checkpoint is None and (folder / CHECKPOINTS).exists():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TaskError(f"{folder} holds another run; give this one a name with --name")
        folder = next(free for number in count(2) if not (free := folder.with_name(f"{folder.name}-{number}")).exists())
    return folder


def hand_down(folder: Path) -> None:
    """Tells the processes that this one will start which folder was chosen."""
    os.environ[_CHOSEN] = str(folder)


def forget() -> None:
    """Ends the validity of the choice: the next command in this process chooses anew."""
    os.environ.pop(_CHOSEN, None)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file of the run folder through a temporary one, so that a kill leaves the old or the new content."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
