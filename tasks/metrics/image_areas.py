"""Areas of every class in every image: the scores of all pixels, and scores by image.

Scores of all pixels are those of MMSegmentation's IoUMetric as fractions (it prints percent); for scores by image see
Wang et al., NeurIPS 2023, arXiv 2310.19252.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORST = 0.05
"""Share of the images whose mean is the worst case."""


@dataclass(frozen=True, eq=False)
class ImageAreas:
    """Pixels of K classes in I images that carry a class in the ground truth.

    All scores follow from them, so those of any choice of the images do, too: `areas.take([4, 0, 0]).scores()`.

    Attributes:
        intersection: (I, K) int64, pixels that have the class in ground truth and prediction.
        truth: (I, K) int64, pixels that have it in the ground truth.
        predicted: (I, K) int64, pixels that have it in the prediction.
    """

    intersection: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        """(I, K) pixels that have the class in one of them."""
        return self.truth + self.predicted - self.intersection

    def take(self, images: Sequence[int] | NDArray[np.int64]) -> "ImageAreas":
        """The areas of some images by their places; an image may be drawn more than once, and counts as often."""
        places = np.asarray(images, np.int64)
        return ImageAreas(self.intersection[places], self.truth[places], self.predicted[places])

    def class_iou(self) -> NDArray[np.float64]:
        """(K,) IoU of each class over all pixels; nan where it is in neither ground truth nor prediction."""
        return _share(self.intersection.sum(axis=0), self.union.sum(axis=0))

    def image_iou(self) -> NDArray[np.float64]:
        """(I,) mean IoU of each image alone, over the classes of its ground truth; nan where it has none."""
        held = self.truth > 0
        iou = np.divide(self.intersection, self.union, out=np.zeros(held.shape), where=held)
        return _share(iou.sum(axis=1), held.sum(axis=1))

    def scores(self) -> dict[str, float]:
        """All scores; the order of the images does not matter.

        Returns:
            `mIoU`: mean of `class_iou` over the classes that have one; `mAcc`: mean recall of the classes in the ground
            truth; `aAcc`: share of pixels that are right. Then those in which an image counts as much as any other,
            whatever its objects' size, and only classes of its ground truth count in it, as in the paper: `mIoU_image`,
            mean over images of the mean IoU of their classes; `mIoU_class`, mean over classes of the mean IoU over the
            images that hold the class; `mIoU_worst`, the mean of the twentieth of the images (at least one) where the
            mean IoU is the lowest. `classes`: number of classes in the mIoU; `images`: number of images. Without a
            labelled pixel all but these two are nan.
        """
        right, truth, iou = self.intersection.sum(axis=0), self.truth.sum(axis=0), self.class_iou()
        accuracy = _share(right, truth)
        return {
            "mIoU": _mean(iou[~np.isnan(iou)]),
            "mAcc": _mean(accuracy[~np.isnan(accuracy)]),
            "aAcc": float(_share(right.sum(), truth.sum())),
            **self._scores_by_image(),
            "classes": float(np.count_nonzero(~np.isnan(iou))),
            "images": float(len(self.truth)),
        }

    def _scores_by_image(self) -> dict[str, float]:
        held = self.truth > 0
        iou = np.divide(self.intersection, self.union, out=np.zeros(held.shape), where=held)
        images = self.image_iou()
        images = images[~np.isnan(images)]
        classes = [_mean(column[of_class]) for column, of_class in zip(iou.T, held.T, strict=True) if of_class.any()]
        worst = np.sort(images)[: max(1, int(len(images) * WORST))]
        return {"mIoU_image": _mean(images), "mIoU_class": _mean(classes), "mIoU_worst": _mean(worst)}


def join(parts: Sequence[ImageAreas], num_classes: int) -> ImageAreas:
    """The images of several parts."""
    empty = np.empty((0, num_classes), np.int64)
    names = ("intersection", "truth", "predicted")
    return ImageAreas(*(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in names))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part / whole; nan where there is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), math.nan), where=np.asarray(whole) > 0)


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The mean, rounded once, so that the order of the values does not matter."""
    return math.fsum(values) / len(values) if len(values) else math.nan
