"""Detectors of ours beside torchvision's with the same weights, for `benchmarks.detect_step`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssdlite320_mobilenet_v3_large,
)

from backbones import Backbone, ResNet
from tasks.detectors import FCOS, Detector, FasterRCNN, MaskRCNN, RetinaNet, SSDLite320
from tasks.detectors.conversions import from_torchvision
from tasks.detectors.two_stage.options import BoxHeadOptions, RPNOptions
from tasks.normalization import IMAGENET_MEAN, IMAGENET_STD

K = 91
THRESHOLD = 0.01  # of an untrained classifier, whose scores are near it; half of them pass
UNIT = {"image_mean": [value / 255 for value in IMAGENET_MEAN], "image_std": [value / 255 for value in IMAGENET_STD]}


@dataclass(frozen=True)
class Pair:
    """A detector of ours and torchvision's with the same weights.

    Attributes:
        ours: Takes a batch of `datamodules.COCO`.
        peer: Takes lists of images and targets.
        background: Labels of torchvision's begin with so many classes of background.
        training: Most that our training step may cost, relative to torchvision's; None where it is not measured.
        inference: The same for inference.
        size: Height and width of the images; None for those of the command line.
        names: torchvision's names of the losses that we call otherwise.
        twin: The pair whose losses are compared, where training draws at random: it trains on everything. None: this
            one.
    """

    ours: Detector
    peer: nn.Module
    background: int = 0
    training: float | None = 1.05
    inference: float = 1.02
    size: tuple[int, int] | None = None
    names: dict[str, str] = field(default_factory=dict)
    twin: "Pair | None" = None


def with_pyramid(make_peer: Callable[..., nn.Module], ours: Detector, size: tuple[int, int]) -> Pair:
    """A pair of torchvision's models with a ResNet-50 and a feature pyramid."""
    peer = make_peer(
        weights=None,
        weights_backbone=None,
        num_classes=K,
        min_size=min(size),
        max_size=max(size),
        score_thresh=THRESHOLD,
        detections_per_img=100,
        **UNIT,
    )
    ours.backbone.load_state_dict(peer.backbone.body.state_dict())
    ours.neck.fpn.load_state_dict(peer.backbone.fpn.state_dict())  # type: ignore[attr-defined]
    ours.head.load_state_dict(peer.head.state_dict())  # type: ignore[attr-defined]
    return Pair(ours, peer)


def retinanet(size: tuple[int, int]) -> Pair:
    """RetinaNet's first form."""
    return with_pyramid(retinanet_resnet50_fpn, RetinaNet(ResNet(50), K, score_threshold=THRESHOLD), size)


def retinanet_v2(size: tuple[int, int]) -> Pair:
    """RetinaNet's second form: normalised head, GIoU loss."""
    ours = RetinaNet(
        ResNet(50), K, extra_levels="p6p7_from_c5", head_norm=True, box_loss="giou", score_threshold=THRESHOLD
    )
    return with_pyramid(retinanet_resnet50_fpn_v2, ours, size)


def fcos(size: tuple[int, int]) -> Pair:
    """FCOS."""
    return with_pyramid(fcos_resnet50_fpn, FCOS(ResNet(50), K, score_threshold=THRESHOLD), size)


EVERYTHING = 10**6
TWO_STAGE_LOSSES = {
    "loss_objectness": "rpn_classification",
    "loss_rpn_box_reg": "rpn_bbox_regression",
    "loss_classifier": "classification",
    "loss_box_reg": "bbox_regression",
    "loss_mask": "mask",
}


def two_stages(
    size: tuple[int, int],
    make_peer: Callable[..., nn.Module],
    make_ours: Callable[..., Detector],
    samples: tuple[int, int] = (256, 512),
) -> Pair:
    """Faster or Mask R-CNN, which train on so many anchors and boxes of an image."""
    anchors, boxes = samples
    peer = make_peer(
        weights=None,
        weights_backbone=None,
        num_classes=K,
        min_size=min(size),
        max_size=max(size),
        rpn_batch_size_per_image=anchors,
        box_batch_size_per_image=boxes,
        **UNIT,
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # one box in a hundred passes the threshold, as after training
        for name, value in peer.roi_heads.box_predictor.named_parameters():
            value.copy_((0.02 if "bbox" in name else 0.12) * torch.randn(value.shape, generator=generator))
    ours = make_ours(
        ResNet(50),
        K - 1,
        convention="torchvision",
        rpn=RPNOptions(samples=anchors),
        box_head=BoxHeadOptions(samples=boxes),
    )
    ours.load_state_dict(from_torchvision(peer.state_dict()))
    pair = Pair(ours, peer, background=1, names=TWO_STAGE_LOSSES)
    if boxes == EVERYTHING:
        return pair
    return replace(pair, twin=two_stages(size, make_peer, make_ours, (EVERYTHING, EVERYTHING)))


class Taps(Backbone):
    """torchvision's MobileNetV3 with the maps that its SSDLite reads."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.channels, self.strides = (672, 480), (16, 32)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Both maps."""
        first = self.features[0](x)
        return [first, self.features[1](first)]

    def stages(self) -> list[list[nn.Module]]:
        """In one piece."""
        return [[self.features]]


def ssdlite(background: float) -> Pair:
    """SSDLite320 on MobileNetV3, whose boxes are the surer the background, the higher its bias."""
    peer = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=K, detections_per_img=100, **UNIT
    )
    ours = SSDLite320(Taps(peer.backbone.features), K - 1)
    with torch.no_grad():
        for layer in peer.head.classification_head.module_list:
            bias = layer[1].bias.view(-1, K)
            bias.add_(torch.randn_like(bias))
            bias[:, 0] += background
    ours.extras.load_state_dict(peer.backbone.extra.state_dict())
    ours.head.load_state_dict(peer.head.state_dict())
    return Pair(ours, peer, background=1, training=1.05, inference=1 / 1.5, size=(320, 320))


CASES: dict[str, Callable[[tuple[int, int]], Pair]] = {
    "retinanet": retinanet,
    "retinanet_v2": retinanet_v2,
    "fcos": fcos,
    "faster_rcnn": partial(two_stages, make_peer=fasterrcnn_resnet50_fpn, make_ours=FasterRCNN),
    "mask_rcnn": partial(two_stages, make_peer=maskrcnn_resnet50_fpn, make_ours=MaskRCNN),
    "ssdlite": lambda size: ssdlite(background=7.0),  # one score in thirty passes
    "ssdlite, all scores pass": lambda size: ssdlite(background=0.0),
}
"""Pairs by name; a further detector is a further line."""
