"""A number with two sources of chance, the images and the seeds: its interval, and how likely it is above zero.

The variance of a mean over runs has a part that a bootstrap of the images shows, and a part that only the spread of the
runs shows. Both are added, and the degrees of freedom of the sum are Satterthwaite's (Biometrics Bulletin 2, 1946):

    V = V_images + sum_a s_a^2 / m_a,   df = V^2 / (V_images^2 / (N - 1) + sum_a (s_a^2 / m_a)^2 / (m_a - 1))

with N images and m_a runs of arm a, whose scores have the variance s_a^2. Resampling images alone, or Welch's t over
the seeds' scores alone, covers the true difference far too seldom where the other source is the larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Values = NDArray[np.float64]
"""(C,) one number for each of several columns: a score and those of its classes."""


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one method that differ in their seed, scored on the same images.

    Attributes:
        name: What the runs have in common.
        scores: (m, C) scores of m runs on all images.
        resampled: (R, C) mean of the runs' scores on R resamples of the images.
        num_images: N.
    """

    name: str
    scores: NDArray[np.float64]
    resampled: NDArray[np.float64]
    num_images: int

    @property
    def mean(self) -> Values:
        """Mean score of the runs."""
        return self.scores.mean(axis=0)

    @property
    def seed_variance(self) -> Values:
        """Variance of the mean that the seeds cause; nan for a single run."""
        runs = len(self.scores)
        return self.scores.var(axis=0, ddof=1) / runs if runs > 1 else np.full(self.scores.shape[1], np.nan)


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated number and its uncertainty, column by column; nan where a column is not defined.

    Attributes:
        value: The estimate.
        standard_error: Its standard error.
        freedom: Degrees of freedom of the standard error.
        with_seeds: Whether the standard error has the seeds in it. If not (an arm has one run), interval and p value
            are those of these runs and not of the methods.
    """

    value: Values
    standard_error: Values
    freedom: Values
    with_seeds: bool

    def interval(self, level: float = 0.95) -> tuple[Values, Values]:
        """Lower and upper end of the confidence interval."""
        half = stdtrit(self.freedom, (1 + level) / 2) * self.standard_error
        return self.value - half, self.value + half

    @property
    def above_zero(self) -> Values:
        """Probability that the number is above zero; one half where value and error are both 0."""
        return np.asarray(stdtr(self.freedom, self._in_errors()))

    @property
    def p_value(self) -> Values:
        """Two-sided p value of the hypothesis that the number is zero."""
        return np.asarray(2 * stdtr(self.freedom, -np.abs(self._in_errors())))

    def _in_errors(self) -> Values:
        """The value in standard errors."""
        infinite = np.where(self.value == 0, self.value, np.copysign(np.inf, self.value))
        return np.divide(self.value, self.standard_error, out=infinite, where=self.standard_error != 0)


def estimate_mean(arm: Arm) -> Estimate:
    """The mean score of a method."""
    return _estimate(arm.mean, arm.resampled, [arm])


def estimate_difference(baseline: Arm, candidate: Arm) -> Estimate:
    """What a method scores more than a baseline.

    Args:
        baseline: Runs of the baseline.
        candidate: Runs of the other method, on the same images, resampled alike: image noise that both share cancels.
    """
    difference = candidate.mean - baseline.mean
    return _estimate(difference, candidate.resampled - baseline.resampled, [baseline, candidate])


def _estimate(value: Values, resampled: NDArray[np.float64], arms: Sequence[Arm]) -> Estimate:
    images = arms[0].num_images
    seeds = np.array([arm.seed_variance for arm in arms if len(arm.scores) > 1]).reshape(-1, len(value))
    freedom_of_seeds = np.array([[len(arm.scores) - 1] for arm in arms if len(arm.scores) > 1]).reshape(-1, 1)
    # A draw of N from N images has (N - 1) / N of the variance of a new sample.
    of_images = _variance(resampled) * images / (images - 1)
    variance = of_images + seeds.sum(axis=0)
    spread = of_images**2 / (images - 1) + (seeds**2 / freedom_of_seeds).sum(axis=0)
    without_spread = np.where(np.isnan(variance), np.nan, images - 1)
    freedom = np.divide(variance**2, spread, out=without_spread, where=spread > 0)
    return Estimate(value, np.sqrt(variance), freedom, all(len(arm.scores) > 1 for arm in arms))


def _variance(resampled: NDArray[np.float64]) -> Values:
    """Variance over the resamples in which a column is defined; nan where there are not two."""
    defined = ~np.isnan(resampled)
    counts = defined.sum(axis=0)
    enough = counts > 1
    means = np.divide(np.where(defined, resampled, 0).sum(axis=0), counts, out=np.zeros(len(counts)), where=enough)
    squares = np.where(defined, resampled - means, 0) ** 2
    return np.divide(squares.sum(axis=0), counts - 1, out=np.full(len(counts), np.nan), where=enough)
