"""From the scores and offsets of the last stage to detections."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from tasks.detectors.base import Detections
from tasks.detectors.selection import check_limits
from tasks.detectors.two_stage.anchors import Size
from tasks.detectors.two_stage.box_coding import BoxCoding
from tasks.detectors.two_stage.box_head import BoxHead


@dataclass(frozen=True)
class DetectionRules:
    """Which boxes become detections.

    Attributes:
        score_threshold: Boxes whose score is not higher are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections of an image.
        smallest_side: Boxes with a shorter side in pixels are dropped.
    """

    score_threshold: float
    nms_threshold: float
    max_detections: int
    smallest_side: float

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_limits(self.score_threshold, self.nms_threshold, self.max_detections)

    def __call__(
        self,
        proposals: list[Tensor],
        logits: Tensor,
        offsets: Tensor,
        head: BoxHead,
        coding: BoxCoding,
        sizes: list[Size],
    ) -> Detections:
        """Detections of every image in pixels of the resized image, best first.

        Args:
            proposals: Boxes (N_i, 4) of every image.
            logits: (sum of N_i, K + 1) of their classes.
            offsets: (sum of N_i, regressors, 4).
            head: Says where each class has its columns.
            coding: What the offsets mean.
            sizes: Height and width of every image without padding.
        """
        counts = [len(of_image) for of_image in proposals]
        scores = head.classes.foreground(logits.softmax(dim=1))
        per_image = zip(proposals, scores.split(counts), offsets.split(counts), sizes, strict=True)
        return [self._of_image(*of_image, head, coding) for of_image in per_image]

    def _of_image(
        self, proposals: Tensor, scores: Tensor, offsets: Tensor, size: Size, head: BoxHead, coding: BoxCoding
    ) -> dict[str, Tensor]:
        """Detections among proposals (N, 4) with scores (N, K) and offsets (N, regressors, 4)."""
        places, labels = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes = clip_boxes_to_image(coding.decode(head.offsets_of(offsets[places], labels), proposals[places]), size)
        found = {"boxes": boxes, "scores": scores[places, labels], "labels": labels}
        if self.smallest_side:
            large = remove_small_boxes(boxes, self.smallest_side)
            found = {name: value[large] for name, value in found.items()}
        kept = batched_nms(found["boxes"], found["scores"], found["labels"], self.nms_threshold)
        return {name: value[kept[: self.max_detections]] for name, value in found.items()}
