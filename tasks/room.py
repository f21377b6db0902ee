"""Where sums over the windows of a large image lie."""

import mmap
import os
import tempfile
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

LARGE = 2**28
"""Bytes above which numbers on a CPU lie in a file."""


def zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros of the type and on the device of a tensor.

    On a CPU, many of them lie in a file, of which the system keeps in memory what is used. It lies in the folder of
    temporary files (`$TMPDIR`), has no name, and is gone with the tensor. Where there is no room, or the system
    cannot reserve it (macOS), memory is taken.
    """
    size = prod(shape) * like.element_size()
    if like.device.type != "cpu" or size <= LARGE or not hasattr(os, "posix_fallocate"):
        return like.new_zeros(shape)
    try:
        with tempfile.TemporaryFile(prefix="attndense-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the process later
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=like.dtype).view(*shape)
    except OSError:
        return like.new_zeros(shape)
