"""Boundary IoU against the erosion of each class's mask, one step at a time."""

import math

import cv2
import numpy as np
import pytest
import torch

from tasks.metrics.boundary import BoundaryMetric

NAMES = ["a", "b", "c", "d", "e"]


def patches(seed, height, width, classes=4):
    """Rectangles of classes over each other."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int64)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        labels[top : top + random.integers(1, height + 1), left : left + random.integers(1, width + 1)] = (
            random.integers(classes)
        )
    return labels


def eroded(mask, steps):
    """Erosion by 3 x 3, so many times; outside is nothing."""
    padded = np.pad(mask.astype(np.uint8), 1)
    for _ in range(steps):
        padded = cv2.erode(padded, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return padded[1:-1, 1:-1].astype(bool)


def slow_scores(predictions, targets, width, ignore=255):
    both, either = np.zeros(len(NAMES)), np.zeros(len(NAMES))
    for prediction, target in zip(predictions, targets, strict=True):
        steps = max(1, round(width * math.sqrt(target.shape[0] ** 2 + target.shape[1] ** 2)))
        for k in range(len(NAMES)):
            rings = [
                (labels == k) & ~eroded(labels == k, steps) & (target != ignore) for labels in (target, prediction)
            ]
            both[k] += (rings[0] & rings[1]).sum()
            either[k] += (rings[0] | rings[1]).sum()
    iou = np.divide(both, either, out=np.full(len(NAMES), np.nan), where=either > 0)
    return {
        "boundary_mIoU": np.nanmean(iou),
        **{f"boundary_IoU/{name}": value for name, value in zip(NAMES, iou, strict=True)},
    }


@pytest.mark.parametrize("width", [0.001, 0.02, 0.1])
def test_equal_to_erosions_of_every_class(width):
    shapes = [(60, 41), (33, 80), (1, 9), (7, 1)]
    targets = [patches(number, *shape) for number, shape in enumerate(shapes)]
    predictions = [np.where(np.random.default_rng(9).random(t.shape) < 0.02, 1, np.roll(t, 1)) for t in targets]
    targets[0][10:20, 5:30] = targets[1][0, :] = 255
    metric = BoundaryMetric(NAMES, width)
    metric.update([torch.from_numpy(p) for p in predictions[:1]], [torch.from_numpy(t) for t in targets[:1]])
    metric.update([torch.from_numpy(p) for p in predictions[1:]], [torch.from_numpy(t).int() for t in targets[1:]])
    found, expected = metric.compute(), slow_scores(predictions, targets, width)
    assert [*found] == [*expected] == [*metric.scores, *metric.class_scores]
    assert found == {name: pytest.approx(value, abs=1e-15, nan_ok=True) for name, value in expected.items()}
    assert math.isnan(found["boundary_IoU/e"]) and 0 < found["boundary_mIoU"] < 1
    metric.reset()
    assert math.isnan(metric.compute()["boundary_mIoU"])


def test_many_classes_and_another_mark():
    target, prediction = patches(3, 50, 70), patches(4, 50, 70)
    plain, wide = BoundaryMetric(NAMES), BoundaryMetric([str(number) for number in range(900)], ignore_index=-1)
    plain.update([torch.from_numpy(prediction)], [torch.from_numpy(np.where(target == 0, 255, target))])
    moved = np.where(target == 0, -1, 200 * target)
    wide.update([torch.from_numpy(200 * prediction)], [torch.from_numpy(moved)])
    found, expected = wide.compute(), plain.compute()
    assert found["boundary_mIoU"] == expected["boundary_mIoU"] > 0
    assert found["boundary_IoU/600"] == expected["boundary_IoU/d"] > 0


def test_same_maps_are_perfect_and_a_thick_contour_costs_the_interior_nothing():
    square = torch.zeros(100, 100, dtype=torch.uint8)
    square[20:80, 20:80] = 1
    larger = torch.zeros(100, 100, dtype=torch.uint8)
    larger[19:81, 19:81] = 1
    metric = BoundaryMetric(NAMES)
    metric.update([square.long()], [square])
    assert metric.compute()["boundary_mIoU"] == 1
    metric.reset()
    metric.update([larger.long()], [square])
    ring = lambda side: side**2 - (side - 6) ** 2  # noqa: E731 - 3 pixels are 2 % of the diagonal
    inside = 60**2 - 56**2  # of the square's ring what the larger one's ring covers
    assert metric.compute()["boundary_IoU/b"] == pytest.approx(inside / (ring(60) + ring(62) - inside))


def test_width_is_a_share():
    with pytest.raises(ValueError, match="width is 2, expected a share"):
        BoundaryMetric(NAMES, 2)
