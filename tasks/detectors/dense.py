"""What dense detectors share: they judge every anchor of every map, without proposals."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from tasks.batch import Batch
from tasks.detectors.base import Detections, Detector
from tasks.detectors.crowds import inside_crowds
from tasks.detectors.focal import BACKGROUND, IGNORED
from tasks.detectors.selection import Selection
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import precise, precise_arithmetic

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Assignment:
    """What the anchors of a batch are trained to find.

    Attributes:
        anchors: (A, 4) xyxy, the same for all images.
        labels: (B, A) int64: class, `BACKGROUND` or `IGNORED`.
        boxes: (B, A, 4) xyxy: the object of an anchor with a class; the anchor itself elsewhere.
    """

    anchors: Tensor
    labels: Tensor
    boxes: Tensor

    @property
    def positive(self) -> Tensor:
        """Which anchors (B, A) hold an object."""
        return self.labels >= 0


class DenseDetector(Detector):
    """A detector in one stage, of torchvision's parts: neck, head, anchors, matching, losses, post-processing.

    A subclass sets the parts, and says how anchors are matched, what the outputs cost, and how they are read.

    Attributes:
        neck: From the backbone's features to the maps that the head reads.
        head: From maps to named outputs (B, A, ...), anchors in the order of the maps.
        anchor_generator: One of torchvision's.
        selection: Which boxes are handed out.
        ignore_crowds: Whether anchors inside crowd regions take no part in training.
    """

    neck: Callable[[list[Tensor]], list[Tensor]]
    head: Any

    def __init__(self, selection: Selection, ignore_crowds: bool) -> None:
        super().__init__()
        self.selection = selection
        self.ignore_crowds = ignore_crowds
        self.normalization = Normalization()

    def forward(self, batch: Batch) -> Losses | Detections:
        """Backbone, neck, head; then losses or detections."""
        image = self.normalization(batch["image"], batch["size"])
        maps = self.neck(self.backbone(image))
        outputs = precise(self.head(maps))
        with precise_arithmetic():
            anchors = self.anchors(ImageList(image, [(image.shape[2], image.shape[3])]), maps)[0]
            if self.training:
                return Losses(self.losses(outputs, self.assign(anchors, batch["targets"])))
            return self.to_original(self.detections(outputs, anchors, maps, batch["size"].tolist()), batch)

    def assign(self, anchors: Tensor, targets: list[dict[str, Tensor]]) -> Assignment:
        """Gives every anchor of every image its object.

        Image by image: together, all would have as many rows of overlaps as the image with most objects.

        Args:
            anchors: (A, 4) xyxy.
            targets: As `datamodules.COCO` has them.
        """
        labels, boxes = zip(*(self._assign_image(anchors, target) for target in targets), strict=True)
        return Assignment(anchors, torch.stack(labels), torch.stack(boxes))

    def _assign_image(self, anchors: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        labels, boxes = torch.full((len(anchors),), BACKGROUND, device=anchors.device), anchors
        if len(target["boxes"]):
            matches = self.match(anchors, target["boxes"].to(anchors.dtype))
            objects = matches.clamp(min=0)
            labels = torch.where(matches >= 0, target["labels"][objects], matches)
            boxes = torch.where((matches >= 0)[:, None], target["boxes"][objects].to(anchors.dtype), anchors)
        if self.ignore_crowds and len(crowds := target.get("crowd", anchors[:0])):
            labels = labels.masked_fill(inside_crowds(anchors, crowds), IGNORED)
        return labels, boxes

    def detections(
        self, outputs: Outputs, anchors: Tensor, maps: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Detections:
        """Reads the boxes of every image.

        Args:
            outputs: Of the head.
            anchors: (A, 4) xyxy.
            maps: What the head has read.
            sizes: Height and width of the valid part of every image.
        """
        per_location = self.anchor_generator.num_anchors_per_location()
        counts = [count * level[0, 0].numel() for count, level in zip(per_location, maps, strict=True)]
        ends = torch.tensor(counts, device=anchors.device).cumsum(0)
        return [
            self._detections_of_image({name: output[number] for name, output in outputs.items()}, anchors, ends, size)
            for number, size in enumerate(sizes)
        ]

    def _detections_of_image(
        self, outputs: Outputs, anchors: Tensor, ends: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        codes = outputs["bbox_regression"]

        def decode(chosen: Tensor) -> Tensor:
            boxes: Tensor = clip_boxes_to_image(self.decode(codes[chosen], anchors[chosen]), size)
            return boxes

        return self.selection(self.scores(outputs), decode, ends)

    @abstractmethod
    def match(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Number of the object (A,) int64 of each anchor (A, 4), `BACKGROUND` or `IGNORED`; boxes (N, 4), N > 0."""

    @abstractmethod
    def losses(self, outputs: Outputs, assigned: Assignment) -> dict[str, Tensor]:
        """Named losses of a batch."""

    @abstractmethod
    def scores(self, outputs: Outputs) -> Tensor:
        """Scores (A, K) in 0..1 from the outputs (A, ...) of one image."""

    @abstractmethod
    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) xyxy from the regression (N, 4) of some anchors (N, 4)."""


def require_groups(channels: int, normalised: bool = True) -> None:
    """Raises `ValueError` if a head with group normalisations cannot have so many channels."""
    if channels < 1 or (normalised and channels % 32):
        raise ValueError(f"channels is {channels}, expected a multiple of 32: the head has 32 normalisation groups")
