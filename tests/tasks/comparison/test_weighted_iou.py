"""mIoU of a resample equals that of the resampled data set, written out."""

import numpy as np

from tasks.comparison import WeightedIoU, image_weights, resampled_scores
from tasks.metrics import SegmentationMetric
from tests.tasks.metrics.test_metric_confusion import names, random_maps


def test_a_resample_scores_as_the_data_set_written_out() -> None:
    predictions, targets = random_maps(3, 6, 7)
    targets = [target.where(target != 5, 255) for target in targets]
    targets[1:] = [target.where(target != 2, 255) for target in targets[1:]]
    predictions[1:] = [labels.where(labels != 2, 0) for labels in predictions[1:]]  # class 2 is in the first only
    metric = SegmentationMetric(names(7))
    metric.update(predictions, targets)
    areas = metric.image_areas()
    scorer = WeightedIoU(areas.intersection, areas.union)
    seen = resampled_scores(scorer, 8, seed=2)
    for weights, found in zip(image_weights(6, 8, seed=2), seen, strict=True):
        places = np.repeat(np.arange(6), weights)
        metric = SegmentationMetric(names(7))
        metric.update([predictions[place] for place in places], [targets[place] for place in places])
        numbers = metric.compute()
        expected = [numbers["mIoU"], *(numbers[score] for score in metric.class_scores)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        assert np.isnan(found[3]) == (weights[0] == 0)
    assert 0 < np.isnan(seen[:, 3]).sum() < 8


def test_draws_are_those_of_the_seed() -> None:
    once, again, other = (np.stack([*image_weights(9, 50, seed)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any() and (once.sum(axis=1) == 9).all() and once.max() > 2
