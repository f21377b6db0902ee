"""Which methods nothing beats in score and cost together, and how sure that is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.comparison.estimate import Arm


def on_front(scores: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Points for which no other has at most their cost and at least their score, and is better in one of them.

    Args:
        scores: (..., A), higher is better.
        costs: (A,), lower is better.

    Returns:
        (..., A); a point without score or cost (nan) is on no front.
    """
    scores = np.asarray(scores, np.float64)
    best = np.full(scores.shape[:-1], -np.inf)  # the highest score among what costs less
    front = np.zeros(scores.shape, np.bool_)
    for cost in np.unique(costs[~np.isnan(costs)]):
        equal = costs == cost
        here = np.max(scores[..., equal], axis=-1, where=~np.isnan(scores[..., equal]), initial=-np.inf)
        front[..., equal] = (scores[..., equal] == here[..., None]) & (here > best)[..., None]
        best = np.maximum(best, here)
    return front


def share_on_front(arms: Sequence[Arm], costs: Sequence[float], seed: int = 0) -> NDArray[np.float64]:
    """How often each arm is on the front when images and seeds are drawn anew.

    Images are resampled, the same for all arms. The seeds' part of an arm's mean is drawn from Student's t with their
    spread, m - 1 degrees of freedom; an arm of one run has none.

    Args:
        arms: A arms that were resampled alike; their first column counts.
        costs: (A,) cost of each, such as seconds; lower is better.
        seed: The same seed gives the same draws.

    Returns:
        (A,) shares in 0..1.
    """
    random = np.random.default_rng(seed)
    drawn = []
    for arm in arms:
        scores = arm.resampled[:, 0]
        if len(arm.scores) > 1:
            deviation = np.sqrt(arm.seed_variance[0])
            scores = scores + deviation * random.standard_t(len(arm.scores) - 1, len(scores))
        drawn.append(scores)
    return on_front(np.stack(drawn, axis=-1), np.asarray(costs, np.float64)).mean(axis=0)
