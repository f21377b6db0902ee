"""Runs that agree in some keys as one row: the seeds folded into mean, spread and count."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.report.keys import Keys
from tasks.report.runs import Run


@dataclass(frozen=True)
class Spread:
    """Some numbers in short.

    Attributes:
        mean: Their mean.
        deviation: Standard deviation, with n - 1; None of a single one.
        count: How many they are.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """With three digits: `0.378`, or `0.378 ± 0.002 (n = 3)`."""
        if self.deviation is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.deviation:.3f} (n = {self.count})"


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Folds the numbers that are defined; None where none is."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    deviation = statistics.stdev(defined) if len(defined) > 1 else None
    return Spread(math.fsum(defined) / len(defined), deviation, len(defined))


def rounded(value: float | None, digits: int = 6) -> float | None:
    """As many decimal places as a report keeps; None of what is not defined."""
    return None if value is None or value != value else round(float(value), digits)


@dataclass(frozen=True)
class Group:
    """Finished runs that agree in some keys.

    Attributes:
        keys: The keys and their values.
        runs: The runs, by seed.
        remark: In what else they differ; empty where they are seeds of one configuration.
    """

    keys: dict[str, str]
    runs: tuple[Run, ...]
    remark: str = ""

    @property
    def headline(self) -> str:
        """Name of the number by which they are compared, without its split."""
        return str(self.runs[0].summary["headline"]).partition("/")[2]

    def spread(self, score: str) -> Spread | None:
        """One of their scores."""
        return spread_of(run.scores.get(score) for run in self.runs)

    def rank(self) -> float:
        """Smaller is better; what is not defined comes last."""
        spread = self.spread(self.headline)
        if spread is None:
            return math.inf
        return spread.mean if self.runs[0].summary["direction"] == "min" else -spread.mean


def in_groups(runs: Sequence[Run], keys: Keys, by: Sequence[str]) -> list[Group]:
    """Folds the finished ones of runs that may be ranked together, from best to worst.

    A run that does not say its seed is folded with no other one.

    Args:
        runs: The runs.
        keys: Their keys.
        by: Keys in which the runs of a group agree.
    """
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.state == "finished":
            alone = "" if run.seed is not None else str(run.folder)
            members.setdefault((*(keys.of(run)[name] for name in by), alone), []).append(run)
    groups = []
    for values, together in members.items():
        ordered = tuple(sorted(together, key=lambda run: (run.seed if run.seed is not None else -1, run.name)))
        groups.append(Group(dict(zip(by, values, strict=False)), ordered, _remark(ordered, keys)))
    return sorted(groups, key=Group.rank)


def _remark(runs: Sequence[Run], keys: Keys) -> str:
    """In what the runs of a row differ beside their seeds, and a seed that is there twice."""
    known = [keys.of(run) for run in runs]
    names = [name for name in known[0] if name != "seed" and len({values[name] for values in known}) > 1]
    words = [f"differ in {', '.join(map(keys.label, names))}"] if names else []
    if len({run.seed for run in runs}) < len(runs):
        words.append("a seed is there twice")
    return "; ".join(words)
