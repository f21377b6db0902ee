"""Object detection as a LightningModule."""

from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable

from backbones import Backbone
from tasks.base import Batch, Predictions, VisionTask
from tasks.detectors import DetectorBuilder
from tasks.metrics.coco import COCODetectionMetric
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
        weights: Checkpoint of another run whose weights this run starts from. To continue a run use --ckpt_path.
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
        lr_schedule: ScheduleBuilder = lambda optimizer, total_steps: MultiStep(optimizer, total_steps, 500),
        weights: Path | None = None,
    ) -> None:
        model = detector(backbone, len(class_names))
        metric = COCODetectionMetric(class_names)
        super().__init__(model, metric, class_names, image_size, optimizer, lr_schedule, weights)
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
