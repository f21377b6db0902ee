"""What a run costs: what was measured after it, alone; only where nothing was, what it noted while it trained."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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


def _fact(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.summary.get(name)


def _logged(name: str, fold: Callable[[Iterable[float]], float], factor: float = 1) -> Callable[[Run], float | None]:
    return lambda run: fold(factor * value for _, value in run.curves[name]) if name in run.curves else None


def _measured(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.measured.get(name)


COUNTED = (Cost("parameters", "parameters", _fact("parameters")), Cost("MACs", "MACs", _fact("MACs")))
MEASURED = (
    Cost("latency", "latency, ms", _measured("latency_ms")),
    Cost("training step", "training step, ms", _measured("training_step_ms")),
    Cost("memory", "memory in training, MB", _measured("training_MB")),
)
NOTED = (
    Cost("noted step", "step, ms, as noted in training", _logged("perf/step_p50", median, 1000)),
    Cost("noted memory", "peak memory, MB, as noted in training", _fact("peak_memory_MB")),
)
WHOLE = (Cost("seconds", "training time, s", _fact("seconds")),)


def costs_of(runs: Sequence[Run]) -> list[Cost]:
    """The costs that some of these runs have. What a run noted is left out as soon as one of them was measured."""
    timed: Iterable[Cost] = MEASURED if any(run.measured for run in runs) else NOTED
    if len(_places(runs)) > 1:
        timed = (replace(cost, label=f"{cost.label}, not measured alike") for cost in timed)
    return [cost for cost in (*COUNTED, *timed, *WHOLE) if any(cost.of(run) is not None for run in runs)]


def measured_on(runs: Sequence[Run]) -> str:
    """Where the costs of runs were measured, in words that warn where it was not on one machine; empty if nowhere."""
    places = _places(runs)
    if not places:
        return ""
    what = "latency, training step and memory"
    missing = sum(not run.measured for run in runs)
    rest = f"; {missing} of {len(runs)} runs were not measured" if missing else ""
    if len(places) == 1:
        return f"{what} measured on {next(iter(places))}{rest}"
    shown = "; ".join(f"{count} runs on {place}" for place, count in places.items())
    return f"{what} were not measured alike, do not compare them: {shown}{rest}"


def _places(runs: Sequence[Run]) -> Counter[str]:
    return Counter(_place(run) for run in runs if run.measured)


def _place(run: Run) -> str:
    """The machine, and sizes that are not the run's own."""
    known = run.measured
    words = [f"{known.get('machine')} ({known.get('device')})"]
    words.append(f"{known.get('threads')} thread{'' if known.get('threads') == 1 else 's'}")
    words.append(f"torch {known.get('torch')}")
    if known.get("image_size") != run.summary.get("image_size"):
        words.append(f"images of {known.get('image_size')}")
    if str(known.get("batch")) != run.options.get("data.batch_size"):
        words.append(f"batches of {known.get('batch')}")
    return ", ".join(words)
