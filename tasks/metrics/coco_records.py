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

Values = Tensor | NDArray[Any]


class RLE(TypedDict):
    """COCO's compressed run-length encoding: ``size`` = (height, width) in pixels, ``counts`` the coded runs."""

    size: Sequence[int]
    counts: bytes | str


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


# Boxes are (x, y, width, height) in pixels of the original image, labels are 0..K-1.
DETECTION = np.dtype([("box", np.float64, 4), ("score", np.float64), ("label", np.int32)])
GROUND_TRUTH = np.dtype([("box", np.float64, 4), ("area", np.float64), ("label", np.int32), ("iscrowd", np.bool_)])


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One evaluated image, packed.

    Attributes:
        image_id: Identity of the image in its data set.
        size: (height, width) in pixels.
        detections: (N,) of dtype ``DETECTION``, in the order the detector gave.
        ground_truths: (M,) of dtype ``GROUND_TRUTH``.
        detection_masks: N compressed RLE strings, or none for boxes.
        ground_truth_masks: M compressed RLE strings, or none for boxes.
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
        with_masks: Whether masks are needed; they are left out otherwise.

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
    return ImageRecord(
        image_id,
        (height, width),
        detections,
        truths,
        _masks(prediction.get("masks"), len(detections), (height, width), f"{where}: predicted masks"),
        _masks(target.get("masks"), len(truths), (height, width), f"{where}: annotated masks"),
    )


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


def _masks(masks: Sequence[RLE] | None, count: int, size: tuple[int, int], what: str) -> tuple[bytes, ...]:
    """Run-length strings of masks that are sure to be decodable: the decoders do not check, and read astray."""
    if masks is None:
        raise ValueError(f"{what} are missing; iou_type 'segm' needs the key 'masks'")
    if len(masks) != count:
        raise ValueError(f"{what} must be {count} like the boxes, got {len(masks)}")
    for mask in masks:
        if tuple(int(length) for length in mask["size"]) != size:
            raise ValueError(f"{what} must have the size {size} of the image, got {tuple(mask['size'])}")
        if not isinstance(mask["counts"], bytes | str):
            raise ValueError(f"{what} must be compressed RLE (counts of bytes or str), got {type(mask['counts'])}")
    coded = tuple(
        mask["counts"].encode() if isinstance(mask["counts"], str) else bytes(mask["counts"]) for mask in masks
    )
    if not _runs_cover(coded, size[0] * size[1]):
        raise ValueError(f"{what}: the runs of a mask do not add up to height x width = {size[0]} x {size[1]} pixels")
    return coded


def _runs_cover(coded: Sequence[bytes], pixels: int) -> bool:
    """Whether every compressed RLE decodes to non-negative runs with the sum ``pixels``.

    The code: a run is written in groups of 5 bits, lowest first, each as character 48 + group, + 32 if more groups
    follow; bit 16 of the last group is the sign. From the fourth run on, the difference to the last but one is written.
    All masks are decoded together, because a loop over characters would be slower than the evaluation.
    """
    if not coded:
        return True
    lengths = np.array([len(string) for string in coded])
    characters = np.frombuffer(b"".join(coded), np.uint8).astype(np.int64) - 48
    if lengths.min() == 0 or characters.min() < 0 or characters.max() > 63:
        return False
    ends = characters & 32 == 0  # last character of a run
    if not ends[np.cumsum(lengths) - 1].all():
        return False
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    groups = np.diff(np.append(starts, len(characters)))  # characters per run
    if groups.max() > 7:  # more than 35 bits
        return False
    place = 5 * (np.arange(len(characters)) - np.repeat(starts, groups))
    written = np.add.reduceat((characters & 31) << place, starts)
    written -= np.where(characters[ends] & 16, np.int64(1) << 5 * groups, 0)

    owner = np.repeat(np.arange(len(coded)), lengths)[ends]  # mask of each run
    first = np.searchsorted(owner, np.arange(len(coded)))
    position = np.arange(len(owner)) - first[owner]
    # Run 0 stands alone; 1, 3, 5, ... and 2, 4, 6, ... are two chains of differences: sort by chain, sum up, sort back.
    chain = 3 * owner + np.where(position == 0, 0, 1 + position % 2)
    order = np.argsort(chain, kind="stable")
    begins = np.concatenate([[True], np.diff(chain[order]) != 0])
    sums = np.cumsum(written[order])
    before = (sums - written[order])[begins]
    runs = np.empty_like(sums)
    runs[order] = sums - before[np.cumsum(begins) - 1]
    return bool((runs >= 0).all() and (np.add.reduceat(runs, first) == pixels).all())
