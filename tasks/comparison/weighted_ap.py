"""COCO's AP of any resample of the images, exactly and without matching again.

An image that is drawn w times counts w times. At a detection's place in the order of scores

    precision = TP / (TP + FP),  recall = TP / (counted ground truths),

all three summed with the images' weights; precision is made monotone from the right and read at 101 levels of recall.
Equal to an evaluation of the resampled data set written out, but for equal scores within one image that is drawn twice,
whose order an evaluation leaves to chance.

Only true positives matter: recall changes nowhere else, and between them precision only falls. So a detector's half a
million detections cost two passes, and its few true positives the rest.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.matches import IOUS, Matches

ALL_IOUS = slice(None)
RECALLS = np.linspace(0, 1, 101)
PAIRS = 10_000
"""Pairs of an image and a class that are scored at once: 80 MB."""
Weights = NDArray[np.int64]
"""(I,) how often each image counts."""


class WeightedAP:
    """AP of every class and IoU as a function of the images' weights.

    Args:
        matches: What a detector has found.
        num_images: I.
        ious: Which of the 10 IoUs `scores` takes the mean of.
    """

    def __init__(self, matches: Matches, num_images: int, ious: slice = ALL_IOUS) -> None:
        self.num_images, self.num_classes, self.ious = num_images, len(matches.starts) - 1, ious
        self._images = matches.images
        counts = matches.truth_images, matches.truth_labels, matches.truth_counts
        self._truth_images, self._truth_labels, self._truth_counts = counts
        # True positives, by class, IoU and score: a row of the table of precision is a pair of class and IoU.
        labels = np.repeat(np.arange(self.num_classes), np.diff(matches.starts))
        self._places, self._rows = _events(matches.matched & ~matches.ignored, labels)
        self._hit_images = self._images[self._places]
        self._class_starts = matches.starts[self._rows // IOUS]
        self._row_starts = np.searchsorted(self._rows, self._rows)
        # Ignored detections before each true positive, which are no false positives.
        places, rows = _events(matches.ignored, labels)
        self._ignored_images = self._images[places]
        order = rows * (len(labels) + 1) + places
        before = self._rows * (len(labels) + 1)
        self._ignored_first = np.searchsorted(order, before)
        self._ignored_last = np.searchsorted(order, before + self._places)

    def table(self, weights: Weights) -> NDArray[np.float64]:
        """(K, 10) AP by class and IoU; nan where no ground truth is left.

        Args:
            weights: How often each image counts.
        """
        counts = weights[self._truth_images] * self._truth_counts
        truths = np.bincount(self._truth_labels, counts, self.num_classes).astype(np.float64)
        table = np.zeros((self.num_classes * IOUS, len(RECALLS)))
        if len(self._places):
            detections = _sums_before(weights[self._images])
            positives = _sums_before(weights[self._hit_images])
            found = positives[1:] - positives[self._row_starts]
            counted = detections[self._places + 1] - detections[self._class_starts]
            if len(self._ignored_images):
                ignored = _sums_before(weights[self._ignored_images])
                counted -= ignored[self._ignored_last] - ignored[self._ignored_first]
            precision = found / (counted + np.spacing(1))  # as in COCOeval
            _highest(table, self._rows, _levels(found, truths[self._rows // IOUS]), precision)
            np.maximum.accumulate(table[:, ::-1], axis=1, out=table[:, ::-1])
        ap = table.reshape(self.num_classes, IOUS, len(RECALLS)).mean(axis=2)
        ap[truths == 0] = np.nan
        return ap

    def scores(self, weights: Weights) -> NDArray[np.float64]:
        """(1 + K,) mAP, then the AP of each class; nan where no ground truth is left."""
        classes = self.table(weights)[:, self.ious].mean(axis=1)
        defined = classes[~np.isnan(classes)]
        return np.append(defined.mean() if len(defined) else np.nan, classes)


def image_scores(matches: Matches, num_images: int, ious: slice = ALL_IOUS) -> NDArray[np.float64]:
    """(I,) mAP of each image alone, over the classes that are annotated in it; nan where none is.

    Args:
        matches: What a detector has found.
        num_images: I.
        ious: Which of the 10 IoUs the mean is taken of.
    """
    scores = np.zeros(num_images)
    once = np.ones(num_images, np.int64)
    for first in range(0, len(matches.truth_images), PAIRS):
        pairs = slice(first, first + PAIRS)
        ap = WeightedAP(_by_pairs(matches, pairs), num_images, ious).scores(once)[1:]
        scores += np.bincount(matches.truth_images[pairs], ap, num_images)
    classes = np.bincount(matches.truth_images, minlength=num_images)
    return np.divide(scores, classes, out=np.full(num_images, np.nan), where=classes > 0)


def _by_pairs(matches: Matches, pairs: slice) -> Matches:
    """The same with some pairs of an image and a class that is annotated in it as classes; the rest is left out."""
    labels = np.repeat(np.arange(len(matches.starts) - 1), np.diff(matches.starts))
    images = matches.images.max(initial=matches.truth_images.max(initial=0)) + 1
    wanted = matches.truth_labels[pairs] * images + matches.truth_images[pairs]  # rising: by class, then by image
    found = labels * images + matches.images
    pair = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
    kept = np.flatnonzero(wanted[pair] == found)
    order = kept[np.argsort(pair[kept], kind="stable")]  # stable: scores still fall
    return Matches(
        np.searchsorted(pair[order], np.arange(len(wanted) + 1)),
        matches.scores[order],
        matches.images[order],
        matches.matched[:, order],
        matches.ignored[:, order],
        matches.truth_images[pairs],
        np.arange(len(wanted)),
        matches.truth_counts[pairs],
    )


def _events(happens: NDArray[np.bool_], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Detections for which something is true, and their row: by class, then IoU, then score."""
    iou, place = np.nonzero(happens)
    row = labels[place] * IOUS + iou
    order = np.argsort(row, kind="stable")
    return place[order], row[order]


def _sums_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) sums of the first 0, 1, ..., n values."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _levels(found: NDArray[np.int64], truths: NDArray[np.float64]) -> NDArray[np.int64]:
    """The highest of the 101 levels that a recall reaches, compared as numbers are: `RECALLS[level] <= recall`."""
    recall = found / np.maximum(truths, 1)
    level = (recall * (len(RECALLS) - 1)).astype(np.int64)  # right, or one off where recall is close to a level
    level -= RECALLS[level] > recall
    level += np.append(RECALLS[1:], np.inf)[level] <= recall
    return level


def _highest(
    table: NDArray[np.float64], rows: NDArray[np.int64], levels: NDArray[np.int64], precision: NDArray[np.float64]
) -> None:
    """Puts the highest precision of each row and level of recall into a table; levels rise within a row."""
    cells = rows * table.shape[1] + levels
    firsts = np.flatnonzero(np.diff(cells, prepend=-1))
    table.ravel()[cells[firsts]] = np.maximum.reduceat(precision, firsts)
