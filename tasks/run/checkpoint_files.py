"""Checkpoint files on the disk: whole or not there, the one before kept, verified when they are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from tasks.errors import MachineError
from tasks.run.files import write_whole
from tasks.run.lock import RunLock
from tasks.weights import load_as_data, require_good_bytes

CHECKPOINTS = "checkpoints"
LAST, BEFORE_LAST, BEST = "last.ckpt", "last.before.ckpt", "best.ckpt"


class CheckpointFiles(CheckpointIO):
    """How Lightning, and every `ModelCheckpoint` of a user, writes and reads checkpoints.

    Lightning's own way (2.6.6) stages the file in `$TMPDIR`, copies it over the old one where that is another file
    system, and swallows a lost permission.

    Attributes:
        lock: The lock of the run folder; while it is given, nothing is written that is no longer this process's.
    """

    def __init__(self) -> None:
        self.lock: RunLock | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            MachineError: It cannot be written, or the run folder belongs to another process by now.
        """
        path = Path(path)
        if self.lock is not None:
            self.lock.require()
        try:
            write_whole(
                path,
                lambda file: torch.save(checkpoint, file),
                keep=path.with_name(BEFORE_LAST) if path.name == LAST else None,
            )
        except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into a RuntimeError
            cause = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), error)
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).splitlines()[0]
            left = f"{path} of before is untouched" if path.exists() else "there is none from before"
            raise MachineError(f"cannot write the checkpoint {path}: {reason}; {left}") from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Verifies a checkpoint and reads it, as data and never as code.

        Raises:
            TaskError: It is damaged.
        """
        require_good_bytes(path)
        return load_as_data(path, map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint that a user's `ModelCheckpoint` no longer keeps."""
        Path(path).unlink(missing_ok=True)
