"""Evaluation of detectors: the COCO metric against pycocotools, and the encoding of masks.

`python -m benchmarks.evaluate` solves a problem of the size of val2017 (5,000 images, 36,000 objects, 100 detections
per image, 80 classes) with boxes and with masks. CPU time (one thread) and extra peak memory count from predictions in
memory to the twelve numbers, each in a fresh process. pycocotools takes a minute, so it is timed once per kind, and
ours three times, before and after it. Equal numbers are checked first. Masks come as `encode_masks` hands them over,
with their areas; how long it takes is measured for itself.
"""

import contextlib
import gc
import io
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.models.detection.roi_heads import paste_masks_in_image

from benchmarks.measure import Goal, finish, parse_options, peak_memory, ratio_goal, time_in_turn
from tasks.detectors.instance_masks import encode_masks
from tasks.metrics import RLE, COCODetectionMetric, GroundTruth, Prediction
from tasks.metrics.rle import EncodedMask

CLASSES = 80
HEIGHT, WIDTH = 480, 640
TWELVE = (
    *("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
GOALS = {"bbox": (45.0, 8.0), "segm": (20.0, 4.0)}  # times faster, times less memory


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
            prediction["masks"], target["masks"] = _as_encoded(found.masks[there]), truth.masks[here]
        batches.append((prediction, target))
    return batches


def _as_encoded(masks: list[RLE]) -> list[RLE]:
    """Masks as `encode_masks` gives them."""
    from pycocotools import mask as coco_mask

    areas = coco_mask.area(masks).tolist()
    return [EncodedMask(mask, area) for mask, area in zip(masks, areas, strict=True)]


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


@dataclass(frozen=True)
class Run:
    """What one run of one side gave: CPU seconds, extra peak memory in MB, the twelve numbers."""

    seconds: float
    megabytes: float
    numbers: list[float]


def run(side: str, kind: Literal["bbox", "segm"], images: int) -> Run:
    """Solves the problem in processes of its own; the side is "plain" (pycocotools) or a backend of our metric.

    Time and memory are taken apart, because what makes the memory exact (large blocks go back at once) costs time.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, numbers = pool.submit(timed, side, kind, images).result()
    megabytes = peak_memory("benchmarks.evaluate", "prepare", side, kind, str(images))
    print(f"{kind} {side}: {seconds:.2f} s CPU, {megabytes:.0f} MB", file=sys.stderr)  # noqa: T201
    return Run(seconds, megabytes, numbers)


def timed(side: str, kind: Literal["bbox", "segm"], images: int) -> tuple[float, list[float]]:
    """CPU seconds of the solution, and the twelve numbers."""
    solve = prepare(side, kind, str(images))
    gc.collect()
    gc.freeze()  # predictions of all images at once are the benchmark's doing; the collector need not go through them
    start = time.process_time()
    numbers = solve()
    return time.process_time() - start, numbers


def prepare(side: str, kind: Literal["bbox", "segm"], images: str) -> Callable[[], list[float]]:
    """Makes the inputs; the returned function gives the twelve numbers."""
    torch.set_num_threads(1)
    truth, found = make_problem(int(images), kind == "segm")
    if side == "plain":
        return prepare_plain(truth, found, kind, int(images))
    return prepare_ours(truth, found, kind, int(images), cast(Literal["hotcoco", "faster_coco_eval"], side))


def prepare_ours(
    truth: Objects,
    found: Objects,
    kind: Literal["bbox", "segm"],
    images: int,
    backend: Literal["hotcoco", "faster_coco_eval"],
) -> Callable[[], list[float]]:
    """Our metric in batches of one image."""
    batches = as_batches(truth, found, images)
    metric = COCODetectionMetric([str(label) for label in range(CLASSES)], kind, backend)

    def solve() -> list[float]:
        for prediction, target in batches:
            metric.update([prediction], [target])
        numbers = metric.compute()
        return [numbers[name] for name in TWELVE]

    return solve


def prepare_plain(truth: Objects, found: Objects, kind: str, images: int) -> Callable[[], list[float]]:
    """Plain pycocotools as the references of torchvision call it: loadRes, evaluate, accumulate, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = {
        "images": [{"id": number, "height": HEIGHT, "width": WIDTH} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)],
        "annotations": as_dicts(truth, are_results=False),
    }
    results = as_dicts(found, are_results=True)

    def solve() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = COCO()
            ground_truth.dataset = dataset
            ground_truth.createIndex()
            evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return cast(list[float], evaluation.stats.tolist())

    return solve


def detection_goals(kind: Literal["bbox", "segm"], images: int) -> list[Goal]:
    """Equality first, then time and memory against one run of pycocotools."""
    ours = [run("hotcoco", kind, images)]
    plain = run("plain", kind, images)
    ours += [run("hotcoco", kind, images) for _ in range(2)]
    fallback = [run("faster_coco_eval", kind, images)]
    for other in (*ours, *fallback):
        np.testing.assert_allclose(other.numbers, plain.numbers, rtol=0, atol=1e-12)
    faster, smaller = GOALS[kind]
    name = {"bbox": "boxes", "segm": "masks"}[kind]
    goals = [
        ratio_goal(f"{name}: time, pycocotools (1 run) / ours", [plain.seconds] * 3, [r.seconds for r in ours], faster),
        ratio_goal(
            f"{name}: memory, pycocotools (1 run) / ours", [plain.megabytes] * 3, [r.megabytes for r in ours], smaller
        ),
    ]
    if kind == "bbox":
        goals.append(
            ratio_goal(
                f"{name}: time, pycocotools (1 run) / ours with faster-coco-eval (1 run)",
                [plain.seconds],
                [r.seconds for r in fallback],
                5,
            )
        )
    return goals


def encoding_goals() -> list[Goal]:
    """Maps of 100 boxes to run-length masks, against torchvision's pasting and pycocotools' encoder."""
    from pycocotools import mask

    random = np.random.default_rng(0)
    boxes = torch.from_numpy(_random_boxes(random, 100))
    maps = F.interpolate(torch.from_numpy(random.random((100, 1, 5, 5), np.float32)), (28, 28), mode="bicubic").clamp(
        0, 1
    )

    def plain() -> list[RLE]:
        pasted = paste_masks_in_image(maps, boxes, (HEIGHT, WIDTH))[:, 0] > 0.5
        encoded: list[RLE] = mask.encode(np.asfortranarray(pasted.permute(1, 2, 0).byte().numpy()))
        return encoded

    def ours() -> list[RLE]:
        return encode_masks(maps[:, 0], boxes, (HEIGHT, WIDTH), "torchvision")

    assert plain() == ours()
    seconds = time_in_turn({"plain": plain, "ours": ours}, rounds=7)
    name = "maps of 100 boxes to masks: torchvision and pycocotools / ours"
    return [ratio_goal(name, seconds["plain"], seconds["ours"], 5)]


def main() -> None:
    """Runs everything; exit code 1 when a goal was missed."""

    def options(parser: ArgumentParser) -> object:
        return parser.add_argument("--images", type=int, default=5000, help="images of the detection problem")

    chosen = parse_options(__doc__.splitlines()[0], options)
    os.environ["RAYON_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    goals = encoding_goals()
    for kind in ("bbox", "segm"):
        goals += detection_goals(kind, chosen.images)
    finish(goals, chosen.json)


if __name__ == "__main__":
    main()
