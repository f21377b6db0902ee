"""From the scores of all anchors to the boxes that a dense detector hands out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from tasks.ranges import check_range

_FIRST = 1000  # candidates in the first attempt; torchvision's suppression takes so many at once on a CPU


@dataclass(frozen=True)
class Selection:
    """Which boxes of an image are handed out: those that score highest and cover no stronger one of their class.

    Suppression of a box depends on stronger boxes alone, and only the strongest that remain are handed out. So only the
    first candidates are decoded and compared, and more of them where too few remain: the same boxes as from all.

    Attributes:
        score_threshold: Boxes that score no more are dropped.
        nms_threshold: IoU above which the weaker of two boxes of a class is dropped.
        max_detections: Boxes per image.
        candidates: Highest scores of each level (or class) that take part; None for all.
        per_class: Whether `candidates` are those of each class, in place of each level.
    """

    score_threshold: float
    nms_threshold: float
    max_detections: int
    candidates: int | None = None
    per_class: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_limits(self.score_threshold, self.nms_threshold, self.max_detections)

    def __call__(self, scores: Tensor, decode: Callable[[Tensor], Tensor], ends: Tensor) -> dict[str, Tensor]:
        """Selects the boxes of one image.

        Args:
            scores: (A, K) of every anchor and class.
            decode: From numbers of anchors (N,) to their boxes (N, 4) xyxy within the image.
            ends: Number of anchors of the first level, of the first two, and so on to A.

        Returns:
            `boxes` (D, 4), `scores` (D,) in decreasing order, `labels` (D,).
        """
        flat = scores.flatten()
        found = torch.where(flat > self.score_threshold)[0]
        values, count = flat[found], _FIRST
        while True:
            best, order = values.topk(min(count, len(values)))
            anchors, labels = found[order] // scores.shape[1], found[order] % scores.shape[1]
            if self.candidates is not None and len(best) > self.candidates:
                groups = labels if self.per_class else torch.bucketize(anchors, ends, right=True)
                kept = _first_of_each(groups, self.candidates)
                best, anchors, labels = best[kept], anchors[kept], labels[kept]
            boxes = decode(anchors)
            # In double precision, where shifting the boxes of each class aside does not round them.
            remaining = batched_nms(boxes.double(), best.double(), labels, self.nms_threshold)[: self.max_detections]
            if len(remaining) == self.max_detections or count >= len(values):
                return {"boxes": boxes[remaining], "scores": best[remaining], "labels": labels[remaining]}
            count *= 4


def check_limits(score_threshold: float, nms_threshold: float, max_detections: int) -> None:
    """Refuses thresholds and numbers of detections that no detector can have."""
    check_range("score_threshold", score_threshold, 0, 1)
    check_range("nms_threshold", nms_threshold, 0, 1)
    check_range("max_detections", max_detections, 1)


def _first_of_each(groups: Tensor, count: int) -> Tensor:
    """Places, in ascending order, of the first `count` numbers of every group in (N,) group numbers."""
    ordered, places = groups.sort(stable=True)
    rank = torch.arange(len(groups), device=groups.device) - torch.searchsorted(ordered, ordered)
    return places[rank < count].sort().values
