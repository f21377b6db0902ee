"""Object detection as a LightningModule."""

from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable

from backbones import Backbone
from tasks.base import Batch, Predictions, VisionTask
from tasks.detectors import DetectorBuilder
from tasks.metrics.coco import COCODetectionMetric
from tasks.optimization import ParameterRules
from tasks.schedules import MultiStep, ScheduleBuilder


class DetectionTask(VisionTask):
    """Trains a detector and scores it with COCO's 12 numbers and per-class AP.

    Args:
        backbone: Features for the detector.
        detector: Detector; it gets the backbone and the number of classes.
        class_names: Names of the classes 0..K-1. The command line takes them from the data set.
        category_ids: Original category ids of the classes. The command line takes them from the data set.
        image_size: Height and width at which multiply-accumulates are counted. Linked to the data set.
        optimizer: Optimiser.
        lr_schedule: Learning rate over the steps of the run. Default: the 1x schedule of the COCO baselines.
        parameter_rules: Weight decay and learning rate per kind of parameter.
        weights: Checkpoint of another run whose weights this run starts from. To continue a run use --ckpt_path.
        channels_last: Keep weights and features in channels_last memory layout, which is faster on many devices.
        compile_backbone: Run the backbone through torch.compile; the first steps take minutes.
    """

    monitor = "val/mAP"

    def __init__(
        self,
        backbone: Backbone,
        detector: DetectorBuilder,
        class_names: list[str],
        category_ids: list[int],
        image_size: tuple[int, int] = (800, 1333),
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.01, momentum=0.9, weight_decay=1e-4
        ),
        lr_schedule: ScheduleBuilder = lambda optimizer, length: MultiStep(optimizer, length, 500),
        parameter_rules: ParameterRules = ParameterRules(),  # noqa: B008 - frozen
        weights: Path | None = None,
        channels_last: bool = False,
        compile_backbone: bool = False,
    ) -> None:
        model = detector(backbone, len(class_names))
        metric = COCODetectionMetric(class_names)
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
        self.category_ids = category_ids
        self.save_hyperparameters(logger=False)
        self.forget_live_hyperparameters()

    def metric_inputs(self, batch: Batch, predictions: Predictions) -> tuple[Predictions, list[object]]:
        """Adds image ids to the detections; the ground truth is what stands in the annotation file."""
        found = [
            {**detections, "image_id": target["image_id"]}
            for detections, target in zip(predictions, batch["targets"], strict=True)
        ]
        return found, [target["ground_truth"] for target in batch["targets"]]
