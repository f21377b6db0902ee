"""Object detection as a LightningModule."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable

from tasks.base import VisionTask
from tasks.batch import Batch
from tasks.detectors import DetectorBuilder
from tasks.detectors.base import Detections, Detector
from tasks.detectors.windows import WindowedDetection, Windows
from tasks.errors import TaskError
from tasks.headline import Headline
from tasks.metrics import COCODetectionMetric, GroundTruth, Metric
from tasks.run.detection_file import ScoredDetections
from tasks.schedules import MultiStep, ScheduleBuilder
from tasks.task_options import TaskOptions
from tasks.windows import OverWindows


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(TaskOptions):
    """Trains a detector and scores it with COCO's 12 numbers and per-class AP, of boxes and of masks if it finds them.

    Attributes:
        detector: Detector; it gets the backbone and the number of classes.
        category_ids: Original category ids of the classes. The command line takes them from the data set.
        windows: Look at images in windows, in evaluation and prediction, and merge what is found there; the pipeline's
            `test_scale` keeps the images large. Default: a whole image at once.
        scored_detections: Detections of each class in an image that count in the scores, those of highest score. COCO's
            number is 100; large images hold more objects.
        lr_schedule: Learning rate over the steps of the run. Default: the 1x schedule of the COCO baselines.
    """

    detector: DetectorBuilder
    category_ids: list[int]
    windows: Windows | None = None
    scored_detections: int = 100
    image_size: tuple[int, int] = (800, 1333)
    optimizer: OptimizerCallable = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
    lr_schedule: ScheduleBuilder = partial(MultiStep, warmup_steps=500)


class DetectionTask(VisionTask):
    """A detector, scored by the boxes that it finds, and by the masks if it finds them: `val/mAP`, `val/mask_mAP`."""

    options: DetectionOptions
    model: Detector
    options_class = DetectionOptions
    headline = Headline("mAP")

    def __init__(self, options: DetectionOptions) -> None:
        super().__init__(options)
        self._windowed = None if options.windows is None else WindowedDetection(options.windows)
        if self._windowed is not None and options.validation_loss:
            raise TaskError(
                "--model.validation_loss true looks at whole images and --model.windows at parts of them; leave one out"
            )

    def predictions(self, batch: Batch) -> Detections:
        """What the detector finds in each image, as a whole or in windows."""
        found: Detections = self.model(batch) if self._windowed is None else self._windowed(self.model, batch)
        return found

    @property
    def over_windows(self) -> OverWindows | None:
        """The windows."""
        return self._windowed

    def build_model(self) -> Detector:
        """The detector on the backbone."""
        return self.options.detector(self.options.backbone, len(self.options.class_names))

    def build_metrics(self) -> dict[str, Metric]:
        """COCO's numbers of the boxes, and of the masks."""
        kinds: Literal["both", "bbox"] = "both" if self.model.with_masks else "bbox"
        names, counted = self.options.class_names, self.options.scored_detections
        return {"objects": COCODetectionMetric(names, kinds, detections=counted)}

    def build_evaluation(self) -> ScoredDetections | None:
        """The detections, and what they were scored by."""
        objects = self.metrics.metrics.get("objects")
        if not isinstance(objects, COCODetectionMetric):  # a task of a user's own
            return None
        file_of = {int(number): file for number, file in self.metrics.gathered_images()}
        files = [file_of[record.image_id] for record in objects.scored]
        kinds = tuple(objects.kinds.values())
        return ScoredDetections(objects.class_names, objects.scored, files, kinds, objects.backend, objects.detections)

    def main_scores(self) -> list[str]:
        """Mean precision of the boxes, and of the masks."""
        return ["mAP", "mask_mAP"] if self.model.with_masks else ["mAP"]

    def describe_head(self) -> tuple[str, str]:
        """The detector."""
        return "detector", type(self.model).__name__

    def metric_inputs(self, batch: Batch, predictions: Detections) -> tuple[Detections, list[GroundTruth]]:
        """Adds image ids to the detections; the ground truth is what stands in the annotation file."""
        found = [
            {**detections, "image_id": target["image_id"]}
            for detections, target in zip(predictions, batch["targets"], strict=True)
        ]
        return found, [target["ground_truth"] for target in batch["targets"]]
