"""Which file each loader process is reading: a process that a broken file has killed can no longer say it."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOTS, SLOT_SIZE = 256, 1024
"""Processes of one run that are told apart, by the last digits of their pid, and bytes for the path of each."""

_memory = mmap.mmap(-1, SLOTS * SLOT_SIZE)  # shared with all processes that are forked from now on


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Notes that this process is reading a file until the context ends; takes a few microseconds.

    Args:
        path: The file.
    """
    slot = _slot(os.getpid())
    note = f"{os.getpid()}\n{path}".encode()[: SLOT_SIZE - 1] + b"\0"
    _memory[slot : slot + len(note)] = note
    try:
        yield
    finally:
        _memory[slot : slot + 1] = b"\0"


def read_last(pid: int) -> str | None:
    """The file that a forked process was reading when it ended.

    Args:
        pid: The process.

    Returns:
        The path; None where it was reading none, or was not forked from this process.
    """
    slot = _slot(pid)
    owner, _, path = _memory[slot : slot + SLOT_SIZE].partition(b"\0")[0].decode(errors="replace").partition("\n")
    return path if owner == str(pid) else None


def _slot(pid: int) -> int:
    return pid % SLOTS * SLOT_SIZE
