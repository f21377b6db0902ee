"""Semantic segmentation as a LightningModule."""

from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable

from backbones import Backbone
from tasks.base import Batch, Predictions, VisionTask
from tasks.metrics.confusion import SegmentationMetric
from tasks.optimization import ParameterRules
from tasks.schedules import Polynomial, ScheduleBuilder
from tasks.segmentors import SegmentorBuilder


class SegmentationTask(VisionTask):
    """Trains a segmentor and scores it with mIoU, mAcc, aAcc and per-class IoU at original resolution.

    Args:
        backbone: Features for the segmentor.
        segmentor: Segmentor; it gets the backbone and the number of classes.
        class_names: Names of the classes 0..K-1. The command line takes them from the data set.
        image_size: Height and width at which multiply-accumulates are counted. Linked to the data set.
        optimizer: Optimiser.
        lr_schedule: Learning rate over the steps of the run. Default: MMSegmentation's schedule for ADE20K.
        parameter_rules: Weight decay and learning rate per kind of parameter.
        weights: Checkpoint of another run whose weights this run starts from. To continue a run use --ckpt_path.
        channels_last: Keep weights and features in channels_last memory layout, which is faster on many devices.
        compile_backbone: Run the backbone through torch.compile; the first steps take minutes.
    """

    monitor = "val/mIoU"

    def __init__(
        self,
        backbone: Backbone,
        segmentor: SegmentorBuilder,
        class_names: list[str],
        image_size: tuple[int, int] = (512, 512),
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.01, momentum=0.9, weight_decay=5e-4
        ),
        lr_schedule: ScheduleBuilder = lambda optimizer, length: Polynomial(optimizer, length),
        parameter_rules: ParameterRules = ParameterRules(),  # noqa: B008 - frozen
        weights: Path | None = None,
        channels_last: bool = False,
        compile_backbone: bool = False,
    ) -> None:
        model = segmentor(backbone, len(class_names))
        metric = SegmentationMetric(class_names)
        super().__init__(
            model,
            metric,
            class_names,
            image_size,
            optimizer,
            lr_schedule,
            parameter_rules,
            weights,
            channels_last,
            compile_backbone,
        )
        self.save_hyperparameters(logger=False)
        self.forget_live_hyperparameters()

    def metric_inputs(self, batch: Batch, predictions: Predictions) -> tuple[Predictions, list[object]]:
        """Label maps and masks, both at original resolution."""
        return predictions, batch["mask"]
