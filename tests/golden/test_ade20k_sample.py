"""Scores of real masks are the frozen ones, to the pixel, and those of two programs that share no code with ours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.metrics import SegmentationMetric
from tests.golden import ade20k_sample, runs
from tests.golden.test_golden import REMEDY

SharedData = Callable[[str], Path]


def test_areas_and_scores_are_the_frozen_ones(shared_data: SharedData) -> None:
    expected, found = runs.frozen("ade20k_sample"), ade20k_sample.numbers(shared_data("ade20k-sample"))
    assert found["areas"] == expected["areas"] and found["mistaken"] == expected["mistaken"], REMEDY
    assert found["scores"] == pytest.approx(expected["scores"], rel=0, abs=1e-12), REMEDY
    assert 0.2 < found["scores"]["mIoU"] < 0.95 and found["scores"]["images"] == 3
    assert found["scores"]["classes"] == len(found["areas"]) > 30


def test_plain_counting_and_hotcoco_agree(shared_data: SharedData) -> None:
    from hotcoco.semantic import SemanticEval

    names, targets = ade20k_sample.masks(shared_data("ade20k-sample"))
    assert [target.shape for target in targets] == [(512, 683), (364, 500), (300, 400)]
    predictions = list(map(ade20k_sample.prediction_of, targets))
    metric, other, plain = SegmentationMetric(names), SemanticEval(names), np.zeros((150, 150), np.int64)
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update([torch.from_numpy(prediction)], [torch.from_numpy(target)])
        other.update(target, prediction)
        counted = target != 255
        np.add.at(plain, (target[counted], prediction[counted]), 1)
    np.testing.assert_array_equal(metric.confusion, plain)
    np.testing.assert_array_equal(other.confusion(), plain)
    right, truth, found = plain.diagonal(), plain.sum(axis=1), plain.sum(axis=0)
    occurs, scores, theirs = truth + found > 0, metric.compute(), other.results()
    iou = right[occurs] / (truth + found - right)[occurs]
    assert scores["mIoU"] == pytest.approx(iou.mean(), abs=1e-12) == pytest.approx(theirs["mIoU"], abs=1e-12)
    assert scores["mAcc"] == pytest.approx(theirs["mAcc"], abs=1e-12)
    assert scores["aAcc"] == pytest.approx(right.sum() / truth.sum(), abs=1e-12) == pytest.approx(theirs["aAcc"])
    for entry in theirs["per_class"]:
        expected = scores[f"IoU/{entry['name']}"]
        assert entry["IoU"] == (-1 if np.isnan(expected) else pytest.approx(expected, abs=1e-12))
