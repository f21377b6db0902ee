"""How many runs, and which methods nothing beats."""

import numpy as np
import pytest

from tasks.comparison import Arm, on_front, runs_needed, share_on_front
from tasks.errors import TaskError
from tests.tasks.comparison.arms import IMAGES, shared_weights, simulated_arm


def test_published_examples() -> None:
    examples = ((0.2, 0.3), (0.15, 0.3), (0.5, 1.0), (0.5, 0.5))
    assert [runs_needed(deviation, difference) for deviation, difference in examples] == [7, 4, 4, 16]
    assert runs_needed(0.2, -0.3) == 7 and runs_needed(0.0, 0.3) == 2
    assert runs_needed(0.2, 0.3, power=0.9) == 10


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-1, 0.3), "standard deviation over seeds is -1, expected 0 or more"),
        ((0.2, 0), "wanted difference is 0, expected a number other than 0"),
        ((0.2, float("nan")), "wanted difference is nan"),
        ((0.2, 0.3, 1), "power is 1, expected a probability between 0.05 and 1"),
    ],
)
def test_impossible_plans_are_refused(numbers: tuple[float, ...], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        runs_needed(*numbers)


def test_the_front_is_that_of_pairs_compared_one_by_one() -> None:
    random = np.random.default_rng(0)
    scores, costs = random.integers(0, 5, (40, 6)).astype(float), random.integers(0, 4, 6).astype(float)
    scores[3, 2] = np.nan
    for row, found in zip(scores, on_front(scores, costs), strict=True):
        for one in range(6):
            better = [
                costs[other] <= costs[one]
                and row[other] >= row[one]
                and (costs[other] < costs[one] or row[other] > row[one])
                for other in range(6)
            ]
            assert found[one] == (not any(better) and not np.isnan(row[one]))
    assert on_front(np.array([1.0, 2, 3]), np.array([1, 2, np.nan])).tolist() == [True, True, False]


def test_share_of_resamples_on_the_front() -> None:
    random, weights = np.random.default_rng(0), shared_weights(400)
    cheap, equal, dear, single = (
        simulated_arm(random, runs, 0.02, 1, weights, mean) for runs, mean in ((3, 0), (3, 0), (3, 5), (1, -9))
    )
    shares = share_on_front([cheap, equal, dear, single], [1, 2, 3, 4])
    assert shares[0] == 1 and shares[2] == 1 and shares[3] == 0
    assert 0.05 < shares[1] < 0.95
    np.testing.assert_array_equal(shares, share_on_front([cheap, equal, dear, single], [1, 2, 3, 4]))


def test_seeds_count_in_the_share() -> None:
    resampled = np.linspace(0, 0.001, 400)[:, None]
    sure = Arm("sure", np.array([[0.5], [0.5]]), 0.5 + resampled, IMAGES)
    unsure = Arm("unsure", np.array([[0.2], [0.81]]), 0.505 + resampled, IMAGES)
    assert share_on_front([sure, unsure], [1, 2])[1] == pytest.approx(0.5, abs=0.1)
