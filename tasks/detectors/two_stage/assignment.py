"""Which object a box is to find: assignment by the largest IoU."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from tasks.detectors.two_stage.convention import LowQuality

NEGATIVE, IGNORED = -1, -2
"""Instead of the number of an object."""


@dataclass(frozen=True)
class Assignment:
    """Assigns boxes to objects.

    A box gets the object that it overlaps most, the first one of equals, if their IoU reaches a threshold.

    Attributes:
        positive: IoU from which on a box is positive.
        negative: IoU below which it is negative; between the two it is ignored.
        low_quality: Whether an object's best boxes are positive whatever their IoU, and whose they are then:
            see `Convention.low_quality`.
        low_quality_minimum: IoU that they have at least.
    """

    positive: float
    negative: float
    low_quality: LowQuality = "none"
    low_quality_minimum: float = 0.0

    def __call__(self, boxes: Tensor, objects: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Assigns.

        Args:
            boxes: (N, 4) xyxy.
            objects: (G, 4) xyxy.
            ignored: (N,) boxes that take no part.

        Returns:
            (N,) numbers of the objects, `NEGATIVE` or `IGNORED`.
        """
        if not len(objects):
            found = boxes.new_full((len(boxes),), NEGATIVE, dtype=torch.int64)
        elif len(boxes):
            found = self._by_overlap(box_iou(objects, boxes), ignored)
        else:
            found = boxes.new_zeros(0, dtype=torch.int64)
        return found if ignored is None else found.masked_fill(ignored, IGNORED)

    def _by_overlap(self, overlaps: Tensor, ignored: Tensor | None) -> Tensor:
        """Numbers (N,) of objects from overlaps (G, N)."""
        if ignored is not None:
            overlaps = overlaps.masked_fill(ignored, -1.0)
        best, objects = overlaps.max(dim=0)
        found = objects.masked_fill(best < self.positive, IGNORED).masked_fill(best < self.negative, NEGATIVE)
        if self.low_quality == "none":
            return found
        reached = overlaps.amax(dim=1, keepdim=True)
        shares_best = (overlaps == reached) & (reached >= self.low_quality_minimum)
        if self.low_quality == "own_best":
            return torch.where(shares_best.any(dim=0), objects, found)
        numbers = torch.arange(len(overlaps), device=overlaps.device)[:, None]
        last = numbers.masked_fill(~shares_best, -1).amax(dim=0)
        return torch.where(last >= 0, last, found)
