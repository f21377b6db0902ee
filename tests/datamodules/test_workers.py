"""Loader processes leave stop requests to the training process, and never outlive it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PARENT = """
import os, signal, sys, time
from pathlib import Path
from datamodules import COCO, FixedSize

reader, writer = os.pipe()
os.set_blocking(reader, False)
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
for request in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(request, lambda number, frame: print("parent got", number, flush=True))
signal.signal(signal.SIGUSR2, lambda number, frame: None)
module = COCO(sys.argv[1], pipeline=FixedSize(32, 32), batch_size=2, num_workers=2)
loader = module.train_dataloader()
batches = iter(loader)
next(batches)
workers = [child.pid for child in __import__("multiprocessing").active_children()]
print("workers", *workers, flush=True)
for line in sys.stdin:
    if line.strip() == "batches":
        print("batches", len(list(batches)), flush=True)
    elif line.strip() == "woken":
        os.write(writer, bytes([0]))
        print("woken", *sorted(set(os.read(reader, 100)) - {0, signal.SIGCHLD}), flush=True)
    elif line.strip() == "fail":
        raise SystemExit("as when an error is found")
"""


class Parent:
    """A training process with two workers that prints what happens to it."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.workers = [int(word) for word in self.line().split()[1:]]
        assert len(self.workers) == 2

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, question: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.line()


@pytest.fixture
def parent(shapes: Path) -> Iterator[Parent]:
    started = Parent(shapes / "coco")
    yield started
    started.process.kill()
    started.process.communicate()


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return re.search(r"^State:\s+Z", status, re.MULTILINE) is None


def wait_until_gone(processes: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(alive, processes))


def test_stop_requests_do_not_end_a_worker_but_the_death_of_its_parent_does(parent: Parent) -> None:
    """A cluster sends them to every process of a job."""
    for request in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):
        for worker in parent.workers:
            os.kill(worker, request)
    time.sleep(0.5)
    assert all(map(alive, parent.workers))
    assert parent.ask("batches") == "batches 5"
    assert parent.ask("woken") == "woken", "a worker must not write into the pipe of the training process"
    os.kill(parent.process.pid, signal.SIGTERM)
    assert parent.line() == f"parent got {int(signal.SIGTERM)}"
    assert parent.ask("woken") == f"woken {int(signal.SIGTERM)}"
    parent.process.kill()
    assert wait_until_gone(parent.workers, 15)


def test_workers_end_when_the_parent_fails(parent: Parent) -> None:
    """At its end Python sends them SIGTERM and waits: that one must be obeyed, and taken for no failure."""
    parent.ask("fail")
    _, errors = parent.process.communicate(timeout=15)
    assert parent.process.returncode == 1 and errors.strip() == "as when an error is found"
    assert wait_until_gone(parent.workers, 1)
