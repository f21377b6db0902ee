"""COCO evaluation of packed images, by hotcoco (Rust), faster-coco-eval (C++) or pycocotools (the reference).

All backends fill the same precision and recall tables from the same arrays, and one function turns the tables into
numbers, so a backend can only differ in the matching itself; the tests hold them equal to 1e-12.

What is not left to the backends:

- Images and annotations are numbered from 1 in the order given. COCOeval takes the id of the matched annotation as
  its "matched" flag, so an annotation whose id is 0 would score as missed; and hotcoco's table of results holds image
  ids as floating-point numbers, which are exact up to 2**53 only.
- Neither ``summarize`` nor ``loadRes`` of pycocotools is called: the first prints, the second fails without results.
"""

import contextlib
import gc
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.packed_images import ImageRecord

IoUType = Literal["bbox", "segm"]
BackendName = Literal["hotcoco", "faster_coco_eval", "pycocotools"]
MODULES: dict[BackendName, str] = {  # fastest first
    "hotcoco": "hotcoco",
    "faster_coco_eval": "faster_coco_eval.core.faster_eval_api",
    "pycocotools": "pycocotools.cocoeval",
}
COCO_NUMBERS = (
    *("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""Names of COCOeval's numbers, in its order."""
COUNTED = 100
"""Detections of an image and class that count in COCO's numbers; AR is also given at 1 and at 10 of them."""
DETECTIONS_AT_ONCE = 125_000  # about 60 MB with boxes, 120 MB with masks
MATCHES_AT_ONCE = 32_000  # about 150 MB as Python's objects


@dataclass(frozen=True)
class Curves:
    """What COCOeval accumulates; -1 where there is no ground truth.

    Axes: T = 10 IoU thresholds 0.50:0.05:0.95, R = 101 recall levels, K classes, A = areas (all, small, medium,
    large), M = (1, 10, 100) detections per image and class, or another number than 100.

    Attributes:
        precision: (T, R, K, A, M).
        recall: (T, K, A, M).
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def choose_backend(wanted: Literal["auto", "hotcoco", "faster_coco_eval", "pycocotools"]) -> BackendName:
    """Name of the backend to use: the one wanted, or for "auto" the fastest that can be imported.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: The backend cannot be imported; the message is one line with the reason.
    """
    if wanted != "auto" and wanted not in MODULES:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, MODULES))}, got {wanted!r}")
    candidates: tuple[BackendName, ...] = tuple(MODULES) if wanted == "auto" else (wanted,)
    reasons = []
    for name in candidates:
        try:
            importlib.import_module(MODULES[name])
        except ImportError as error:
            reasons.append(f"{name}: {error}")
        else:
            return name
    missing = candidates[-1].replace("_", "-")
    raise RuntimeError(f"no COCO evaluation backend ({'; '.join(reasons)}); pip install {missing}")


def coco_numbers(counted: int) -> list[str]:
    """Names of COCOeval's numbers where so many detections of an image and class count: `AR500` for `AR100`."""
    return [f"AR{counted}" if name == f"AR{COUNTED}" else name for name in COCO_NUMBERS]


def evaluate(
    records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, backend: BackendName, counted: int = COUNTED
) -> Curves:
    """Matches detections to ground truth and accumulates precision and recall.

    Args:
        records: Distinct images. Their order decides which of two equal scores in different images comes first.
        num_classes: K.
        iou_type: Overlap of boxes or of masks.
        backend: Which package does it.
        counted: Detections of an image and class that count, those of highest score.

    Returns:
        Tables that are -1 throughout when there is no ground truth.
    """
    if not any(len(record.ground_truths) for record in records):
        return Curves(np.full((10, 101, num_classes, 4, 3), -1.0), np.full((10, num_classes, 4, 3), -1.0))
    with _without_collector():
        if backend == "hotcoco":
            tables = _evaluate_with_hotcoco(records, num_classes, iou_type, counted)
        else:
            tables = _evaluate_with_dicts(records, num_classes, iou_type, backend, counted)
    return Curves(np.asarray(tables["precision"]), np.asarray(tables["recall"]))


def matched_images(
    records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, backend: BackendName, counted: int = COUNTED
) -> Iterator[dict[str, Any]]:
    """How detections were matched in each image and class that has some or has ground truth.

    The same matching as in `evaluate`, of all areas and with `counted` detections per image and class.
    faster-coco-eval does not show its own; where it is the backend, that is pycocotools' matching.

    Returns:
        The dicts of COCOeval's `evalImgs`: `image_id` and `category_id`, both from 1, `dtScores` from the highest on,
        `dtMatches` and `dtIgnore` at 10 IoUs, `gtIgnore`. Those of a class come image by image.
    """
    with _without_collector():
        if backend == "hotcoco":
            truths = _Objects(records, "ground_truths", iou_type)
            detections = _Objects(records, "detections", iou_type)
            images = _images(records)
            for labels in _groups(detections, num_classes, MATCHES_AT_ONCE):
                chosen = [objects.of_labels(labels[0], labels[-1]) for objects in (truths, detections)]
                if len(chosen[0][1]):  # nothing matches where there is no ground truth
                    yield from _matches_of(_prepare_group(images, labels, *chosen), counted)
        elif any(len(record.ground_truths) for record in records):
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation = _prepare_dicts(records, num_classes, iou_type, "pycocotools")
                found = _matches_of(evaluation, counted)
            yield from found


def _matches_of(evaluation: Any, counted: int) -> list[dict[str, Any]]:
    evaluation.params.maxDets = [1, 10, counted]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    evaluation.evaluate()
    return [image for image in evaluation.evalImgs if image is not None]


def summarize(curves: Curves, class_names: Sequence[str], counted: int = COUNTED) -> dict[str, float]:
    """COCO's twelve numbers and one AP per class, in 0..1; nan where there is no ground truth to define them."""
    precision, recall = curves.precision, curves.recall
    small, medium, large = 1, 2, 3
    tables = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]]
    tables += [precision[..., area, 2] for area in (small, medium, large)]
    tables += [recall[..., 0, limit] for limit in range(3)]
    tables += [recall[..., area, 2] for area in (small, medium, large)]
    numbers = dict(zip(coco_numbers(counted), tables, strict=True))
    numbers |= {f"AP/{name}": precision[:, :, k, 0, 2] for k, name in enumerate(class_names)}
    return {name: _mean_of_defined(values) for name, values in numbers.items()}


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _images(records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    return [{"id": n, "height": r.size[0], "width": r.size[1]} for n, r in enumerate(records, start=1)]


def _categories(num_classes: int) -> list[dict[str, Any]]:
    return [{"id": label + 1, "name": str(label + 1)} for label in range(num_classes)]


def _masks(records: Sequence[ImageRecord], kind: Literal["detection_masks", "ground_truth_masks"]) -> list[Any]:
    """RLEs of all records; those of an image share one list as their size."""
    masks: list[Any] = []
    for record in records:
        size = list(record.size)
        masks += [{"size": size, "counts": counts} for counts in getattr(record, kind)]
    return masks


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Half a million new dicts make the collector go through all objects again and again, and none is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _evaluate_with_hotcoco(
    records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, counted: int
) -> dict[str, Any]:
    """Classes in groups, which do not know of each other: a quarter of the detections needs a quarter of the memory."""
    truths = _Objects(records, "ground_truths", iou_type)
    detections = _Objects(records, "detections", iou_type)
    images = _images(records)
    tables = []
    for labels in _groups(detections, num_classes, DETECTIONS_AT_ONCE):
        some_truths, some_detections = (objects.of_labels(labels[0], labels[-1]) for objects in (truths, detections))
        tables.append(_evaluate_group(images, labels, some_truths, some_detections, counted))
    return {
        "precision": np.concatenate([precision for precision, _ in tables], axis=2),
        "recall": np.concatenate([recall for _, recall in tables], axis=1),
    }


_Chosen = tuple[NDArray[np.int64], NDArray[np.void], list[Any] | None]
"""Image numbers, values and RLEs of some objects."""


class _Objects:
    """Detections or annotations of all images, some of which can be chosen."""

    def __init__(
        self, records: Sequence[ImageRecord], kind: Literal["detections", "ground_truths"], iou_type: IoUType
    ) -> None:
        parts = [getattr(record, kind) for record in records]
        self.values = np.concatenate(parts)
        self.image = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
        self.masks: list[bytes] | None = None
        if iou_type == "segm":
            name = f"{kind[:-1]}_masks"
            self.masks = [counts for record in records for counts in getattr(record, name)]
            self.sizes = [list(record.size) for record in records]

    def of_labels(self, first: int, last: int) -> _Chosen:
        """Image numbers, values and RLEs of the objects with these labels, in order."""
        chosen = np.flatnonzero((self.values["label"] >= first) & (self.values["label"] <= last))
        image = self.image[chosen]
        if self.masks is None:
            return image, self.values[chosen], None
        places = zip(image.tolist(), chosen.tolist(), strict=True)
        masks = [{"size": self.sizes[number - 1], "counts": self.masks[place]} for number, place in places]
        return image, self.values[chosen], masks


def _groups(detections: _Objects, num_classes: int, at_once: int) -> list[NDArray[np.int64]]:
    """The labels 0..K-1 in groups that have about so many detections."""
    return np.array_split(np.arange(num_classes), min(num_classes, 1 + len(detections.values) // at_once))


def _evaluate_group(
    images: list[dict[str, Any]],
    labels: NDArray[np.int64],
    some_truths: _Chosen,
    some_detections: _Chosen,
    counted: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of some classes."""
    if not len(some_truths[1]):
        return np.full((10, 101, len(labels), 4, 3), -1.0), np.full((10, len(labels), 4, 3), -1.0)
    evaluation = _prepare_group(images, labels, some_truths, some_detections)
    evaluation.params.maxDets = [1, 10, counted]
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None  # filled by accumulate
    tables = evaluation.eval
    return np.asarray(tables["precision"]), np.asarray(tables["recall"])


def _prepare_group(
    images: list[dict[str, Any]], labels: NDArray[np.int64], some_truths: _Chosen, some_detections: _Chosen
) -> Any:
    """An evaluation of some classes by hotcoco, which nothing has been asked yet."""
    import hotcoco

    image, truths, masks = some_truths
    ground_truth = hotcoco.COCO.from_arrays(
        images,
        [{"id": label + 1, "name": str(label + 1)} for label in labels.tolist()],
        image,
        truths["label"].astype(np.int64) + 1,
        np.ascontiguousarray(truths["box"]),
        ids=np.arange(1, len(truths) + 1),
        area=np.ascontiguousarray(truths["area"]),
        iscrowd=np.ascontiguousarray(truths["iscrowd"]),
        segmentation=masks,
    )
    image, detections, masks = some_detections
    rows = np.column_stack([image, detections["box"], detections["score"], detections["label"] + 1])
    results = ground_truth.load_res(rows, segmentation=masks)
    if masks is not None:  # else a result has the area of its box
        results.update_anns(ids=np.arange(1, len(rows) + 1), area=detections["mask_area"].astype(np.float64))
    return hotcoco.COCOeval(ground_truth, results, "bbox" if masks is None else "segm")


def _evaluate_with_dicts(
    records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, backend: BackendName, counted: int
) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _prepare_dicts(records, num_classes, iou_type, backend)
        evaluation.params.maxDets = [1, 10, counted]
        evaluation.evaluate()
        evaluation.accumulate()
    tables: dict[str, Any] = evaluation.eval
    return tables


def _prepare_dicts(records: Sequence[ImageRecord], num_classes: int, iou_type: IoUType, backend: BackendName) -> Any:
    """An evaluation by the other backends, which nothing has been asked yet."""
    if backend == "faster_coco_eval":
        from faster_coco_eval.core.coco import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    def indexed(annotations: list[dict[str, Any]], masks: list[Any]) -> Any:
        for annotation, mask in zip(annotations, masks, strict=bool(masks)):
            annotation["segmentation"] = mask
        dataset = COCO()
        dataset.dataset = {
            "images": _images(records),
            "categories": _categories(num_classes),
            "annotations": annotations,
        }
        dataset.createIndex()
        return dataset

    truths: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image, record in enumerate(records, start=1):
        truths += [
            {
                "id": number,
                "image_id": image,
                "category_id": label + 1,
                "bbox": box,
                "area": area,
                "iscrowd": int(iscrowd),
            }
            for number, (box, area, label, iscrowd) in enumerate(record.ground_truths.tolist(), len(truths) + 1)
        ]
        detections += [
            {
                "id": number,
                "image_id": image,
                "category_id": label + 1,
                "bbox": box,
                "area": mask_area if iou_type == "segm" else box[2] * box[3],
                "score": score,
                "iscrowd": 0,
            }
            for number, (box, mask_area, score, label) in enumerate(record.detections.tolist(), len(detections) + 1)
        ]
    return COCOeval(
        indexed(truths, _masks(records, "ground_truth_masks") if iou_type == "segm" else []),
        indexed(detections, _masks(records, "detection_masks") if iou_type == "segm" else []),
        iou_type,
    )
