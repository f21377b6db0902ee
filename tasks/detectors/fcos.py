"""FCOS on any backbone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import box_area

from attention.base import Refine
from backbones import Backbone
from tasks.class_tensors import ClassRows
from tasks.detectors.dense import Assignment, DenseDetector, Outputs, require_groups
from tasks.detectors.focal import BACKGROUND, focal_loss
from tasks.detectors.giou import giou_loss
from tasks.detectors.head_operators import Mixing, place_in_heads
from tasks.detectors.pyramid import ExtraLevels, FeaturePyramid
from tasks.detectors.selection import Selection
from tasks.ranges import check_range
from tasks.reduction import reduce_mean


class FCOS(DenseDetector):
    """FCOS: fully convolutional one-stage detection (Tian et al., ICCV 2019, arXiv 1904.01355).

    Pyramid, head, assignment (centre sampling), GIoU loss and post-processing are torchvision's. An anchor is a
    location with a square of one stride around it. Losses are divided by the number of locations with an object in the
    batch, averaged over the processes.

    Args:
        backbone: Its features of stride `finest_stride` and coarser are used.
        num_classes: K.
        channels: Channels of the pyramid and of the head, a multiple of 32 (the head normalises groups of them).
        num_convs: 3x3 convolutions of the head before its predictions.
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
        center_radius: Radius of the centre in which locations are positive, in strides.
        ignore_crowds: Whether locations in a crowd region take no part in training.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        finest_stride: int = 8,
        coarsest_stride: int = 128,
        extra_levels: ExtraLevels = "p6p7_from_p5",
        simple_pyramid: bool = False,
        pyramid_mixer: Mixing | None = None,
        pyramid_attention: Callable[[int], Refine] | None = None,
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
        center_radius: float = 1.5,
        ignore_crowds: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__(Selection(score_threshold, nms_threshold, max_detections, candidates=1000), ignore_crowds)
        require_groups(channels)
        check_range("num_convs", num_convs, 0)
        neck = FeaturePyramid(
            backbone,
            channels,
            finest_stride,
            coarsest_stride,
            extra_levels,
            simple_pyramid,
            mixer=pyramid_mixer,
            attention=pyramid_attention,
        )
        self.anchor_generator = AnchorGenerator(tuple((scale,) for scale in neck.scales), ((1.0,),) * neck.num_levels)
        # The optimiser in checkpoints has the parameters in this order.
        self.backbone = backbone
        self.head = FCOSHead(channels, 1, num_classes, num_convs)
        place_in_heads(self.head.children(), channels, head_mixer, head_attention)
        self.neck = neck
        self.center_radius = center_radius
        self.box_coder = BoxLinearCoder(normalize_by_size=True)

    def match(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """The smallest object near whose centre, and inside of which, a location is, if its level is for such sizes."""
        centers, sides = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        near = (centers - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(dim=2) < self.center_radius * sides[:, None]
        distances = torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=2)  # (A, N, 4)
        farthest = distances.amax(dim=2)
        least = (4 * sides).where(sides > sides.min(), 0.0)
        most = (8 * sides).where(sides < sides.max(), torch.inf)
        matching = near & (distances.amin(dim=2) > 0) & (farthest > least[:, None]) & (farthest < most[:, None])
        best, found = (matching.to(torch.float32) * (1e8 - box_area(boxes))).max(dim=1)
        return found.masked_fill(best < 1e-5, BACKGROUND)

    def losses(self, outputs: Outputs, assigned: Assignment) -> dict[str, Tensor]:
        """Focal loss of the classes; GIoU loss of boxes and entropy of centredness where there is an object."""
        positive, boxes = assigned.positive, assigned.boxes
        anchors = assigned.anchors.expand_as(boxes)
        left, top, right, bottom = self.box_coder.encode(anchors, boxes).unbind(dim=2)
        horizontal = torch.minimum(left, right) / torch.maximum(left, right)
        centredness = (horizontal * (torch.minimum(top, bottom) / torch.maximum(top, bottom))).sqrt()
        decoded = self.box_coder.decode(outputs["bbox_regression"], anchors)
        entropy = functional.binary_cross_entropy_with_logits(
            outputs["bbox_ctrness"].squeeze(dim=2), centredness, reduction="none"
        )
        sums = {
            "classification": focal_loss(outputs["cls_logits"], assigned.labels).sum(),
            "bbox_regression": (giou_loss(decoded, boxes) * positive).sum(),
            "bbox_ctrness": (entropy * positive).sum(),
        }
        count = reduce_mean(positive.sum())
        return {name: loss / count for name, loss in sums.items()}

    def scores(self, outputs: Outputs) -> Tensor:
        """Geometric mean of a class's probability and the centredness."""
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """The four sides are so many strides from the location."""
        return self.box_coder.decode(codes, anchors)

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """One row a class in the last convolution of the classification head."""
        return {f"head.classification_head.cls_logits.{name}": ClassRows() for name in ("weight", "bias")}
