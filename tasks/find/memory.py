"""Memory as a limit that a trial runs into, instead of one at which the system kills the process."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import TaskError
from tasks.run.known_failures import MEMORY_FAILURES

MEMORY = Path("/proc/meminfo")
PROCESS = Path("/proc/self/status")
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Limit and use of the control group that a container shows as its own, in both versions."""
LIBRARIES = r"could not create a (?:primitive|memory)|std::bad_alloc"
"""What oneDNN and C++ say where the limit stops them; outside of a trial it may have other causes."""


def free_memory() -> int:
    """Bytes that this process could still get: of the machine, and of the container where that has a limit.

    Raises:
        TaskError: The system does not tell, as only Linux does.
    """
    free = [_kilobytes(MEMORY, "MemAvailable")]
    for limit, used in GROUPS:
        if limit.is_file() and (bound := limit.read_text().strip()).isdigit():
            free.append(int(bound) - int(used.read_text()))
    return min(free)


@contextmanager
def limited_memory(growth: int) -> Iterator[None]:
    """Lets this process take no more memory than it has and so many bytes, while the context lasts.

    What counts is what it has asked for (RLIMIT_DATA), which is at least what it uses.

    Args:
        growth: Bytes.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _kilobytes(PROCESS, "VmData") + growth
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    text = f"{type(error).__name__}: {error}"
    patterns = (LIBRARIES, *(failure.pattern for failure in MEMORY_FAILURES))
    return any(re.search(pattern, text, re.DOTALL) for pattern in patterns)


def _kilobytes(file: Path, name: str) -> int:
    """A row of /proc, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text() if file.is_file() else "", re.MULTILINE)
    if found is None:
        raise TaskError(f"{file} says nothing of {name}, which limits trials on a CPU; use Linux, or a GPU")
    return int(found[1]) * 1024
