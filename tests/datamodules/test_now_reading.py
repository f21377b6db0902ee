"""What a killed process was reading is known to the process that it was forked from."""

import os
import signal
from pathlib import Path

from datamodules.now_reading import SLOT_SIZE, read_last, reading


def fork(path: Path, name_it_after: bool) -> int:
    """A process that is killed while it reads a file, or after it; its pid."""
    pid = os.fork()
    if pid == 0:
        with reading(path):
            if not name_it_after:
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def test_the_file_of_a_killed_process_is_known() -> None:
    assert read_last(fork(Path("/data/größe 1.jpg"), name_it_after=False)) == "/data/größe 1.jpg"


def test_a_file_that_was_read_is_not_blamed() -> None:
    assert read_last(fork(Path("/data/1.jpg"), name_it_after=True)) is None


def test_other_processes_and_long_paths() -> None:
    pid = fork(Path("/" + "x" * 5000), name_it_after=False)
    path = read_last(pid)
    assert path is not None and path.startswith("/xxx") and len(path) < SLOT_SIZE
    assert read_last(pid + 256) is None  # the same slot
