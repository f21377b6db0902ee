"""Loader processes leave stop requests to the training process, and never outlive it."""

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules import COCO, FixedSize

FORK = multiprocessing.get_context("fork")  # has all imports already, which take seconds


def train(root: Path, *streams: int) -> None:
    """A training process with two workers that prints what happens to it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stderr = os.fdopen(0), os.fdopen(2, "w")
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for request in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(request, lambda number, frame: say("parent got", number))
    signal.signal(signal.SIGUSR2, lambda number, frame: None)
    module = COCO(root, pipeline=FixedSize(32, 32), batch_size=2, num_workers=2)
    batches = iter(module.train_dataloader())
    for _ in range(2):  # one of each worker: both have settled which signals they heed
        next(batches)
    say("workers", *(child.pid for child in multiprocessing.active_children()))
    for line in sys.stdin:
        if line.strip() == "batches":
            say("batches", len(list(batches)))
        elif line.strip() == "woken":
            os.write(writer, bytes([0]))
            say("woken", *sorted(set(os.read(reader, 100)) - {0, signal.SIGCHLD}))
        elif line.strip() == "fail":
            raise SystemExit("as when an error is found")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # `print` must not be called by a handler within it


class Parent:
    """The training process, seen from outside."""

    def __init__(self, root: Path) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (asked, questions), (answers, said), (errors, failed) = pipes
        self.process = FORK.Process(target=train, args=(root, asked, said, failed))
        self.process.start()
        for end in (asked, said, failed):
            os.close(end)
        self.questions, self.answers, self.errors = os.fdopen(questions, "w"), os.fdopen(answers), os.fdopen(errors)
        self.workers = [int(word) for word in self.line().split()[1:]]
        assert len(self.workers) == 2

    def line(self) -> str:
        return self.answers.readline().strip()

    def ask(self, question: str) -> str:
        self.questions.write(question + "\n")
        self.questions.flush()
        return self.line()

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        for stream in (self.questions, self.answers, self.errors):
            stream.close()


@pytest.fixture
def parent(shapes: Path) -> Iterator[Parent]:
    started = Parent(shapes / "coco")
    yield started
    started.close()


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
    assert parent.ask("batches") == "batches 4"
    assert parent.ask("woken") == "woken", "a worker must not write into the pipe of the training process"
    os.kill(parent.process.pid, signal.SIGTERM)
    # The empty line wakes it: a signal just before a read begins is heard of when the read ends.
    assert parent.ask("") == f"parent got {int(signal.SIGTERM)}"
    assert parent.ask("woken") == f"woken {int(signal.SIGTERM)}"
    parent.process.kill()
    assert wait_until_gone(parent.workers, 15)


def test_workers_end_when_the_parent_fails(parent: Parent) -> None:
    """At its end Python sends them SIGTERM and waits: that one must be obeyed, and taken for no failure."""
    parent.ask("fail")
    parent.process.join(15)
    assert parent.process.exitcode == 1
    assert wait_until_gone(parent.workers, 1)
    assert parent.errors.read().strip() == "as when an error is found"
