"""What a stage learns from its boxes: their classes, and offsets to their objects."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.detectors.giou import giou_loss
from tasks.detectors.two_stage.assignment import Assignment
from tasks.detectors.two_stage.box_coding import BoxCoding
from tasks.detectors.two_stage.box_head import BoxHead
from tasks.detectors.two_stage.convention import Convention, LowQuality
from tasks.detectors.two_stage.options import ONE_STAGE, BoxHeadOptions, CascadeOptions
from tasks.detectors.two_stage.roi_samples import Samples
from tasks.detectors.two_stage.sampling import Sampling

GIOU_WEIGHT = 10.0


@dataclass(frozen=True)
class Stage:
    """What a stage does beside its heads.

    Attributes:
        name: What the names of its losses begin with.
        assignment: Which object a proposal is to find.
        sampling: How many boxes are trained on.
        coding: What the offsets mean.
        weight: Factor of its losses.
        options: Kind of the loss of boxes.
        beta: Where a smooth L1 loss turns from quadratic to linear.
    """

    name: str
    assignment: Assignment
    sampling: Sampling
    coding: BoxCoding
    weight: float
    options: BoxHeadOptions
    beta: float

    def losses(
        self, head: BoxHead, samples: Samples, logits: Tensor, offsets: Tensor, number: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of all boxes, and the loss of the boxes that have an object.

        Args:
            head: Says where each class has its columns.
            samples: S boxes.
            logits: (S, K + 1) of their classes.
            offsets: (S, regressors, 4).
            number: What the sums are divided by.
        """
        entropy = F.cross_entropy(logits, head.classes.of_labels(samples.labels), reduction="sum")
        found = samples.found
        of_class = head.offsets_of(offsets[found], samples.labels[found])
        boxes = self._box_loss(of_class, samples.rois[found, 1:], samples.objects[found])
        return {
            f"{self.name}classification": self.weight * entropy / number,
            f"{self.name}bbox_regression": self.weight * boxes / number,
        }

    def _box_loss(self, offsets: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
        """The sum over boxes (N, 4), their offsets (N, 4) and their objects (N, 4)."""
        if self.options.loss == "giou":
            total = giou_loss(self.coding.decode(offsets, boxes), objects.to(offsets)).sum()
        else:
            wanted = self.coding.encode(objects, boxes).to(offsets)
            total = F.smooth_l1_loss(offsets, wanted, reduction="sum", beta=self.beta)
        default = GIOU_WEIGHT if self.options.loss == "giou" else 1.0
        return total * (default if self.options.loss_weight is None else self.options.loss_weight)

    @torch.no_grad()
    def moved(
        self, head: BoxHead, rois: Tensor, logits: Tensor, offsets: Tensor, limits: Tensor, labels: Tensor | None
    ) -> Tensor:
        """The boxes after the stage, inside their images: each by the regressor of its class.

        Args:
            head: Says where each class has its columns.
            rois: (S, 5) number of the image, and box xyxy in pixels.
            logits: (S, K + 1) of their classes.
            offsets: (S, regressors, 4).
            limits: (B, 4) width, height, width and height of every image.
            labels: (S,) known classes, K where there is none; None where no class is known. The unknown class is the
                likeliest one that is no background.
        """
        likeliest = head.classes.foreground(logits).argmax(dim=1)
        if labels is not None:
            likeliest = torch.where(labels < head.classes.num_classes, labels, likeliest)
        boxes = self.coding.decode(head.offsets_of(offsets, likeliest), rois[:, 1:])
        boxes = boxes.clamp(min=0).minimum(limits[rois[:, 0].long()].to(boxes))
        return torch.cat([rois[:, :1], boxes.to(rois)], dim=1)


def make_stages(
    cascade: CascadeOptions | None, options: BoxHeadOptions, convention: Convention, low_quality: LowQuality
) -> list[Stage]:
    """The stages of a cascade, or the single one of a detector that is none."""
    chosen = ONE_STAGE if cascade is None else cascade
    beta = convention.beta if cascade is None else convention.cascade_beta
    return [
        Stage(
            "" if cascade is None else f"stage{number}_",
            Assignment(iou, iou, low_quality, iou),
            Sampling(options.samples, options.positive_fraction),
            BoxCoding(deviations, convention.clip_shrinking),
            weight,
            options,
            beta if options.beta is None else options.beta,
        )
        for number, (iou, deviations, weight) in enumerate(
            zip(chosen.ious, chosen.deviations, chosen.weights, strict=True)
        )
    ]
