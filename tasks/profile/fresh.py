"""A call in a process of its own: its seconds and its memory. It imports nothing, so that nothing else is measured."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Makes the allocator hand freed memory back to the system at once, so that a process is as large as what it holds.
_RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class Seconds:
    """What a call took.

    Attributes:
        cpu: CPU time of the process.
        wall: Time on the clock.
    """

    cpu: float
    wall: float


@dataclass(frozen=True)
class Memory:
    """What a call added to the resident memory of its process, in MB (2**20 bytes).

    Attributes:
        resident: While its result is alive.
        peak: At most, during the call.
    """

    resident: float
    peak: float


def fresh_seconds(module: str, function: str, *arguments: str) -> Seconds:
    """Time of one call in a fresh process; see `extra_memory`."""
    return Seconds(**_in_fresh_process("call_seconds", module, function, arguments, {}))


def extra_memory(module: str, function: str, *arguments: str) -> Memory:
    """Extra memory of one call in a fresh process; Linux only.

    The function gets the arguments as strings, prepares its inputs and returns a function without arguments; only that
    one's call counts.

    Args:
        module: Module that is imported there, such as `benchmarks.evaluate`.
        function: Name of the function in it.
        arguments: Its arguments.
    """
    # Large blocks go back to the system at once, so that the peak is what is in use.
    return Memory(**_in_fresh_process("call_memory", module, function, arguments, _RETURNED))


def extra_memories(module: str, function: str, *arguments: str) -> dict[str, Memory]:
    """Like `extra_memory` for a function that returns several calls by name, which are measured one after the other."""
    found = _in_fresh_process("call_memories", module, function, arguments, _RETURNED)
    return {name: Memory(**memory) for name, memory in found.items()}


def peak_memory(module: str, function: str, *arguments: str) -> float:
    """Extra peak memory of one call in a fresh process, in MB; see `extra_memory`."""
    return extra_memory(module, function, *arguments).peak


def _in_fresh_process(
    measure: str, module: str, function: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    program = (
        "import importlib, json, sys\n"
        "from dataclasses import asdict\n"
        "from tasks.profile import fresh\n"
        "prepare = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])\n"
        "print(json.dumps(getattr(fresh, sys.argv[1])(prepare(*sys.argv[4:])), default=asdict))\n"
    )
    path = [folder or os.getcwd() for folder in sys.path]  # a user's own module lies where this process found it
    answer = subprocess.run(
        [sys.executable, "-c", program, measure, module, function, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path), **environment},
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        how = f"was killed (signal {-answer.returncode})" if answer.returncode < 0 else "failed"
        raise RuntimeError(f"{module}.{function}{tuple(arguments)} {how}:\n{answer.stderr}")
    values: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return values


def call_seconds(call: Callable[[], object]) -> Seconds:
    """Times a call in this process."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    seconds = Seconds(time.process_time() - cpu, time.perf_counter() - wall)
    del result  # not counted
    return seconds


def call_memory(call: Callable[[], object]) -> Memory:
    """Resident memory during and after a call above what was resident before; Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    result = call()
    gc.collect()
    memory = Memory((_status("VmRSS") - before) / 1024, (_status("VmHWM") - before) / 1024)
    del result
    return memory


def call_memories(calls: Mapping[str, Callable[[], object]]) -> dict[str, Memory]:
    """The same for several calls by name, one after the other."""
    return {name: call_memory(call) for name, call in calls.items()}


def private_memory(process: int) -> float:
    """Memory that a process has written to and shares with no other, in MB; Linux only."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return float(line.split()[1]) / 1024
    raise OSError(f"/proc/{process}/smaps_rollup has no Private_Dirty")


def resident_memory() -> float:
    """Resident memory of this process in MB; Linux only."""
    return _status("VmRSS") / 1024


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
