"""How every benchmark measures: variants in turn in one process, medians, ratios, memory in a process of its own."""

import json
import os
import re
import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.profile.fresh import (
    Memory,
    Seconds,
    call_memory,
    call_seconds,
    extra_memory,
    fresh_seconds,
    peak_memory,
    private_memory,
    resident_memory,
)
from tasks.profile.timing import time_in_turn

ROOT = Path(__file__).parents[1]

__all__ = [
    "ROOT",
    "Goal",
    "Memory",
    "Seconds",
    "call_memory",
    "call_seconds",
    "extra_memory",
    "finish",
    "fresh_seconds",
    "keep_freed_memory",
    "parse_options",
    "peak_memory",
    "private_memory",
    "ratio_goal",
    "resident_memory",
    "show_table",
    "time_in_turn",
]


_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass(frozen=True)
class Goal:
    """A number that a benchmark must reach, or only reports.

    Attributes:
        name: What is measured.
        value: What came out, in `unit`.
        bound: What is demanded; none where the number is only reported.
        unit: `x` for ratios, otherwise a unit.
        at_least: True where larger is better.
        low: Smallest single observation of the value, where there are several.
        high: Largest single observation.
    """

    name: str
    value: float
    bound: float | None
    unit: str = "x"
    at_least: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the demand is met."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """One line."""
        spread = "" if self.low is None or self.high is None else f" ({self.low:.3g}..{self.high:.3g})"
        if self.bound is None:
            return f"{self.name}: {self.value:.3g} {self.unit}{spread}"
        sign = ">=" if self.at_least else "<="
        verdict = "ok" if self.reached else "MISSED"
        return f"{self.name}: {self.value:.3g} {self.unit}{spread}, goal {sign} {self.bound:g} {self.unit}: {verdict}"


def ratio_goal(
    name: str, slow: Sequence[float], fast: Sequence[float], bound: float | None, at_least: bool = True
) -> Goal:
    """The goal that the ratio of medians slow / fast be at least (at most) a bound, with the rounds' spread."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    value = statistics.median(slow) / statistics.median(fast)
    return Goal(name, value, bound, at_least=at_least, low=min(ratios), high=max(ratios))


def keep_freed_memory() -> None:
    """Starts this process again, if need be, with an allocator that keeps freed memory for the next tensor.

    By default glibc hands large tensors back to the system or not, depending on what happens to lie behind them. To
    fetch a map of 28 MB again costs more than a millisecond of page faults, which fall on either side by chance.
    """
    if _KEPT.items() <= os.environ.items():
        return
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **_KEPT})


def parse_options(description: str, configure: Callable[[ArgumentParser], object] | None = None) -> Namespace:
    """The options of a benchmark: `--json`, and its own."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the goals as JSON")
    if configure is not None:
        configure(parser)
    return parser.parse_args()


def processor() -> str:
    """Name of the processor, with the vector instructions that PyTorch uses; every figure depends on it."""
    import torch  # not part of what others measure

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def finish(goals: Iterable[Goal], as_json: bool) -> None:
    """Prints the goals, each as soon as it is measured, and ends the process, with exit code 1 when one was missed."""
    measured: list[Goal] = []
    if not as_json:
        print(processor(), flush=True)  # noqa: T201
    for goal in goals:
        measured.append(goal)
        if not as_json:
            print(goal, flush=True)  # noqa: T201
    if as_json:
        facts = [asdict(goal) | {"reached": goal.reached, "processor": processor()} for goal in measured]
        print(json.dumps(facts, indent=2))  # noqa: T201
    sys.exit(0 if all(goal.reached for goal in measured) else 1)


def show_table(name: str, table: str, document: Path | None) -> None:
    """Prints a table, or puts it into a document between `<!-- NAME -->` and `<!-- /NAME -->`.

    Args:
        name: What the marks say.
        table: The table in Markdown.
        document: The document; None to print.
    """
    if document is None:
        print(table)  # noqa: T201
        return
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    document.write_text(marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", document.read_text()))
