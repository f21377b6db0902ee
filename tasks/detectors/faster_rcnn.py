"""Faster R-CNN and Mask R-CNN on any backbone."""

from collections.abc import Callable
from typing import ClassVar

from attention.base import Refine
from backbones import Backbone
from tasks.detectors.head_operators import Mixing, Operators
from tasks.detectors.two_stage.convention import ConventionName
from tasks.detectors.two_stage.detector import TwoStageDetector
from tasks.detectors.two_stage.options import (
    FOUR_CONVS_MASK,
    RPN,
    TWO_FCS,
    BoxHeadOptions,
    MaskHeadOptions,
    RPNOptions,
)


class FasterRCNN(TwoStageDetector):
    """Faster R-CNN (Ren et al., NeurIPS 2015, arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144).

    With the default options MMDetection's; with `convention=torchvision` torchvision's first version, and with
    `pyramid_norm=True, rpn.convs=2, box_head.convs=4, box_head.fcs=1` besides its second one.

    Args:
        backbone: Its features of stride 4 to 32 are used.
        num_classes: K, without background.
        convention: Whose anchors, RoIAlign, low-quality matches, clipping, smallest boxes, place of the background and
            losses of boxes are used: `mmdetection` or `torchvision`. Weights fit the one that they were trained with.
        channels: Channels of the pyramid.
        pyramid_norm: Whether batch normalisations follow the pyramid's convolutions.
        rpn: The region proposal network.
        box_head: The box head.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
        ignore_crowds: Whether anchors and proposals that lie by half or more in a crowd region are ignored in training;
            published models train on them as background.
        pyramid_mixer: Operator in place of the pyramid's 3x3 convolutions, made from input channels, output channels
            and stride.
        pyramid_attention: Refinement of every level of the pyramid, made from `channels`.
        head_mixer: Operator in place of the 3x3 convolutions of the heads: of region proposals, boxes and masks.
        head_attention: Refinement behind the convolutions of every head, made from their channels; of box heads
            without convolutions it refines the pooled features.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        convention: ConventionName = "mmdetection",
        channels: int = 256,
        pyramid_norm: bool = False,
        rpn: RPNOptions = RPN,
        box_head: BoxHeadOptions = TWO_FCS,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        ignore_crowds: bool = False,
        pyramid_mixer: Mixing | None = None,
        pyramid_attention: Callable[[int], Refine] | None = None,
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
    ) -> None:
        operators = Operators(pyramid_mixer, pyramid_attention, head_mixer, head_attention)
        common = (backbone, num_classes, convention, channels, pyramid_norm, rpn, box_head, ignore_crowds)
        limits = (score_threshold, nms_threshold, max_detections)
        super().__init__(*common, limits, operators=operators)


class MaskRCNN(TwoStageDetector):
    """Mask R-CNN (He et al., ICCV 2017, arXiv 1703.06870) with a feature pyramid (arXiv 1612.03144).

    With the default options the one of MMDetection and of the Swin and ELSA papers; with `convention=torchvision`
    torchvision's first version, and with `pyramid_norm=True, rpn.convs=2, box_head.convs=4, box_head.fcs=1,
    mask_head.norm=True` besides its second one.

    Args:
        backbone: Its features of stride 4 to 32 are used.
        num_classes: K, without background.
        convention: Whose anchors, RoIAlign, low-quality matches, clipping, smallest boxes, place of the background and
            losses of boxes are used: `mmdetection` or `torchvision`. Weights fit the one that they were trained with.
        channels: Channels of the pyramid.
        pyramid_norm: Whether batch normalisations follow the pyramid's convolutions.
        rpn: The region proposal network.
        box_head: The box head.
        mask_head: The mask head.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
        ignore_crowds: Whether anchors and proposals that lie by half or more in a crowd region are ignored in training;
            published models train on them as background.
        pyramid_mixer: Operator in place of the pyramid's 3x3 convolutions, made from input channels, output channels
            and stride.
        pyramid_attention: Refinement of every level of the pyramid, made from `channels`.
        head_mixer: Operator in place of the 3x3 convolutions of the heads: of region proposals, boxes and masks.
        head_attention: Refinement behind the convolutions of every head, made from their channels; of box heads
            without convolutions it refines the pooled features.
    """

    with_masks: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        convention: ConventionName = "mmdetection",
        channels: int = 256,
        pyramid_norm: bool = False,
        rpn: RPNOptions = RPN,
        box_head: BoxHeadOptions = TWO_FCS,
        mask_head: MaskHeadOptions = FOUR_CONVS_MASK,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        ignore_crowds: bool = False,
        pyramid_mixer: Mixing | None = None,
        pyramid_attention: Callable[[int], Refine] | None = None,
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
    ) -> None:
        operators = Operators(pyramid_mixer, pyramid_attention, head_mixer, head_attention)
        common = (backbone, num_classes, convention, channels, pyramid_norm, rpn, box_head, ignore_crowds)
        limits = (score_threshold, nms_threshold, max_detections)
        super().__init__(*common, limits, mask_head=mask_head, operators=operators)
