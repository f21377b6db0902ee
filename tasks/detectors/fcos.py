"""FCOS on any backbone."""

from typing import Any

from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.detectors.base import Detections, Detector, anchors_per_level, split_levels
from tasks.detectors.pyramid import ExtraLevels, FeaturePyramid
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import precise, precise_arithmetic


class FCOS(Detector, detection.FCOS):
    """FCOS: fully convolutional one-stage detection (Tian et al., ICCV 2019, arXiv 1904.01355).

    Pyramid, head, assignment (centre sampling), GIoU loss and post-processing are torchvision's.

    Args:
        backbone: Its features of stride `finest_stride` and coarser are used.
        num_classes: K.
        channels: Channels of the pyramid and of the head, a multiple of 32 (the head normalises groups of them).
        num_convs: 3x3 convolutions of the head before its predictions.
        finest_stride: Stride of the finest level of the pyramid in pixels.
        coarsest_stride: Stride of its coarsest level; 32, where the maps of most backbones end, for small inputs.
        extra_levels: How levels coarser than the backbone's maps are made, see `FeaturePyramid`.
        simple_pyramid: Whether the backbone's coarsest map alone is used, as where it has no other.
        center_radius: Radius of the centre in which locations are positive, in strides.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
        max_detections: Detections per image.
    """

    backbone: Backbone
    head: Any
    neck: FeaturePyramid

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
        center_radius: float = 1.5,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        if channels % 32:
            raise ValueError(f"channels is {channels}, expected a multiple of 32: the head has 32 normalisation groups")
        neck = FeaturePyramid(backbone, channels, finest_stride, coarsest_stride, extra_levels, simple_pyramid)
        # pylint: disable=duplicate-code  # torchvision's two classes name these options alike
        detection.FCOS.__init__(
            self,
            neck,
            num_classes,
            anchor_generator=AnchorGenerator(tuple((scale,) for scale in neck.scales), ((1.0,),) * neck.num_levels),
            head=FCOSHead(channels, 1, num_classes, num_convs),
            center_sampling_radius=center_radius,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        self.normalization = Normalization()
        self.backbone, self.neck = backbone, neck
        del self.transform  # images arrive resized; Normalization does the rest

    def forward(self, batch: Batch) -> Losses | Detections:
        """Backbone, neck, head; then losses or detections."""
        images = self.image_list(batch)
        features = self.neck(self.backbone(images.tensors))
        levels = anchors_per_level(features, per_location=1)
        outputs = precise(self.head(features))
        with precise_arithmetic():
            anchors = self.anchors(images, features)
            if self.training:
                return Losses(self.compute_loss(batch["targets"], outputs, anchors, levels))
            of_levels = [list(of_image.split(levels)) for of_image in anchors]
            detections = self.postprocess_detections(split_levels(outputs, levels), of_levels, images.image_sizes)
            return self.to_original(detections, batch)

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """One row a class in the last convolution of the classification head."""
        return {f"head.classification_head.cls_logits.{name}": ClassRows() for name in ("weight", "bias")}
