"""What each row of a table scores more or less than one of them, as text and as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.report.groups import Group

if TYPE_CHECKING:
    from tasks.comparison import Difference


@dataclass(frozen=True)
class Change:
    """What a row scores more than the baseline, on the same images.

    Attributes:
        difference: Of the headline.
        low: Lower end of its 95 % interval.
        high: Upper end.
        better: Probability that the row is better.
        p: Two-sided p value.
        p_corrected: The same, corrected for the number of rows (Holm).
        with_seeds: Whether the seeds are in it, or the images alone.
    """

    difference: float
    low: float
    high: float
    better: float
    p: float
    p_corrected: float
    with_seeds: bool

    def cells(self) -> dict[str, str]:
        """As a table shows it; * marks what says nothing of another seed."""
        star = "" if self.with_seeds else " *"
        return {
            "difference": f"{self.difference:+.3f}",
            "95 % interval": f"{self.low:+.3f} to {self.high:+.3f}{star}",
            "P(better)": f"{self.better:.3f}",
            "p, Holm": "> 0.999" if self.p_corrected > 0.999 else f"{self.p_corrected:.2g}",
        }

    def numbers(self) -> dict[str, float]:
        """Everything, by the names of columns."""
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "P(better)": self.better,
            "p": self.p,
            "p, Holm": self.p_corrected,
        }


@dataclass(frozen=True)
class Baseline:
    """The row that the others of a table are compared with.

    Args:
        named: Values of its keys, such as `none`, or `none,FCOS` where one does not tell it from other rows.
        resamples: Resamples of the images for the intervals.
    """

    named: str
    resamples: int

    def find(self, groups: Sequence[Group]) -> Group | None:
        """The row; None where no row is called so.

        Raises:
            TaskError: Several are.
        """
        wanted = {value.strip() for value in self.named.split(",")}
        found = [group for group in groups if wanted <= set(group.keys.values())]
        if len(found) > 1:
            rows = "; ".join(",".join(group.keys.values()) for group in found[:3])
            raise TaskError(
                f"--against {self.named} names {len(found)} rows: {rows}; name more of the row, or use --by"
            )
        return found[0] if found else None

    def require(self, tables: Sequence[Sequence[Group]]) -> None:
        """Refuses a name that no row of any table has.

        Raises:
            TaskError: It is one.
        """
        if all(self.find(groups) is None for groups in tables):
            known = {value for groups in tables for group in groups for value in group.keys.values()}
            raise TaskError(f"--against {self.named} names no row of these runs{instead(self.named, sorted(known))}")

    def changes(self, groups: Sequence[Group]) -> tuple[list[Change | None], list[str]]:
        """What each row scores more than this one, None where that is not known; and what has to be said of it."""
        baseline = self.find(groups)
        if baseline is None or len(groups) < 2:
            return [None] * len(groups), []
        from tasks.comparison import build_arm, compare  # takes seconds
        from tasks.report.differences import read_groups

        read, kept, notes = read_groups([baseline, *(group for group in groups if group is not baseline)])
        if kept[:1] != [baseline]:
            return [None] * len(groups), notes
        arms = [build_arm(group.runs[0].name, runs, self.resamples) for group, runs in zip(kept, read, strict=True)]
        found = dict(zip(map(id, kept[1:]), map(_change, compare(arms[0], arms[1:])), strict=True))
        row = ", ".join(dict.fromkeys(baseline.keys.values()))
        notes.append(f"differences from {row} on the same images; p corrected for {len(found)} candidates")
        if not all(change.with_seeds for change in found.values()):
            notes.append("* of these runs, not of the methods: the seed is not in it")
        return [found.get(id(group)) for group in groups], notes


def _change(found: "Difference") -> Change:
    estimate = found.estimate
    low, high = (float(end[0]) for end in estimate.interval())
    return Change(
        float(estimate.value[0]),
        low,
        high,
        float(estimate.above_zero[0]),
        float(estimate.p_value[0]),
        found.p_corrected,
        estimate.with_seeds,
    )
