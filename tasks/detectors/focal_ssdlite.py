"""SSDLite320 on any backbone, in the form of the authors of coordinate attention."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSDScoringHead

from attention.base import Refine, check_choice
from backbones import Backbone, MobileNeXt
from tasks.class_tensors import ClassRows
from tasks.detectors.dense import Assignment, Outputs
from tasks.detectors.focal import focal_loss
from tasks.detectors.head_operators import Mixing, place_in_predictors
from tasks.detectors.selection import Selection
from tasks.detectors.ssdlite import Pixels, SSDLite, predictors_of
from tasks.reduction import reduce_mean

ExtraBlocks = Literal["inverted_residual", "sandglass"]

_SIDE = 320
_SMALLEST = (45, 90, 135, 180, 225, 270, 315)  # pixels; the side of the larger square is between it and the next
_STRIDES = (16, 32, 64, 120, 160, 320)
_RATIOS = ([2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2])
_CLASS_WEIGHT = 5.0
_PRIOR = 0.01


class FocalSSDLite320(SSDLite):
    """SSDLite for 320 x 320 inputs as coordinate attention (Hou et al., CVPR 2021, arXiv 2103.02907) was scored with.

    Six maps of stride 16 to 320: the backbone's stride 16 and 32, and four extra blocks. Separable heads, but for a
    plain 1x1 convolution on the last map; six default boxes per location, four on the last map. A sigmoid a class,
    focal loss five times, smooth L1 loss; both are divided by the number of default boxes with an object in the batch,
    averaged over the processes. Use it with `datamodules.FixedSize(height=320, width=320, keep_ratio=False)`.

    With K = 80 it has 4,304,138 parameters on `MobileNetV2(last_conv=True)`, 4,749,914 with coordinate attention, and
    4,539,418 on `MobileNeXt(tap_expansion=True)`. The classifier has K + 1 outputs; the last belongs to no class.

    Args:
        backbone: Its features of stride 16 and 32 are used. `MobileNetV2(last_conv=True)` and
            `MobileNeXt(tap_expansion=True)` are the authors'.
        num_classes: K.
        extra_blocks: Kind of the extra blocks, which have no attention (assumption A33): `inverted_residual`, with 64
            channels at the end, or `sandglass`, with 128. None for the authors' choice: the second for MobileNeXt.
        head_mixer: Operator in place of the 3x3 depthwise convolutions of the heads, made from input channels, output
            channels and stride, for every map and for classes and boxes anew; none keeps them.
        head_attention: Refinement of what the 1x1 convolutions of the heads read, made from its channels, likewise; the
            last map has none of either.
        pixels: How grey levels are scaled: `imagenet` by ImageNet's mean and deviation, `half` to -1..1, `mean` by the
            mean (123, 117, 104) alone (assumption A32).
        ignore_crowds: Whether default boxes that have half of their area or more in a crowd region take no part in
            training.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        extra_blocks: ExtraBlocks | None = None,
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
        pixels: Pixels = "mean",
        ignore_crowds: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(backbone, pixels, Selection(score_threshold, nms_threshold, max_detections), ignore_crowds)
        kind = extra_blocks or ("sandglass" if isinstance(backbone, MobileNeXt) else "inverted_residual")
        check_choice("extra_blocks", kind, get_args(ExtraBlocks))
        extra_channels, shares, block = _EXTRAS[kind]
        before = pairwise((backbone.channels[-1], *extra_channels))
        self.extras = nn.ModuleList(
            block(inner, round(inner * share), outer) for (inner, outer), share in zip(before, shares, strict=True)
        )
        for module in self.extras.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.num_classes = num_classes
        self.anchor_generator = DefaultBoxGenerator(
            list(_RATIOS), scales=[side / _SIDE for side in _SMALLEST], steps=list(_STRIDES)
        )
        boxes = self.anchor_generator.num_anchors_per_location()
        channels = [*backbone.channels[:2], *extra_channels]
        self.head = _Head(channels, boxes, num_classes + 1)
        place_in_predictors(predictors_of(self.head), head_mixer, head_attention)

    def losses(self, outputs: Outputs, assigned: Assignment) -> dict[str, Tensor]:
        """Focal loss of the classes, and the distance of the boxes."""
        count = reduce_mean(assigned.positive.sum())
        return {
            "bbox_regression": self.box_loss(outputs, assigned) / count,
            "classification": _CLASS_WEIGHT * focal_loss(outputs["cls_logits"], assigned.labels).sum() / count,
        }

    def scores(self, outputs: Outputs) -> Tensor:
        """Probability of every class."""
        return outputs["cls_logits"][:, : self.num_classes].sigmoid()

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """In the last convolution of a level, all classes and the spare output of one default box after the other."""
        boxes = self.anchor_generator.num_anchors_per_location()
        last = len(boxes) - 1
        return {
            f"head.classification_head.module_list.{level}.{'' if level == last else '3.'}{name}": ClassRows(
                blocks=count, background=1, background_first=False
            )
            for level, count in enumerate(boxes)
            for name in ("weight", "bias")
        }


class _Head(nn.Module):
    """Classes and boxes of all maps, with the names and the order of torchvision's `SSDLiteHead`."""

    def __init__(self, channels: list[int], boxes: list[int], num_classes: int) -> None:
        super().__init__()
        self.classification_head = SSDScoringHead(_predictors(channels, [n * num_classes for n in boxes]), num_classes)
        self.regression_head = SSDScoringHead(_predictors(channels, [n * 4 for n in boxes]), 4)
        for predictor in self.classification_head.module_list:
            *_, final = (module for module in predictor.modules() if isinstance(module, nn.Conv2d))
            nn.init.normal_(final.weight, std=0.01)
            if final.bias is not None:
                nn.init.constant_(final.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """`bbox_regression` (B, A, 4) and `cls_logits` (B, A, K + 1)."""
        return {"bbox_regression": self.regression_head(maps), "cls_logits": self.classification_head(maps)}


def _predictors(channels: list[int], outputs: list[int]) -> nn.ModuleList:
    """A separable convolution for every map, a plain 1x1 convolution for the last, a single cell at 320 pixels."""
    *separable, (last, last_outputs) = zip(channels, outputs, strict=True)
    predictors = nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outer, 1),
        )
        for inner, outer in separable
    )
    predictors.append(nn.Conv2d(last, last_outputs, 1))
    for module in predictors.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return predictors


def _inverted_residual(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """MobileNetV2's block of stride 2."""
    return nn.Sequential(
        *_convolution(inner, hidden),
        nn.ReLU6(inplace=True),
        *_depthwise(hidden),
        nn.ReLU6(inplace=True),
        *_convolution(hidden, outer),
    )


def _sandglass(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """The first half of MobileNeXt's block, with stride 2."""
    return nn.Sequential(
        *_depthwise(inner),
        nn.ReLU6(inplace=True),
        *_convolution(inner, hidden),
        *_convolution(hidden, outer),
        nn.ReLU6(inplace=True),
    )


def _convolution(inner: int, outer: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)


def _depthwise(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)


_EXTRAS: dict[str, tuple[tuple[int, ...], tuple[float, ...], Callable[[int, int, int], nn.Module]]] = {
    "inverted_residual": ((512, 256, 256, 64), (0.2, 0.5, 0.5, 0.5), _inverted_residual),
    "sandglass": ((512, 256, 256, 128), (0.2, 0.25, 0.5, 0.5), _sandglass),
}
"""Output channels of the extra blocks, their hidden channels over those of their input, and the block."""
