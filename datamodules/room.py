"""Where the pixels of an image lie: of a large one in a file, of which the system keeps in memory what is used."""

import os
import tempfile
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LARGE = 2**24
"""Pixels above which an image is large: 50 MB of them."""

Room = Callable[[tuple[int, int, int]], NDArray[np.uint8]]
"""Makes room for the pixels (H, W, 3) of an image; what is in it is arbitrary."""


def in_memory(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Room in memory."""
    return np.empty(shape, np.uint8)


def on_disk_if_large(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Room in memory, or for a large image in a file that is mapped: it has no name, and is gone with the array.

    The file lies in the folder of temporary files (`$TMPDIR`). Where that has no room for it, or the system cannot
    reserve it (macOS), memory is taken.
    """
    if shape[0] * shape[1] <= LARGE or not hasattr(os, "posix_fallocate"):
        return in_memory(shape)
    try:
        with tempfile.TemporaryFile(prefix="attndense-") as file:
            os.posix_fallocate(
                file.fileno(), 0, int(np.prod(shape, dtype=np.int64))
            )  # or a full disk kills the process
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError:
        return in_memory(shape)
