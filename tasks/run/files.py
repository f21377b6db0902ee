"""Files that a kill at any moment leaves whole: written beside their place, flushed to the disk, renamed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Writes a file so that its name always stands for the old or the new content, also after a power cut.

    The temporary file lies in the same folder: a rename is atomic only within a file system, and `$TMPDIR` is another
    one on most clusters.

    Args:
        path: The file.
        write: Writes the content into an open file.
        keep: Name under which the content before stays, once the new one is safe on the disk.

    Raises:
        OSError: It cannot be written; the old content is untouched, and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _link_over(path, keep)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file of the run folder, whole or not at all."""
    write_whole(Path(path), lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that killed processes have left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _link_over(path: Path, keep: Path) -> None:
    """Gives a file a second name in place of what has that name, without a moment in which either is missing."""
    second = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except (
        OSError
    ):  # a file system without links: the next rename leaves a moment without `path`, but never without both
        path.replace(keep)
        return
    second.replace(keep)
