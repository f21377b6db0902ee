"""Loader processes: one thread each, and deaf to the signals that a cluster sends to every process of a job."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

STOP_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What Ctrl-C, schedulers and users send to end a run. The training process decides; its workers go on until then."""


def start_worker(worker: int) -> None:
    """Prepares a loader process (a DataLoader's `worker_init_fn`).

    - One thread: many workers with many threads each slow each other down.
    - SIGINT and SIGUSR1 are ignored, and SIGTERM is obeyed only where the training process itself sends it, as PyTorch
      and Python do when they end: a worker that a scheduler's SIGTERM ends would take the training process with it
      before it has saved.
    - Signals are not passed on to the pipe through which the training process hears of its own
      (`signal.set_wakeup_fd`), which a forked worker shares with it.

    A worker ends by itself, within seconds, when its training process is gone: PyTorch looks for it.

    Args:
        worker: Number of the process, unused.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none; there SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # only the thread takes it
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Lets stop requests wait for a moment, in this thread and in the processes that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_when_the_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)  # as PyTorch's own handler does, so that its parent takes it for no failure
