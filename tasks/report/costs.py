"""What a run costs, as far as it has been measured."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from tasks.report.runs import Run


@dataclass(frozen=True)
class Cost:
    """A cost of runs.

    Attributes:
        name: Short name.
        label: What it is, with its unit.
        of: Its value in a run; None where the run has none.
    """

    name: str
    label: str
    of: Callable[[Run], float | None]

    def is_known(self, run: Run) -> bool:
        """Whether a run has it."""
        return self.of(run) is not None


def _fact(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.summary.get(name)


def _logged(name: str, fold: Callable[[Iterable[float]], float], factor: float = 1) -> Callable[[Run], float | None]:
    return lambda run: fold(factor * value for _, value in run.curves[name]) if name in run.curves else None


COSTS = (
    Cost("parameters", "parameters", _fact("parameters")),
    Cost("MACs", "MACs", _fact("MACs")),
    Cost("step", "step, ms", _logged("perf/step_p50", median, 1000)),
    Cost("memory", "peak memory, MB", _fact("peak_memory_MB")),
    Cost("seconds", "training time, s", _fact("seconds")),
)
