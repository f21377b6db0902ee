"""Methods against a baseline: difference, interval, probability of being better, p value corrected for their number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.comparison.estimate import Arm, Estimate, Values, estimate_difference
from tasks.comparison.holm import holm


@dataclass(frozen=True, eq=False)
class Difference:
    """What a candidate scores more than a baseline.

    Attributes:
        baseline: Name of the baseline.
        candidate: Name of the candidate.
        estimate: The difference of the score, then of each class.
        p_corrected: p value of the score, corrected for the number of candidates.
        class_p_corrected: (K,) p values of the classes, corrected for the number of classes.
    """

    baseline: str
    candidate: str
    estimate: Estimate
    p_corrected: float
    class_p_corrected: Values

    def __str__(self) -> str:
        """One line, in points of a hundred."""
        found = self.estimate
        low, high = found.interval()
        words = (
            f"{self.candidate} - {self.baseline}: {100 * found.value[0]:+.2f}, 95 % interval {100 * low[0]:+.2f} to "
            f"{100 * high[0]:+.2f}, better with probability {found.above_zero[0]:.3f}, p = {found.p_value[0]:.2g} "
            f"({self.p_corrected:.2g} corrected)"
        )
        return words if found.with_seeds else f"{words}; of these runs, not of the methods: the seed is not in it"


def compare(baseline: Arm, candidates: Sequence[Arm]) -> list[Difference]:
    """Compares methods with a baseline.

    Args:
        baseline: Runs of the baseline.
        candidates: Runs of each other method, on the same images, resampled alike.
    """
    estimates = [estimate_difference(baseline, candidate) for candidate in candidates]
    corrected = holm(np.array([estimate.p_value[0] for estimate in estimates]))
    return [
        Difference(baseline.name, candidate.name, estimate, float(p), holm(estimate.p_value[1:]))
        for candidate, estimate, p in zip(candidates, estimates, corrected, strict=True)
    ]
