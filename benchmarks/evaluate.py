"""Evaluation: the COCO metric against pycocotools, the confusion matrix and label maps against their usual forms.

`python -m benchmarks.evaluate` solves a problem of the size of val2017 (5,000 images, 36,000 objects, 100 detections
per image, 80 classes) with boxes and with masks. Every run has a process of its own, in which CPU time (one thread)
and extra peak memory count for the same call: from predictions in memory to the twelve numbers. pycocotools takes
minutes, so it runs once per kind; ours runs three times, before and after it. Equal numbers are checked first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.metrics import RLE, GroundTruth, Prediction

CLASSES = 80
HEIGHT, WIDTH = 480, 640
TWELVE = (
    *("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
GOALS = {"bbox": (45.0, 8.0), "segm": (17.0, 4.0)}  # times faster, times less memory


@dataclass(frozen=True)
class Objects:
    """Annotations or detections of all images, ordered by image.

    Attributes:
        image: (N,) number of the image, from 1.
        box: (N, 4) xyxy in multiples of 1/8 pixel, so that all conversions are exact.
        label: (N,) in 0..79.
        score: (N,) in 0..1; some are equal.
        iscrowd: (N,) bool.
        masks: N RLEs, or none for boxes.
    """

    image: NDArray[np.int64]
    box: NDArray[np.float32]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    iscrowd: NDArray[np.bool_]
    masks: list[RLE]


def make_problem(images: int, with_masks: bool) -> tuple[Objects, Objects]:
    """Ground truth (7.2 objects per image) and detections (100 per image, most of them near an object)."""
    random = np.random.default_rng(0)
    count = 36 * images // 5
    owner = np.sort(random.integers(1, images + 1, count))
    frequency = 1 / np.arange(3, CLASSES + 3)
    label = random.choice(CLASSES, count, p=frequency / frequency.sum())
    box = _random_boxes(random, count)
    truth = Objects(
        owner, box, label, np.ones(count, np.float32), random.random(count) < 0.02, _blobs(random, box, with_masks)
    )

    image = np.repeat(np.arange(1, images + 1), 100)
    first, last = np.searchsorted(owner, image), np.searchsorted(owner, image, side="right")
    source = np.minimum(first + (random.random(len(image)) * (last - first)).astype(int), count - 1)
    near = (random.random(len(image)) < 0.6) & (last > first)
    size = np.tile(box[source, 2:] - box[source, :2], 2)
    moved = box[source] + random.normal(0, 0.1, size.shape) * size
    found = _on_grid(np.where(near[:, None], moved, _random_boxes(random, len(image))))
    same = near & (random.random(len(image)) < 0.7)
    score = (np.round(random.beta(1, 3, len(image)) * 4096) / 4096).astype(np.float32)
    detections = Objects(
        image,
        found,
        np.where(same, label[source], random.integers(0, CLASSES, len(image))),
        np.where(same, np.sqrt(score), score).astype(np.float32),
        np.zeros(len(image), np.bool_),
        _blobs(random, found, with_masks),
    )
    return truth, detections


def _random_boxes(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    centre = random.random((count, 2)) * (WIDTH, HEIGHT)
    half = np.exp(random.uniform(np.log(6), np.log(150), (count, 2)))
    return _on_grid(np.concatenate([centre - half, centre + half], axis=1))


def _on_grid(box: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes inside the image, at least one pixel wide and high."""
    corner = np.clip(np.round(box[:, :2] * 8) / 8, 0, (WIDTH - 1, HEIGHT - 1))
    end = np.clip(np.round(box[:, 2:] * 8) / 8, corner + 1, (WIDTH, HEIGHT))
    return np.concatenate([corner, end], axis=1).astype(np.float32)


def _blobs(random: np.random.Generator, box: NDArray[np.float32], wanted: bool) -> list[RLE]:
    """A mask of 16 corners inside every box."""
    if not wanted:
        return []
    from pycocotools import mask

    angle = np.arange(16) * (np.pi / 8)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    masks: list[RLE] = []
    for part in np.array_split(box, max(len(box) // 10_000, 1)):
        centre, half = (part[:, :2] + part[:, 2:]) / 2, (part[:, 2:] - part[:, :2]) / 2
        corners = centre[:, None] + half[:, None] * circle * random.uniform(0.7, 1, (len(part), 16, 1))
        masks += mask.frPyObjects(corners.reshape(-1, 32).tolist(), HEIGHT, WIDTH)
    return masks


def as_batches(truth: Objects, found: Objects, images: int) -> list[tuple[Prediction, GroundTruth]]:
    """The problem as our metric gets it, image by image."""
    batches = []
    numbers = np.arange(1, images + 2)
    for image, t, f in zip(
        range(1, images + 1),
        np.lib.stride_tricks.sliding_window_view(np.searchsorted(truth.image, numbers), 2).tolist(),
        np.lib.stride_tricks.sliding_window_view(np.searchsorted(found.image, numbers), 2).tolist(),
        strict=True,
    ):
        here, there = slice(*t), slice(*f)
        box = truth.box[here].astype(np.float64)
        size = box[:, 2:] - box[:, :2]
        prediction: Prediction = {
            "image_id": image,
            "boxes": torch.from_numpy(found.box[there]),
            "scores": torch.from_numpy(found.score[there]),
            "labels": torch.from_numpy(found.label[there]),
        }
        target: GroundTruth = {
            "image_id": image,
            "original_size": (HEIGHT, WIDTH),
            "boxes": np.concatenate([box[:, :2], size], axis=1),
            "labels": truth.label[here],
            "area": size.prod(axis=1),
            "iscrowd": truth.iscrowd[here],
        }
        if found.masks:
            prediction["masks"], target["masks"] = found.masks[there], truth.masks[here]
        batches.append((prediction, target))
    return batches


def as_dicts(objects: Objects, are_results: bool) -> list[dict[str, Any]]:
    """The objects as COCO annotations, or as results with a box or else a mask, like the references of torchvision."""
    box = objects.box.astype(np.float64)
    size = box[:, 2:] - box[:, :2]
    boxes = np.concatenate([box[:, :2], size], axis=1).tolist()
    labels, images = (objects.label + 1).tolist(), objects.image.tolist()
    dicts: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label} for image, label in zip(images, labels, strict=True)
    ]
    for item, mask in zip(dicts, objects.masks, strict=False):
        item["segmentation"] = mask
    if are_results:
        for item, score in zip(dicts, objects.score.tolist(), strict=True):
            item["score"] = score
        if not objects.masks:
            for item, xywh in zip(dicts, boxes, strict=True):
                item["bbox"] = xywh
        return dicts
    areas, crowds = size.prod(axis=1).tolist(), objects.iscrowd.astype(int).tolist()
    for number, (item, xywh, area, crowd) in enumerate(zip(dicts, boxes, areas, crowds, strict=True), start=1):
        item |= {"id": number, "bbox": xywh, "area": area, "iscrowd": crowd}
    return dicts
