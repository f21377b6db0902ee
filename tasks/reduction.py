"""Numbers by which losses are divided, over all processes of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed

_is_alone = ContextVar("is_alone", default=False)


@contextmanager
def of_this_process() -> Iterator[None]:
    """Inside, this process computes losses that the others know nothing of."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def reduce_mean(count: Tensor, at_least: float = 1.0) -> Tensor:
    """What one process has of a number on average, as the divisor of a loss that is a sum over a batch.

    Distributed training averages the gradients of the processes. Where each divides its sum by its own number of
    positives, the average depends on how the images are dealt out; divided by the mean of the numbers, it is the sum
    over all images through the number in all images, as one process has it.

    Every process must call this as often as the others, unless it is inside of `of_this_process`.

    Args:
        count: Number in the batch of this process, one element; integers are taken as well.
        at_least: Least number in all processes together, so that nothing is divided by zero.

    Returns:
        (), in float32 or better, without gradients.
    """
    total = count.detach().to(torch.promote_types(count.dtype, torch.float32), copy=True).reshape(())
    processes = 1
    if not _is_alone.get() and distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
        if processes > 1:
            distributed.all_reduce(total)
    return total.clamp(min=at_least) / processes
