"""What a run costs, as far as it has been measured."""

from collections.abc import Callable
from dataclasses import dataclass

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


def _fact(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.summary.get(name)


COSTS = (
    Cost("parameters", "parameters", _fact("parameters")),
    Cost("MACs", "MACs", _fact("MACs")),
    Cost("seconds", "training time, s", _fact("seconds")),
)
