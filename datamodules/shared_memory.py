"""Shared memory: through it loader processes hand their batches over, and containers often have 64 MB of it."""

import os
from pathlib import Path

from datamodules.errors import DataError

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2
"""Batches that a worker holds ready, PyTorch's default."""


def check_shared_memory(batch_bytes: int, num_workers: int, processes: int = 1, free: int | None = None) -> None:
    """Refuses a run whose prefetched batches do not fit into shared memory: it would hang, or die of a bus error.

    Every worker holds up to two batches in `/dev/shm`, which all training processes of a machine share. The size of a
    batch is known from the pipeline, no image is read.

    Args:
        batch_bytes: Size of a batch.
        num_workers: Loader processes per training process; without any, no shared memory is used.
        processes: Training processes on this machine.
        free: Free bytes. Default: what the system says; nothing is checked where it has no `/dev/shm`.

    Raises:
        DataError: There is less free than needed.
    """
    if free is None:
        if not SHARED_MEMORY.is_dir():
            return
        system = os.statvfs(SHARED_MEMORY)
        free = system.f_bavail * system.f_frsize
    needed = processes * num_workers * PREFETCHED * batch_bytes
    if needed > free:
        raise DataError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, but {processes} x {num_workers} loader processes with "
            f"{PREFETCHED} batches of {batch_bytes / 1e6:.1f} MB each need {needed / 1e6:.0f} MB; take fewer "
            "(--data.num_workers, 0 needs none) or a smaller --data.batch_size, or give the container more (docker "
            "run --shm-size)"
        )
