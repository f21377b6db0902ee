"""Semantic segmentation as a LightningModule."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from tasks.base import VisionTask
from tasks.batch import Batch, ignored_label
from tasks.headline import Headline
from tasks.metrics import BoundaryMetric, Metric, SegmentationMetric
from tasks.run.evaluation_file import SegmentationEvaluation
from tasks.schedules import Polynomial, ScheduleBuilder
from tasks.segmentors import SegmentorBuilder
from tasks.segmentors.base import LabelMaps, Segmentor
from tasks.task_options import TaskOptions
from tasks.windows import OverWindows


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(TaskOptions):
    """Trains a segmentor and scores it at original resolution: mIoU, by class and image and at contours, mAcc, aAcc.

    Attributes:
        segmentor: Segmentor; it gets the backbone and the number of classes.
        lr_schedule: Learning rate over the steps of the run. Default: MMSegmentation's schedule for ADE20K.
        boundary_width: Pixels so near a contour count in the boundary IoU, as a share of the image's diagonal. The
            paper takes 0.02 (arXiv 2103.16562), others 0.005 for street scenes of high resolution.
    """

    segmentor: SegmentorBuilder
    image_size: tuple[int, int] = (512, 512)
    optimizer: OptimizerCallable = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)
    lr_schedule: ScheduleBuilder = partial(Polynomial)
    boundary_width: float = 0.02


class SegmentationTask(VisionTask):
    """A segmentor, scored by the label maps that it predicts.

    Attributes:
        see: In prediction, gives what wants to see the probabilities of an image of a batch, if anything does.
    """

    model: Segmentor
    options: SegmentationOptions
    see: Callable[[Batch, int], Callable[[Tensor], None] | None] | None = None
    options_class = SegmentationOptions
    headline = Headline("mIoU")

    def build_model(self) -> Segmentor:
        """The segmentor on the backbone."""
        return self.options.segmentor(self.options.backbone, len(self.options.class_names))

    def build_metrics(self) -> dict[str, Metric]:
        """Overlap and accuracy of all pixels, and of those near contours."""
        names, width = self.options.class_names, self.options.boundary_width
        ignored = ignored_label(len(names))
        return {
            "pixels": SegmentationMetric(names, ignored),
            "boundaries": BoundaryMetric(names, width, ignored),
        }

    def build_evaluation(self) -> SegmentationEvaluation:
        """The areas of the classes in every image."""
        pixels = self.metrics.metrics["pixels"]
        assert isinstance(pixels, SegmentationMetric)
        return SegmentationEvaluation.of(
            self.options.class_names, self.metrics.gathered_images(), pixels.image_areas(), pixels.total_confusion()
        )

    @property
    def over_windows(self) -> OverWindows | None:
        """The segmentor's way over an image, where it has one."""
        return getattr(self.model, "inference", None)

    def describe_head(self) -> tuple[str, str]:
        """The decode heads of the segmentor, where it has some."""
        return "segmentor", getattr(self.model, "head_name", type(self.model).__name__)

    def predict_step(self, batch: Batch, batch_idx: int) -> LabelMaps:
        """Label maps, one per image; their probabilities are shown to `see` on the way."""
        see = self.see
        return self.model.label_maps(batch, None if see is None else lambda position: see(batch, position))

    def metric_inputs(self, batch: Batch, predictions: LabelMaps) -> tuple[LabelMaps, list[Tensor]]:
        """Label maps and masks, both at original resolution."""
        return predictions, batch["mask"]
