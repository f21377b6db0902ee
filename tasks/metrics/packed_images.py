"""What COCO evaluation keeps of an image: predictions and annotations, checked and packed into arrays.

Everything that could turn into a wrong number later is refused here with the id of the image: the evaluators take an
unknown label, a nan score or a truncated mask without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tasks.metrics.rle import RLE, EncodedMask, mask_areas

Values = Tensor | NDArray[Any]


class _PredictedBoxes(TypedDict):
    image_id: int
    boxes: Values
    scores: Values
    labels: Values


class Prediction(_PredictedBoxes, total=False):
    """Detections of one image.

    Keys: ``image_id``; ``boxes`` (N, 4) xyxy in pixels of the original image; ``scores`` (N,), higher is surer;
    ``labels`` (N,) integers in 0..K-1; ``masks`` N RLEs at original size, needed for "segm". On any device.
    """

    masks: Sequence[RLE]


class _AnnotatedBoxes(TypedDict):
    image_id: int
    original_size: tuple[int, int]
    boxes: Values
    labels: Values
    area: Values
    iscrowd: Values


class GroundTruth(_AnnotatedBoxes, total=False):
    """Annotations of one image, as in the annotation file.

    Keys: ``image_id``; ``original_size`` (height, width); ``boxes`` (M, 4) xywh in original pixels, float64;
    ``labels`` (M,) integers in 0..K-1; ``area`` (M,) pixels; ``iscrowd`` (M,) bool or 0/1; ``masks`` M RLEs, needed
    for "segm".
    """

    masks: Sequence[RLE]


# Boxes are (x, y, width, height) in pixels of the original image, labels are 0..K-1. What sorts a detection into small,
# medium and large is the area of its box, or that of its mask where masks are scored.
DETECTION = np.dtype([("box", np.float64, 4), ("mask_area", np.int64), ("score", np.float64), ("label", np.int32)])
GROUND_TRUTH = np.dtype([("box", np.float64, 4), ("area", np.float64), ("label", np.int32), ("iscrowd", np.bool_)])


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One evaluated image, packed.

    Attributes:
        image_id: Identity of the image in its data set.
        size: (height, width) in pixels.
        detections: (N,) of dtype ``DETECTION``, in the order the detector gave.
        ground_truths: (M,) of dtype ``GROUND_TRUTH``.
        detection_masks: N compressed RLE strings, or none where only boxes are scored.
        ground_truth_masks: M compressed RLE strings, or none where only boxes are scored.
    """

    image_id: int
    size: tuple[int, int]
    detections: NDArray[np.void]
    ground_truths: NDArray[np.void]
    detection_masks: tuple[bytes, ...] = ()
    ground_truth_masks: tuple[bytes, ...] = ()


def pack(prediction: Prediction, target: GroundTruth, num_classes: int, with_masks: bool) -> ImageRecord:
    """Checks and packs one image.

    Args:
        prediction: Detections of the image.
        target: Annotations of the same image.
        num_classes: K; labels are 0..K-1.
        with_masks: Whether masks are needed; they are left out otherwise. Those that are predicted are checked, unless
            our encoder wrote them; `check_annotated_masks` checks the others, of many images together.

    Raises:
        ValueError: The two are of different images, an array has a wrong shape, a label is outside 0..K-1, a number is
            not finite, or a mask does not fit its image. The message names the image.
    """
    image_id = int(target["image_id"])
    if int(prediction["image_id"]) != image_id:
        raise ValueError(f"prediction of image {int(prediction['image_id'])} is paired with target of {image_id}")
    where = f"image {image_id}"
    height, width = (int(length) for length in target["original_size"])

    boxes = _boxes(prediction["boxes"], f"{where}: predicted boxes")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{where}: predicted boxes must be xyxy with x2 >= x1 and y2 >= y1")
    detections = np.zeros(len(boxes), DETECTION)
    detections["box"] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # (N, 4) xywh
    detections["score"] = _column(prediction["scores"], len(boxes), f"{where}: scores")
    detections["label"] = _labels(prediction["labels"], len(boxes), num_classes, f"{where}: predicted labels")

    boxes = _boxes(target["boxes"], f"{where}: annotated boxes")
    truths = np.zeros(len(boxes), GROUND_TRUTH)
    truths["box"] = boxes
    truths["area"] = _column(target["area"], len(boxes), f"{where}: area")
    truths["label"] = _labels(target["labels"], len(boxes), num_classes, f"{where}: annotated labels")
    truths["iscrowd"] = _column(target["iscrowd"], len(boxes), f"{where}: iscrowd") != 0

    if not with_masks:
        return ImageRecord(image_id, (height, width), detections, truths)
    detected = _masks(prediction.get("masks"), len(detections), [height, width], f"{where}: predicted masks")
    annotated = _masks(target.get("masks"), len(truths), [height, width], f"{where}: annotated masks")
    masks: Sequence[Any] = prediction["masks"]
    own = all(type(mask) is EncodedMask for mask in masks)
    areas = [mask.area for mask in masks] if own else _areas(detected, (height, width), f"{where}: predicted masks")
    detections["mask_area"] = areas
    return ImageRecord(image_id, (height, width), detections, truths, detected, annotated)


def _to_numpy(values: Values) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()  # numpy knows no bfloat16
    return np.asarray(values)


def _boxes(values: Values, what: str) -> NDArray[np.float64]:
    """(N, 4) float64; an empty array of any shape is (0, 4)."""
    boxes = _to_numpy(values).astype(np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} must have shape (N, 4), got {boxes.shape}")
    return _finite(boxes, what)


def _column(values: Values, count: int, what: str) -> NDArray[np.float64]:
    """(count,) float64."""
    column = _to_numpy(values).astype(np.float64)
    if column.shape != (count,):
        raise ValueError(f"{what} must have shape ({count},) like the boxes, got {column.shape}")
    return _finite(column, what)


def _finite(values: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"{what}: {count} of {values.size} numbers are nan or infinite")
    return values


def _labels(values: Values, count: int, num_classes: int, what: str) -> NDArray[np.float64]:
    """(count,) whole numbers in 0..num_classes-1."""
    labels = _column(values, count, what)
    wrong = labels[(labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))]
    if wrong.size:
        raise ValueError(f"{what} must be integers in 0..{num_classes - 1}, got {wrong[0]:g}")
    return labels


def _masks(masks: Sequence[RLE] | None, count: int, size: list[int], what: str) -> tuple[bytes, ...]:
    """Run-length strings of ``count`` masks of an image."""
    if masks is None:
        raise ValueError(f"{what} are missing; iou_type 'segm' needs the key 'masks'")
    if len(masks) != count:
        raise ValueError(f"{what} must be {count} like the boxes, got {len(masks)}")
    sizes, coded = [mask["size"] for mask in masks], [mask["counts"] for mask in masks]
    if sizes.count(size) != count:  # fast, but a tuple or an array is not equal to a list
        for found in sizes:
            if [int(length) for length in found] != size:
                raise ValueError(f"{what} must have the size {tuple(size)} of the image, got {tuple(found)}")
    if set(map(type, coded)) <= {bytes}:
        return tuple(coded)  # type: ignore[arg-type]
    for counts in coded:
        if not isinstance(counts, bytes | str):
            raise ValueError(f"{what} must be compressed RLE (counts of bytes or str), got {type(counts)}")
    return tuple(counts.encode() if isinstance(counts, str) else counts for counts in coded)


def check_annotated_masks(records: Sequence[ImageRecord], at_once: int = 128) -> None:
    """Refuses annotated masks that do not decode to their image, in groups: a call costs as much as 30 masks.

    Raises:
        ValueError: The runs of a mask do not add up.
    """
    for start in range(0, len(records), at_once):
        group = records[start : start + at_once]
        pixels = [record.size[0] * record.size[1] for record in group]
        counts = [len(record.ground_truth_masks) for record in group]
        masks = [mask for record in group for mask in record.ground_truth_masks]
        if mask_areas(masks, np.repeat(pixels, counts)) is None:
            for record in group:
                _areas(record.ground_truth_masks, record.size, f"image {record.image_id}: annotated masks")


def _areas(masks: Sequence[bytes], size: tuple[int, int], what: str) -> NDArray[np.int64]:
    height, width = size
    areas = mask_areas(masks, height * width)
    if areas is None:
        raise ValueError(f"{what}: the runs of a mask do not add up to height x width = {height} x {width} pixels")
    return areas
