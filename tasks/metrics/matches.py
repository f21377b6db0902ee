"""How the detections of a data set were matched: all that its AP depends on, for this and any choice of its images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.coco_backends import COUNTED, BackendName, IoUType, matched_images
from tasks.metrics.packed_images import ImageRecord

IOUS = 10
"""Thresholds 0.50:0.05:0.95."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Matched detections of K classes in I images, class by class, by falling score.

    They are COCOeval's, for objects of all areas and as many detections per image and class as count. Equal scores
    stand in the order of the images. Classes without counted ground truth have no AP; their detections are left out.

    Attributes:
        starts: (K + 1,) int64, where the detections of each class begin, and where those of the last one end.
        scores: (D,) float64.
        images: (D,) int64, place of the image in the data set.
        matched: (10, D) bool, whether a ground truth was found, by IoU.
        ignored: (10, D) bool, whether the detection counts neither way, as on a crowd.
        truth_images: (T,) int64, place of an image that has counted ground truth of a class.
        truth_labels: (T,) int64, the class.
        truth_counts: (T,) int64, how many.
    """

    starts: NDArray[np.int64]
    scores: NDArray[np.float64]
    images: NDArray[np.int64]
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    truth_images: NDArray[np.int64]
    truth_labels: NDArray[np.int64]
    truth_counts: NDArray[np.int64]


def match(
    records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, backend: BackendName, counted: int = COUNTED
) -> Matches:
    """Matches the detections of some images.

    Args:
        records: Distinct images, in the order of the data set.
        num_classes: K.
        iou_type: Overlap of boxes or of masks.
        backend: Which package does it.
        counted: Detections of an image and class that count.
    """
    scores: list[float] = []
    matched: list[list[int]] = [[] for _ in range(IOUS)]
    ignored: list[list[bool]] = [[] for _ in range(IOUS)]
    pairs: list[tuple[int, int, int, int]] = []  # image, label, detections, counted ground truths
    for found in matched_images(records, num_classes, iou_type, backend, counted):
        scores += found["dtScores"]
        for place in range(IOUS):
            matched[place].extend(found["dtMatches"][place])
            ignored[place].extend(found["dtIgnore"][place])
        counted = sum(not ignore for ignore in found["gtIgnore"])
        pairs.append((found["image_id"] - 1, found["category_id"] - 1, len(found["dtScores"]), counted))
    image, label, detections, counted_truths = np.array(pairs, np.int64).reshape(-1, 4).T
    per_class = np.bincount(label, counted_truths, num_classes)
    kept = np.repeat(per_class[label] > 0, detections)
    labels, score = np.repeat(label, detections), np.array(scores, np.float64)
    order = np.lexsort((-score, labels))  # stable
    order = order[kept[order]]
    with_truth = np.lexsort((image, label))
    with_truth = with_truth[counted_truths[with_truth] > 0]
    return Matches(
        np.searchsorted(labels[order], np.arange(num_classes + 1)),
        score[order],
        np.repeat(image, detections)[order],
        np.array(matched, np.int64)[:, order] != 0,
        np.array(ignored, np.bool_)[:, order],
        image[with_truth],
        label[with_truth],
        counted_truths[with_truth],
    )
