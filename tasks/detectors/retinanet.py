"""RetinaNet on any backbone."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from attention.base import Refine, check_at_least, check_choice
from backbones import Backbone
from tasks.class_tensors import ClassRows
from tasks.detectors.dense import Assignment, DenseDetector, Outputs, require_groups
from tasks.detectors.focal import focal_loss
from tasks.detectors.giou import giou_loss
from tasks.detectors.head_operators import Mixing, place_in_heads
from tasks.detectors.pyramid import ExtraLevels, FeaturePyramid
from tasks.detectors.selection import Selection

BoxLoss = Literal["l1", "giou"]


class RetinaNet(DenseDetector):
    """RetinaNet: focal loss for dense detection (Lin et al., ICCV 2017, arXiv 1708.02002).

    Pyramid, head, anchors, matching, losses and post-processing are torchvision's. The defaults are its v1 model;
    `extra_levels=p6p7_from_c5`, `head_norm=True` and `box_loss=giou` make its v2 model.

    Losses are sums over an image's anchors through its objects' anchors, on average over the images: the same however
    the images are dealt out to processes.

    Args:
        backbone: Its features of stride `finest_stride` and coarser are used.
        num_classes: K.
        channels: Channels of the pyramid and of the head.
        anchor_scale: Side of the smallest anchor of a level, in strides (`FeaturePyramid.scales`).
        octave_scales: Sizes of anchors within an octave, each in 3 ratios: 3, or 2 as in the RetinaNets whose sizes
            arXiv 1904.09925 and 1906.05909 print (assumption A55).
        finest_stride: Stride of the finest level of the pyramid in pixels.
        coarsest_stride: Stride of its coarsest level; 32, where the maps of most backbones end, for small inputs.
        extra_levels: How levels coarser than the backbone's maps are made, see `FeaturePyramid`.
        simple_pyramid: Whether the backbone's coarsest map alone is used, as where it has no other.
        pyramid_mixer: Operator in place of the pyramid's 3x3 convolutions, made from input channels, output channels
            and stride; none keeps them.
        pyramid_attention: Refinement of every level of the pyramid, made from `channels`.
        head_mixer: Operator in place of the head's 3x3 convolutions; of those that predict, a 1x1 convolution is left
            behind it (arXiv 1906.05909, section 4.2).
        head_attention: Refinement at the end of every tower, made from `channels`.
        head_norm: Whether the head's convolutions have group normalisations; `channels` is a multiple of 32 then.
        box_loss: `l1` on the encoded boxes, or `giou` on the decoded ones.
        ignore_crowds: Whether anchors that have half of their area or more in a crowd region take no part in training.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        anchor_scale: float = 4.0,
        octave_scales: int = 3,
        finest_stride: int = 8,
        coarsest_stride: int = 128,
        extra_levels: ExtraLevels = "p6p7_from_p5",
        simple_pyramid: bool = False,
        pyramid_mixer: Mixing | None = None,
        pyramid_attention: Callable[[int], Refine] | None = None,
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
        head_norm: bool = False,
        box_loss: BoxLoss = "l1",
        ignore_crowds: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(Selection(score_threshold, nms_threshold, max_detections, candidates=1000), ignore_crowds)
        check_at_least(1, octave_scales=octave_scales)
        check_choice("box_loss", box_loss, get_args(BoxLoss))
        require_groups(channels, head_norm)
        strides, operators = (finest_stride, coarsest_stride), (pyramid_mixer, pyramid_attention)
        neck = FeaturePyramid(backbone, channels, *strides, extra_levels, simple_pyramid, None, *operators)
        sides = [anchor_scale * scale for scale in neck.scales]
        self.anchor_generator = AnchorGenerator(
            tuple(tuple(int(side * 2 ** (n / octave_scales)) for n in range(octave_scales)) for side in sides),
            ((0.5, 1.0, 2.0),) * neck.num_levels,
        )
        self.per_location = self.anchor_generator.num_anchors_per_location()[0]
        # The optimiser in checkpoints has the parameters in this order.
        self.backbone = backbone
        self.head = RetinaNetHead(
            channels, self.per_location, num_classes, norm_layer=partial(nn.GroupNorm, 32) if head_norm else None
        )
        place_in_heads(self.head.children(), channels, head_mixer, head_attention)
        self.neck = neck
        self.box_loss = box_loss
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = DeviceMatcher(0.5, 0.4, allow_low_quality_matches=True)

    def match(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """By overlap: from 0.5 an object, below 0.4 none; an object's best anchors belong to it or a better one."""
        found: Tensor = self.matcher(box_iou(boxes, anchors))
        return found

    def losses(self, outputs: Outputs, assigned: Assignment) -> dict[str, Tensor]:
        """Focal loss of the classes, and the distance of the boxes of anchors with an object."""
        classes = focal_loss(outputs["cls_logits"], assigned.labels).sum(dim=1)
        boxes = (self._distance(outputs["bbox_regression"], assigned) * assigned.positive).sum(dim=1)
        positive = assigned.positive.sum(dim=1).clamp(min=1)
        return {"classification": (classes / positive).mean(), "bbox_regression": (boxes / positive).mean()}

    def _distance(self, codes: Tensor, assigned: Assignment) -> Tensor:
        """The box loss (B, A) of regressions (B, A, 4)."""
        anchors, boxes = assigned.anchors.expand_as(codes).reshape(-1, 4), assigned.boxes.flatten(0, 1)
        if self.box_loss == "giou":
            decoded = self.box_coder.decode_single(codes.flatten(0, 1), anchors)
            loss = giou_loss(decoded, boxes)
        else:
            loss = (codes.flatten(0, 1) - self.box_coder.encode_single(boxes, anchors)).abs().sum(dim=1)
        return loss.view(codes.shape[:2])

    def scores(self, outputs: Outputs) -> Tensor:
        """Probability of every class."""
        return outputs["cls_logits"].sigmoid()

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Shifts and scales the anchors."""
        return self.box_coder.decode_single(codes, anchors)

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """In the last convolution of the classification head, all classes of one anchor after the other."""
        rows = ClassRows(blocks=self.per_location)
        return {f"head.classification_head.cls_logits.{name}": rows for name in ("weight", "bias")}


class DeviceMatcher(Matcher):
    """torchvision's matching, without waiting for the device."""

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Gives the best anchors of every object (N, A), ties included, to the object that overlaps them most."""
        best = match_quality_matrix == match_quality_matrix.max(dim=1, keepdim=True).values
        matches.copy_(torch.where(best.any(dim=0), all_matches, matches))
