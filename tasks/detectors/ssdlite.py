"""SSDLite320 on any backbone, in torchvision's form; and what its forms share."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSDScoringHead
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block, _normal_init
from torchvision.ops import box_iou

from attention.base import Refine, check_choice
from backbones import Backbone
from tasks.class_tensors import ClassRows
from tasks.detectors.dense import Assignment, DenseDetector, Outputs
from tasks.detectors.focal import BACKGROUND
from tasks.detectors.head_operators import Mixing, place_in_predictors
from tasks.detectors.selection import Selection
from tasks.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from tasks.reduction import reduce_mean

Pixels = Literal["imagenet", "half", "mean"]
_PIXELS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((127.5,) * 3, (127.5,) * 3),
    "mean": ((123.0, 117.0, 104.0), (1.0,) * 3),
}


class SSDLite(DenseDetector):
    """What the forms of SSDLite share: the maps, matching and decoding of SSD (Liu et al., arXiv 1512.02325).

    The head reads the backbone's first maps of stride 16 and 32, and the maps of extra blocks, which continue from the
    backbone's last map.

    Args:
        backbone: The backbone.
        pixels: How grey levels are scaled: `imagenet` by ImageNet's mean and deviation, `half` to -1..1, `mean` by
            the mean (123, 117, 104) alone.
        selection: Which boxes are handed out.
        ignore_crowds: Whether default boxes inside crowd regions take no part in training.
    """

    extras: nn.ModuleList

    def __init__(self, backbone: Backbone, pixels: Pixels, selection: Selection, ignore_crowds: bool) -> None:
        super().__init__(selection, ignore_crowds)
        check_choice("pixels", pixels, get_args(Pixels))
        if 16 not in backbone.strides or 32 not in backbone.strides:
            raise ValueError(f"the backbone has strides {backbone.strides}, {type(self).__name__} needs 16 and 32")
        first, second, last = backbone.strides.index(16), backbone.strides.index(32), len(backbone.strides) - 1
        backbone.use_maps(sorted({first, second, last}))
        self.backbone = backbone
        self.normalization = Normalization(*_PIXELS[pixels])
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = SSDMatcher(0.5)

    def neck(self, features: list[Tensor]) -> list[Tensor]:
        """The maps of stride 16 and 32, and those that the extra blocks make of the last one."""
        maps, last = features[:2], features[-1]
        for extra in self.extras:
            last = extra(last)
            maps.append(last)
        return maps

    def match(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """By overlap: from 0.5 an object; the default box that an object overlaps most is the object's."""
        found: Tensor = self.matcher(box_iou(boxes, anchors))
        return found

    def box_loss(self, outputs: Outputs, assigned: Assignment) -> Tensor:
        """Smooth L1 loss of the encoded boxes, summed over the default boxes with an object."""
        anchors = assigned.anchors.expand_as(assigned.boxes)
        wanted = self.box_coder.encode_single(assigned.boxes.flatten(0, 1), anchors.reshape(-1, 4))
        loss = functional.smooth_l1_loss(outputs["bbox_regression"].flatten(0, 1), wanted, reduction="none")
        return (loss.sum(dim=1) * assigned.positive.flatten()).sum()

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Shifts and scales the default boxes."""
        return self.box_coder.decode_single(codes, anchors)


def predictors_of(head: nn.Module) -> Iterator[nn.Module]:
    """What predicts classes and boxes of every map in a head of torchvision's form."""
    for part in head.children():
        assert isinstance(part, SSDScoringHead)
        yield from part.module_list


class SSDLite320(SSDLite):
    """SSDLite for 320 x 320 inputs (Sandler et al., CVPR 2018, arXiv 1801.04381), from torchvision's parts.

    Six maps of stride 16 to 320: the backbone's stride 16 and 32, and four extra blocks. Six default boxes per
    location, softmax with a background class, hard negatives 3:1. Losses are divided by the number of default boxes
    with an object in the batch, averaged over the processes. Use it with
    `datamodules.FixedSize(height=320, width=320, keep_ratio=False)`.

    Args:
        backbone: Its features of stride 16 and 32 are used. `MobileNetV2(last_conv=True, tap_expansion=True)` gives
            torchvision's composition, with maps of 576 and 1280 channels.
        num_classes: K, without background.
        extra_channels: Output channels of the extra blocks.
        head_mixer: Operator in place of the 3x3 depthwise convolutions of the heads, made from input channels, output
            channels and stride, for every map and for classes and boxes anew; none keeps them.
        head_attention: Refinement of what the 1x1 convolutions of the heads read, made from its channels, likewise.
        pixels: How grey levels are scaled: `imagenet` by ImageNet's mean and deviation, `half` to -1..1 as in
            torchvision's recipe, `mean` by the mean (123, 117, 104) alone.
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
        extra_channels: tuple[int, ...] = (512, 256, 256, 128),
        head_mixer: Mixing | None = None,
        head_attention: Callable[[int], Refine] | None = None,
        pixels: Pixels = "imagenet",
        ignore_crowds: bool = False,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.55,
        max_detections: int = 100,
    ) -> None:
        selection = Selection(score_threshold, nms_threshold, max_detections, candidates=300, per_class=True)
        super().__init__(backbone, pixels, selection, ignore_crowds)
        norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        channels = [*backbone.channels[:2], *extra_channels]
        before = (backbone.channels[-1], *extra_channels)
        extras = nn.ModuleList(_extra_block(inner, outer, norm_layer) for inner, outer in pairwise(before))
        _normal_init(extras)
        self.anchor_generator = DefaultBoxGenerator([[2, 3]] * len(channels), min_ratio=0.2, max_ratio=0.95)
        per_location = self.anchor_generator.num_anchors_per_location()
        # The optimiser in checkpoints has the parameters in this order.
        self.head = SSDLiteHead(channels, per_location, num_classes + 1, norm_layer)
        place_in_predictors(predictors_of(self.head), head_mixer, head_attention)
        self.extras = extras

    def losses(self, outputs: Outputs, assigned: Assignment) -> dict[str, Tensor]:
        """Entropy of the classes of default boxes with an object and of the hardest others; distance of the boxes."""
        positive = assigned.positive
        labels = (assigned.labels + 1).clamp(min=0)  # torchvision's softmax head has the background at 0
        entropy = functional.cross_entropy(outputs["cls_logits"].flatten(0, 1), labels.flatten(), reduction="none")
        entropy = entropy.view(labels.shape)
        background = assigned.labels == BACKGROUND
        order = entropy.detach().masked_fill(~background, -torch.inf).argsort(dim=1, descending=True)
        hard = background & (order.argsort(dim=1) < 3 * positive.sum(dim=1, keepdim=True))
        count = reduce_mean(positive.sum())
        return {
            "bbox_regression": self.box_loss(outputs, assigned) / count,
            "classification": (entropy * (positive | hard)).sum() / count,
        }

    def scores(self, outputs: Outputs) -> Tensor:
        """Probability of every class but the background."""
        return outputs["cls_logits"].softmax(dim=1)[:, 1:]

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """In the last convolution of each level, background and all classes of one default box after the other."""
        return {
            f"head.classification_head.module_list.{level}.1.{name}": ClassRows(blocks=boxes, background=1)
            for level, boxes in enumerate(self.anchor_generator.num_anchors_per_location())
            for name in ("weight", "bias")
        }
