"""COCO detection metric: 12 numbers and AP per class over the whole data set, equal for any number of processes.

Boxes and masks of one detector can be scored together: an image is then packed, kept and sent once.

Semantics are COCOeval's (github.com/cocodataset/cocoapi): crowds are ignore regions, 1 / 10 / 100 detections per image
and class, small / medium / large by the annotated area. Unlike COCOeval, "undefined" is nan and not -1, an image seen
twice (sampler padding) counts once, and no predictions at all is a score of 0 instead of a failure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch.distributed as dist

from tasks.metrics.coco_backends import COUNTED, IoUType, choose_backend, coco_numbers, evaluate, summarize
from tasks.metrics.coco_transport import join, split
from tasks.metrics.packed_images import GroundTruth, ImageRecord, Prediction, check_annotated_masks, pack
from tasks.metrics.rle import RLE

__all__ = ["RLE", "COCODetectionMetric", "GroundTruth", "Prediction"]

_KINDS: dict[str, dict[str, IoUType]] = {
    "bbox": {"": "bbox"},
    "segm": {"": "segm"},
    "both": {"": "bbox", "mask_": "segm"},
}


class COCODetectionMetric:
    """Collects detections with ``update``, scores them once with ``compute``.

    Args:
        class_names: K distinct names; position is the label.
        iou_type: Overlap of boxes ("bbox"), of masks ("segm"), or of both ("both"): then the numbers of the masks have
            `mask_` in front of their names.
        backend: "hotcoco", "faster_coco_eval", "pycocotools", or "auto" for the first of them that can be imported.
        prefix: Put in front of the name of every number.
        detections: Detections of each class in an image that count, those of highest score. COCO's number is 100,
            which `AR100` and its like bear in their names.

    Attributes:
        scores: Names of the 12 numbers of each kind, and "images", the number of distinct images.
        class_scores: "AP/<class>" of every class, of each kind.
        scored: The images that `compute` has scored, ordered by their ids; in process 0 only.

    Raises:
        ValueError: No class names, repeated class names, or an unknown ``iou_type`` or ``backend``.
        RuntimeError: The backend cannot be imported.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        iou_type: Literal["bbox", "segm", "both"] = "bbox",
        backend: Literal["auto", "hotcoco", "faster_coco_eval", "pycocotools"] = "auto",
        prefix: str = "",
        detections: int = COUNTED,
    ) -> None:
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names must be at least one and all different, got {self.class_names}")
        if iou_type not in _KINDS:
            raise ValueError(f"iou_type must be 'bbox', 'segm' or 'both', got {iou_type!r}")
        self.kinds: dict[str, IoUType] = {f"{prefix}{kind}": overlap for kind, overlap in _KINDS[iou_type].items()}
        if detections <= 10:
            raise ValueError(f"detections is {detections}, expected more than 10, for which AR10 is")
        self.prefix, self.detections = prefix, detections
        self.scores = [
            *(f"{kind}{name}" for kind in self.kinds for name in coco_numbers(detections)),
            f"{prefix}images",
        ]
        self.class_scores = [f"{kind}AP/{name}" for kind in self.kinds for name in self.class_names]
        self.backend = choose_backend(backend)
        self._records: dict[int, ImageRecord] = {}
        self.scored: tuple[ImageRecord, ...] = ()

    def update(self, predictions: list[Prediction], targets: list[GroundTruth]) -> None:
        """Adds the images of a batch; ``predictions[i]`` and ``targets[i]`` belong to the same image.

        An image that came before is left out (its first predictions stay).

        Raises:
            ValueError: Predictions and targets do not belong together, an array has a wrong shape, a label is outside
                0..K-1, a number is not finite, a mask does not fit its image (an annotated one can have the wrong
                runs until `compute`), or one image id stands for two images.
        """
        if len(predictions) != len(targets):
            raise ValueError(f"got {len(predictions)} predictions for {len(targets)} targets")
        pairs = zip(predictions, targets, strict=True)
        num_classes, with_masks = len(self.class_names), "segm" in self.kinds.values()
        records = [pack(prediction, target, num_classes, with_masks) for prediction, target in pairs]
        _keep_first(self._records, records)

    def compute(self) -> dict[str, float]:
        """Scores all images of all processes; in a distributed run every process must call it.

        Process 0 evaluates, the others wait for its numbers (for val2017 hotcoco needs seconds, pycocotools minutes).

        Returns:
            ``scores`` and ``class_scores``: in 0..1, or nan where the ground truth leaves the number undefined.

        Raises:
            RuntimeError: The evaluation failed in process 0 (where the original error is raised).
            ValueError: The runs of an annotated mask do not add up to its image.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self._evaluate([list(self._records.values())])
        is_first = dist.get_rank() == 0
        gathered: list[Any] | None = [None] * dist.get_world_size() if is_first else None
        dist.gather_object(join(list(self._records.values())), gathered, dst=0)
        # An error must travel like a result: a process that waits for numbers that never come would hang.
        outcome: list[Any] = [None]
        failure: BaseException | None = None
        if gathered is not None:
            try:
                outcome[0] = self._evaluate([split(joined) for joined in gathered])
            except BaseException as error:  # a panic of the Rust backend is not an Exception; raised again below
                failure = error
                outcome[0] = f"{type(error).__name__}: {error}"
        dist.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if isinstance(outcome[0], str):
            raise RuntimeError(f"COCO evaluation failed in process 0: {outcome[0]}")
        numbers: dict[str, float] = outcome[0]
        return numbers

    def reset(self) -> None:
        """Forgets all images."""
        self._records.clear()
        self.scored = ()

    def _evaluate(self, per_process: Sequence[Sequence[ImageRecord]]) -> dict[str, float]:
        images: dict[int, ImageRecord] = {}
        for records in per_process:
            _keep_first(images, records)
        # Equal scores rank in image order, so that order must not depend on how images were spread over processes.
        in_order = [images[image_id] for image_id in sorted(images)]
        check_annotated_masks(in_order)
        self.scored = tuple(in_order)
        numbers: dict[str, float] = {}
        for kind, overlap in self.kinds.items():
            curves = evaluate(in_order, len(self.class_names), overlap, self.backend, self.detections)
            scores = summarize(curves, self.class_names, self.detections)
            numbers |= {f"{kind}{name}": value for name, value in scores.items()}
        return numbers | {f"{self.prefix}images": float(len(images))}


def _keep_first(images: dict[int, ImageRecord], records: Iterable[ImageRecord]) -> None:
    """Adds to ``images`` the records whose image is not there yet; a repeat must repeat the ground truth."""
    for record in records:
        first = images.setdefault(record.image_id, record)
        if first is record:
            continue
        if first.size != record.size or not np.array_equal(first.ground_truths, record.ground_truths):
            raise ValueError(f"image id {record.image_id} came with two different ground truths; ids must be unique")
