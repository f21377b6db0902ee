"""Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562) of label maps."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.metrics.over_processes import summed

Labels = NDArray[np.uint8] | NDArray[np.int16]
"""(H, W)"""


class BoundaryMetric:
    """IoU of the pixels near the contours of every class.

        IoU_c = |(G_d and G) and (P_d and P)| / |(G_d and G) or (P_d and P)|

    G and P are a class's pixels in ground truth and prediction, G_d and P_d those within d of their contours: what an
    erosion by a square of 2 d + 1 pixels takes away, where the image's border counts as contour, and so does the border
    of what is ignored. Pixels that are ignored in the ground truth count nowhere. Pixels are summed over the data set
    and divided once.

    Args:
        class_names: K distinct names; position is the label.
        width: d as a share of the image's diagonal, at least one pixel; the paper takes 0.02.
        ignore_index: Target value of pixels that do not count.

    Attributes:
        scores: "boundary_mIoU", the mean over the classes that have such pixels.
        class_scores: "boundary_IoU/<class>" of every class; nan where it has none.

    Raises:
        ValueError: The width is not between 0 and 1.
    """

    scores = ("boundary_mIoU",)

    def __init__(self, class_names: Sequence[str], width: float = 0.02, ignore_index: int = 255) -> None:
        if not 0 < width < 1:
            raise ValueError(
                f"width is {width}, expected a share of the image's diagonal between 0 and 1, such as 0.02"
            )
        self.class_names, self.width, self.ignore_index = tuple(class_names), width, ignore_index
        self.class_scores = [f"boundary_IoU/{name}" for name in self.class_names]
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._counts = torch.zeros(3, len(self.class_names), dtype=torch.int64)  # both, ground truth, prediction

    def update(self, predictions: list[Tensor], targets: list[Tensor]) -> None:
        """Counts the pixels of some images.

        Args:
            predictions: One (H, W) integer map per image at original size, values 0..K-1, on any device.
            targets: As many (H, W) integer maps, values 0..K-1 or `ignore_index`.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            self._counts = self._counts + self._count(self._on_host(prediction), self._on_host(target))

    def compute(self) -> dict[str, float]:
        """Scores all images of all processes; in a distributed run every process must call it."""
        both, truth, predicted = summed(self._counts).double()
        iou = both / (truth + predicted - both)  # 0 / 0 = nan: no such pixel
        return {"boundary_mIoU": iou.nanmean().item(), **dict(zip(self.class_scores, iou.tolist(), strict=True))}

    def _on_host(self, labels: Tensor) -> Labels:
        """In one byte a pixel where that holds all labels, which is four times as fast."""
        narrow = len(self.class_names) <= 256 and 0 <= self.ignore_index <= 255
        found: Labels = labels.to(torch.uint8 if narrow else torch.int16).cpu().numpy()
        return found

    def _count(self, prediction: Labels, target: Labels) -> Tensor:
        """(3, K) pixels near contours: in both, in the ground truth, in the prediction."""
        counted = target != self.ignore_index
        truth = near_contours(target, self.width) & counted
        predicted = near_contours(prediction, self.width) & counted
        both = truth & predicted & (prediction == target)
        chosen = ((target, both), (target, truth), (prediction, predicted))
        counts = [np.bincount(labels[mask], minlength=len(self.class_names)) for labels, mask in chosen]
        return torch.from_numpy(np.stack(counts))


def near_contours(labels: Labels, width: float) -> NDArray[np.bool_]:
    """The pixels of a label map (H, W) that an erosion of their own class takes away.

    Args:
        labels: Labels.
        width: Reach of the erosion as a share of the diagonal.
    """
    reach = max(1, round(width * math.hypot(*labels.shape)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near: NDArray[np.bool_] = cv2.erode(labels, square) != cv2.dilate(labels, square)  # two classes within reach
    near[:reach] = near[-reach:] = near[:, :reach] = near[:, -reach:] = True
    return near
