"""Times of calls: several in turn in one process, or the median of one on its device."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

PATIENCE = 10.0
"""Seconds after which a slow call is not repeated."""
_MOST_CALLS = 100


def time_in_turn(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
    at_least: float = 0.0,
) -> dict[str, list[float]]:
    """Times variants A, B, B, A, A, B, ... after one warm-up each: a drift of the machine hits all alike.

    The order turns round after every run, because whoever comes second finds other things in caches and allocator.

    Args:
        variants: What is timed, by name.
        rounds: Counted runs of each.
        clock: Seconds; process CPU time unless a variant works in other processes.
        at_least: Seconds that a run must last; shorter calls are repeated. A call of 2 ms behind one of another variant
            would mostly measure what that one has left in the caches.

    Returns:
        Seconds of a call, for every counted run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    calls = dict.fromkeys(variants, 1)
    for counted in range(-1, rounds):
        in_order = list(variants.items())
        for name, variant in reversed(in_order) if counted % 2 else in_order:
            gc.collect()
            start = clock()
            for _ in range(calls[name]):
                variant()
            spent = (clock() - start) / calls[name]
            if counted >= 0:
                seconds[name].append(spent)
            elif spent < at_least:
                calls[name] = min(_MOST_CALLS, math.ceil(at_least / max(spent, 1e-9)))
    return seconds


def median_milliseconds(call: Callable[[], object], device: str, rounds: int) -> float:
    """Median time of a call after a warm-up: CPU time of this process, or time on the GPU.

    Args:
        call: What is timed; it runs at least twice.
        device: `cpu` or `cuda`.
        rounds: Counted runs; fewer where they take more than `PATIENCE` seconds together.
    """
    call()
    spent: list[float] = []
    begin = time.perf_counter()
    while len(spent) < rounds and (not spent or time.perf_counter() - begin < PATIENCE):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            spent.append(start.elapsed_time(end))
        else:
            before = time.process_time()
            call()
            spent.append(1000 * (time.process_time() - before))
    return statistics.median(spent)


def milliseconds(device: str) -> float:
    """A clock: CPU time of this process, or time on the wall when the GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
        return 1000 * time.perf_counter()
    return 1000 * time.process_time()
