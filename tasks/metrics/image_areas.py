"""Areas of every class in every image: scores by image (Wang et al., NeurIPS 2023, arXiv 2310.19252)."""

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

    def scores(self) -> dict[str, float]:
        """Scores in which an image counts as much as any other, whatever its objects' size.

        Only classes of an image's ground truth count in it, as in the paper; the order of the images does not matter.

        Returns:
            `mIoU_image`: mean over images of the mean IoU of their classes; `mIoU_class`: mean over classes of the mean
            IoU over the images that hold the class; `mIoU_worst`: the mean of the twentieth of the images (at least
            one) where the mean IoU is the lowest. Without a labelled pixel all are nan.
        """
        held = self.truth > 0
        iou = np.divide(self.intersection, self.union, out=np.zeros(held.shape), where=held)
        images = [_mean(row[of_image]) for row, of_image in zip(iou, held, strict=True) if of_image.any()]
        classes = [_mean(column[of_class]) for column, of_class in zip(iou.T, held.T, strict=True) if of_class.any()]
        worst = sorted(images)[: max(1, int(len(images) * WORST))]
        return {"mIoU_image": _mean(images), "mIoU_class": _mean(classes), "mIoU_worst": _mean(worst)}


def join(parts: Sequence[ImageAreas], num_classes: int) -> ImageAreas:
    """The images of several parts."""
    empty = np.empty((0, num_classes), np.int64)
    names = ("intersection", "truth", "predicted")
    return ImageAreas(*(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in names))


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The mean, rounded once, so that the order of the values does not matter."""
    return math.fsum(values) / len(values) if len(values) else math.nan
