"""SSDLite320 on any backbone."""

from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block, _normal_init
from torchvision.ops import box_iou

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.detectors.base import Detections, Detector, match_nothing
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import precise, precise_arithmetic


class SSDLite320(Detector, detection.ssd.SSD):
    """SSDLite for 320 x 320 inputs (Sandler et al., CVPR 2018, arXiv 1801.04381), from torchvision's parts.

    Six maps of stride 16 to 320: the backbone's stride 16 and 32, and four extra blocks. Six default boxes per
    location, softmax with a background class, hard negatives 3:1. Use it with
    `datamodules.FixedSize(height=320, width=320, keep_ratio=False)`.

    Args:
        backbone: Its features of stride 16 and 32 are used. `MobileNetV2(last_conv=True)` gives the 96 and 1280
            channels of the coordinate attention paper, `tap_expansion=True` besides gives torchvision's composition.
        num_classes: K, without background.
        extra_channels: Output channels of the extra blocks.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
    """

    backbone: Backbone
    head: Any
    proposal_matcher: Any

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        extra_channels: tuple[int, ...] = (512, 256, 256, 128),
        score_threshold: float = 0.001,
        nms_threshold: float = 0.55,
        max_detections: int = 100,
    ) -> None:
        if 16 not in backbone.strides or 32 not in backbone.strides:
            raise ValueError(f"the backbone has strides {backbone.strides}, SSDLite320 needs 16 and 32")
        norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        backbone.use_maps([backbone.strides.index(16), backbone.strides.index(32)])
        channels = [*backbone.channels, *extra_channels]
        boxes = DefaultBoxGenerator([[2, 3]] * len(channels), min_ratio=0.2, max_ratio=0.95)
        extras = nn.ModuleList(_extra_block(before, after, norm_layer) for before, after in pairwise(channels[1:]))
        _normal_init(extras)
        detection.ssd.SSD.__init__(
            self,
            backbone,
            boxes,
            (320, 320),
            num_classes + 1,
            head=SSDLiteHead(channels, boxes.num_anchors_per_location(), num_classes + 1, norm_layer),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
            topk_candidates=300,
        )
        self.extras = extras
        self.normalization = Normalization()
        del self.transform  # images arrive resized; Normalization does the rest

    def forward(self, batch: Batch) -> Losses | Detections:
        """Backbone, extra blocks, head; then losses or detections."""
        images = self.image_list(batch)
        features = self.pyramid(self.backbone(images.tensors))
        outputs = precise(self.head(features))
        with precise_arithmetic():
            anchors = self.anchors(images, features)
            if self.training:
                # torchvision's softmax head has the background at 0.
                targets = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in batch["targets"]]
                return Losses(self.compute_loss(targets, outputs, anchors, self.match(targets, anchors)))
            detections = self.postprocess_detections(outputs, anchors, images.image_sizes)
            for found in detections:
                found["labels"] = found["labels"] - 1
            return self.to_original(detections, batch)

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """In the last convolution of each level, background and all classes of one default box after the other."""
        return {
            f"head.classification_head.module_list.{level}.1.{name}": ClassRows(blocks=boxes, background=1)
            for level, boxes in enumerate(self.anchor_generator.num_anchors_per_location())
            for name in ("weight", "bias")
        }

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """The maps of stride 16 and 32, and those that the extra blocks make of the last one."""
        maps = list(features)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def match(self, targets: list[dict[str, Tensor]], anchors: list[Tensor]) -> list[Tensor]:
        """Assigns default boxes (A, 4) to objects; -1 is background."""
        return [
            self.proposal_matcher(box_iou(target["boxes"], of_image))
            if len(target["boxes"])
            else match_nothing(of_image)
            for target, of_image in zip(targets, anchors, strict=True)
        ]
