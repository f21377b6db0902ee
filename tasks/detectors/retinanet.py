"""RetinaNet on any backbone."""

from typing import Any

from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.detectors.base import Detections, Detector, anchors_per_level, split_levels
from tasks.detectors.pyramid import ExtraLevels, FeaturePyramid
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import precise, precise_arithmetic


class RetinaNet(Detector, detection.RetinaNet):
    """RetinaNet: focal loss for dense detection (Lin et al., ICCV 2017, arXiv 1708.02002).

    Pyramid, head, matching, losses and post-processing are torchvision's (its v1 model: P6 and P7 from P5, L1 loss).

    Args:
        backbone: Its features of stride `finest_stride` and coarser are used.
        num_classes: K.
        channels: Channels of the pyramid and of the head.
        anchor_scale: Side of the smallest anchor of a level, in strides (`FeaturePyramid.scales`); each level has 3
            octave scales x 3 ratios.
        finest_stride: Stride of the finest level of the pyramid in pixels.
        coarsest_stride: Stride of its coarsest level; 32, where the maps of most backbones end, for small inputs.
        extra_levels: How levels coarser than the backbone's maps are made, see `FeaturePyramid`.
        simple_pyramid: Whether the backbone's coarsest map alone is used, as where it has no other.
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
        anchor_scale: float = 4.0,
        finest_stride: int = 8,
        coarsest_stride: int = 128,
        extra_levels: ExtraLevels = "p6p7_from_p5",
        simple_pyramid: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        neck = FeaturePyramid(backbone, channels, finest_stride, coarsest_stride, extra_levels, simple_pyramid)
        sides = [anchor_scale * scale for scale in neck.scales]
        anchors = AnchorGenerator(
            tuple((int(side), int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sides),
            ((0.5, 1.0, 2.0),) * neck.num_levels,
        )
        detection.RetinaNet.__init__(
            self,
            neck,
            num_classes,
            anchor_generator=anchors,
            head=RetinaNetHead(channels, anchors.num_anchors_per_location()[0], num_classes),
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
        levels = anchors_per_level(features, self.anchor_generator.num_anchors_per_location()[0])
        outputs = precise(self.head(features))
        with precise_arithmetic():
            anchors = self.anchors(images, features)
            if self.training:
                return Losses(self.compute_loss(batch["targets"], outputs, anchors))
            of_levels = [list(of_image.split(levels)) for of_image in anchors]
            detections = self.postprocess_detections(split_levels(outputs, levels), of_levels, images.image_sizes)
            return self.to_original(detections, batch)

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """In the last convolution of the classification head, all classes of one anchor after the other."""
        rows = ClassRows(blocks=self.anchor_generator.num_anchors_per_location()[0])
        return {f"head.classification_head.cls_logits.{name}": rows for name in ("weight", "bias")}
