"""How every benchmark measures: variants in turn in one process, medians, ratios, memory in a process of its own."""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Goal:
    """A number that a benchmark must reach.

    Attributes:
        name: What is measured.
        value: What came out, in `unit`.
        bound: What is demanded.
        unit: `x` for ratios, otherwise a unit.
        at_least: True where larger is better.
        low: Smallest single observation of the value, where there are several.
        high: Largest single observation.
    """

    name: str
    value: float
    bound: float
    unit: str = "x"
    at_least: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the demand is met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """One line."""
        spread = "" if self.low is None or self.high is None else f" ({self.low:.3g}..{self.high:.3g})"
        sign = ">=" if self.at_least else "<="
        verdict = "ok" if self.reached else "MISSED"
        return f"{self.name}: {self.value:.3g} {self.unit}{spread}, goal {sign} {self.bound:g} {self.unit}: {verdict}"


def time_in_turn(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Times variants A, B, A, B, ... after one warm-up each, so that a drift of the machine hits all alike.

    Args:
        variants: What is timed, by name.
        rounds: Counted runs of each.
        clock: Seconds; process CPU time unless a variant works in other processes.

    Returns:
        Seconds of every counted run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for counted in range(-1, rounds):
        for name, variant in variants.items():
            gc.collect()
            start = clock()
            variant()
            spent = clock() - start
            if counted >= 0:
                seconds[name].append(spent)
    return seconds


def ratio_goal(name: str, slow: Sequence[float], fast: Sequence[float], bound: float, at_least: bool = True) -> Goal:
    """The goal that the ratio of medians slow / fast be at least (at most) a bound, with the rounds' spread."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    value = statistics.median(slow) / statistics.median(fast)
    return Goal(name, value, bound, at_least=at_least, low=min(ratios), high=max(ratios))


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
    return Memory(**_in_fresh_process("call_memory", module, function, arguments, {"MALLOC_MMAP_THRESHOLD_": "65536"}))


def peak_memory(module: str, function: str, *arguments: str) -> float:
    """Extra peak memory of one call in a fresh process, in MB; see `extra_memory`."""
    return extra_memory(module, function, *arguments).peak


def _in_fresh_process(
    measure: str, module: str, function: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> dict[str, float]:
    program = (
        "import importlib, json, sys\n"
        "from dataclasses import asdict\n"
        "from benchmarks import measure\n"
        "prepare = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])\n"
        "print(json.dumps(asdict(getattr(measure, sys.argv[1])(prepare(*sys.argv[4:])))))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, measure, module, function, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise RuntimeError(f"{module}.{function}{tuple(arguments)} failed:\n{answer.stderr}")
    values: dict[str, float] = json.loads(answer.stdout.strip().splitlines()[-1])
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


def parse_options(description: str, configure: Callable[[ArgumentParser], object] | None = None) -> Namespace:
    """The options of a benchmark: `--json`, and its own."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the goals as JSON")
    if configure is not None:
        configure(parser)
    return parser.parse_args()


def finish(goals: Sequence[Goal], as_json: bool) -> None:
    """Prints the goals and ends the process, with exit code 1 when one was missed."""
    if as_json:
        print(json.dumps([asdict(goal) | {"reached": goal.reached} for goal in goals], indent=2))  # noqa: T201
    else:
        print("\n".join(map(str, goals)))  # noqa: T201
    sys.exit(0 if all(goal.reached for goal in goals) else 1)
