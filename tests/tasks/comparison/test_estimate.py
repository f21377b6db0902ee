"""Intervals of simulated runs cover what is known to be true, about as often as they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from tasks.comparison import Arm, compare, estimate_difference, estimate_mean, holm
from tests.tasks.comparison.arms import IMAGES, shared_weights, simulated_arm

TRUE = 0.17
SEED_NOISE = {"small": 0.02, "large": 0.3}  # that of the images is 0.06 in a mean of 300


def coverage(runs: int, seed_noise: float, repetitions: int, seed: int) -> tuple[float, float]:
    """Share of repetitions whose interval holds the true difference, and of those with p < 0.05 without one."""
    random, weights = np.random.default_rng(seed), shared_weights()
    baseline = simulated_arm(random, runs, seed_noise, repetitions, weights)
    candidate = simulated_arm(random, runs, seed_noise, repetitions, weights, TRUE)
    found = estimate_difference(baseline, candidate)
    low, high = found.interval()
    moved = Arm("no better", candidate.scores - TRUE, candidate.resampled - TRUE, IMAGES)
    false_alarms = estimate_difference(baseline, moved).p_value < 0.05
    return float(((low <= TRUE) & (high >= TRUE)).mean()), float(false_alarms.mean())


@pytest.mark.parametrize("seed_noise", SEED_NOISE)
@pytest.mark.parametrize("runs", [2, 3, 4, 7, 10])
def test_the_interval_covers_the_true_difference(runs: int, seed_noise: str) -> None:
    covered, false_alarms = coverage(runs, SEED_NOISE[seed_noise], repetitions=2000, seed=runs)
    assert 0.9 <= covered <= 0.985 and false_alarms == pytest.approx(1 - covered, abs=1e-12)


def test_one_source_of_chance_alone_covers_too_seldom() -> None:
    """Without the part that the other source adds, the same simulation shows far less: it can tell methods apart."""
    random, weights = np.random.default_rng(0), shared_weights()

    def arms(runs: int, noise: float) -> list[Arm]:
        return [simulated_arm(random, runs, noise, 500, weights, mean) for mean in (0, TRUE)]

    one, other = arms(4, SEED_NOISE["large"])
    images_only = [Arm("", arm.scores.mean(axis=0, keepdims=True), arm.resampled, IMAGES) for arm in (one, other)]
    low, high = estimate_difference(*images_only).interval()
    assert ((low <= TRUE) & (high >= TRUE)).mean() < 0.7
    one, other = arms(10, SEED_NOISE["small"])
    welch = stats.ttest_ind(other.scores, one.scores, equal_var=False).confidence_interval()
    assert ((welch.low <= TRUE) & (welch.high >= TRUE)).mean() < 0.75


def test_numbers_by_hand() -> None:
    """Two arms of 2 and 3 runs, four resamples, five images; Satterthwaite's formula written out."""
    baseline = Arm("b", np.array([[0.30], [0.34]]), np.array([[0.31], [0.33], [0.30], [0.34]]), 5)
    candidate = Arm("c", np.array([[0.36], [0.40], [0.38]]), np.array([[0.37], [0.40], [0.36], [0.39]]), 5)
    found = estimate_difference(baseline, candidate)
    differences = [0.06, 0.07, 0.06, 0.05]
    of_images = sum((value - 0.06) ** 2 for value in differences) / 3 * 5 / 4
    of_seeds = [0.0008 / 2, 0.0004 / 3]
    variance = of_images + sum(of_seeds)
    freedom = variance**2 / (of_images**2 / 4 + of_seeds[0] ** 2 / 1 + of_seeds[1] ** 2 / 2)
    assert found.value[0] == pytest.approx(0.06) and found.with_seeds
    assert found.standard_error[0] == pytest.approx(math.sqrt(variance))
    assert found.freedom[0] == pytest.approx(freedom)
    t = stats.t(freedom)
    assert found.above_zero[0] == pytest.approx(t.cdf(0.06 / math.sqrt(variance)))
    assert found.p_value[0] == pytest.approx(2 * t.sf(0.06 / math.sqrt(variance)))
    low, high = found.interval(0.9)
    assert [low[0], high[0]] == pytest.approx([0.06 + sign * t.ppf(0.95) * math.sqrt(variance) for sign in (-1, 1)])
    mean = estimate_mean(candidate)
    of_images = np.var([0.37, 0.40, 0.36, 0.39], ddof=1) * 5 / 4
    assert mean.value[0] == pytest.approx(0.38)
    assert mean.standard_error[0] == pytest.approx(math.sqrt(of_images + of_seeds[1]))


def test_a_single_run_says_that_its_seed_is_not_in_it() -> None:
    random, weights = np.random.default_rng(0), shared_weights(50)
    single, pair = (simulated_arm(random, runs, 0.1, 2, weights) for runs in (1, 2))
    for one, other in ((single, pair), (pair, single), (single, single)):
        found = estimate_difference(one, other)
        assert not found.with_seeds and np.isfinite(found.standard_error).all()
        assert "the seed is not in it" in str(compare(one, [other])[0])
    assert estimate_difference(single, single).freedom[0] == IMAGES - 1
    assert "seed" not in str(compare(pair, [pair])[0])


def test_copies_of_one_run_do_not_differ() -> None:
    run = simulated_arm(np.random.default_rng(0), 1, 0.1, 4, shared_weights(50))
    found = estimate_difference(run, run)
    for values in (found.value, found.standard_error, *found.interval()):
        np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(found.above_zero, 0.5)
    np.testing.assert_array_equal(found.p_value, 1)


def test_undefined_columns_stay_undefined_and_disturb_no_other() -> None:
    weights = shared_weights(50)
    arms = [simulated_arm(np.random.default_rng(seed), 3, 0.1, 3, weights) for seed in (0, 1)]
    whole = estimate_difference(*arms)
    for arm in arms:
        arm.scores[:, 1] = np.nan  # a class without ground truth
        arm.resampled[:, 1] = np.nan
        arm.resampled[:10, 2] = np.nan  # one that some resamples lack
    found = compare(arms[0], [arms[1]])[0]
    for name in ("value", "standard_error", "freedom", "p_value", "above_zero"):
        values = getattr(found.estimate, name)
        assert np.isnan(values[1]) and np.isfinite(values[2]) and values[0] == getattr(whole, name)[0]
    difference = arms[1].resampled[10:, 2] - arms[0].resampled[10:, 2]
    seeds = sum(arm.scores[:, 2].var(ddof=1) / 3 for arm in arms)
    expected = math.sqrt(difference.var(ddof=1) * IMAGES / (IMAGES - 1) + seeds)
    assert found.estimate.standard_error[2] == pytest.approx(expected)
    np.testing.assert_allclose(found.class_p_corrected[[0, 1]], [np.nan, found.estimate.p_value[2]])


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, np.nan, 0.02, 0.9]), [1, np.nan, 0.06, 1])
    assert len(holm([])) == 0


def test_candidates_are_corrected_for_their_number() -> None:
    random, weights = np.random.default_rng(5), shared_weights(50)
    baseline, *candidates = (simulated_arm(random, 3, 0.05, 4, weights, mean) for mean in (0, 0.2, 0.3, 0.02))
    found = compare(baseline, candidates)
    assert [one.p_corrected for one in found] == holm([one.estimate.p_value[0] for one in found]).tolist()
    assert found[1].p_corrected > found[1].estimate.p_value[0]
    for one in found:
        np.testing.assert_array_equal(one.class_p_corrected, holm(one.estimate.p_value[1:]))
