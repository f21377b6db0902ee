"""Energy that the devices of a run have used, where the machine counts it."""

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
POLL_SECONDS = 10.0
"""RAPL's counters begin anew after some minutes at full power; they are looked at oftener."""

Counter = Callable[[], int]
"""Reads a counter of microjoules."""


class Energy:
    """Joules on this machine since training began, over all starts of the run: of its GPUs, and of all processors.

    NVIDIA's driver counts for each GPU since Volta, Linux (RAPL) for each processor, where its files may be read, which
    they usually may by the administrator alone. Both count what other programs use, too. Of several machines it is the
    first one's.

    Attributes:
        joules: By `GPU` and `CPU`; what could not be read in every start is absent.
    """

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}
        self._goes_on = False
        self._counters: dict[str, list[_Growth]] = {}
        self._polled = 0.0

    def go_on_from(self, joules: Mapping[str, float]) -> None:
        """Adds the starts before."""
        self.joules, self._goes_on = dict(joules), True

    def start(self, gpus: Sequence[int], rapl: Path = RAPL) -> None:
        """Begins to count.

        Args:
            gpus: PyTorch's numbers of the GPUs.
            rapl: Folder of the counters of processors.
        """
        found = {"GPU": gpu_counters(gpus), "CPU": cpu_counters(rapl)}
        known = [kind for kind, counters in found.items() if counters and (kind in self.joules or not self._goes_on)]
        self._counters = {kind: found[kind] for kind in known}
        self.joules = {kind: self.joules.get(kind, 0.0) for kind in known}

    def poll(self, now: bool = False) -> None:
        """Reads the counters, if they are due or it has to be now."""
        if not now and time.monotonic() - self._polled < POLL_SECONDS:
            return
        self._polled = time.monotonic()
        for kind, counters in self._counters.items():
            self.joules[kind] += sum(counter.joules() for counter in counters)


class _Growth:
    """By how much a counter of microjoules has grown since it was last asked."""

    def __init__(self, read: Counter, largest: int = 0) -> None:
        self._read, self._largest, self._last = read, largest, read()

    def joules(self) -> float:
        """Of a counter that has begun anew, from there on; 0 where it cannot be read any more."""
        try:
            value = self._read()
        except OSError:
            return 0.0
        grown, self._last = value - self._last, value
        return max(grown + self._largest if grown < 0 else grown, 0) / 1e6


def cpu_counters(rapl: Path = RAPL) -> list[_Growth]:
    """The counters of processors; of a system with several each one's, none where one cannot be read."""
    found = []
    for zone in sorted(rapl.glob("intel-rapl:*")):  # AMD's have the same name
        try:
            if (zone / "name").read_text().startswith("package"):  # others are parts of one, or hold all
                largest = int((zone / "max_energy_range_uj").read_text())
                found.append(_Growth(_file_counter(zone / "energy_uj"), largest))
        except (OSError, ValueError):
            return []
    return found


def _file_counter(file: Path) -> Counter:
    return lambda: int(file.read_text())


def gpu_counters(gpus: Sequence[int]) -> list[_Growth]:
    """The counters of GPUs; none where the driver's library, or the counter of one of them, is missing."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1") if gpus else None
    except OSError:
        return []
    if library is None or library.nvmlInit_v2() != 0:
        return []
    try:
        return [_Growth(_nvml_counter(library, str(torch.cuda.get_device_properties(gpu).uuid))) for gpu in gpus]
    except OSError:
        return []


def _nvml_counter(library: ctypes.CDLL, uuid: str) -> Counter:
    device = ctypes.c_void_p()
    _require(library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(device)))

    def read() -> int:
        millijoules = ctypes.c_ulonglong()
        _require(library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)))
        return 1000 * millijoules.value

    return read


def _require(code: int) -> None:
    if code:
        raise OSError(f"NVML error {code}")
