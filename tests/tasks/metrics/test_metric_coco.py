import copy
import dataclasses
import json
import pickle
import time
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tasks.metrics.coco as coco_module
import tasks.metrics.coco_backends as coco_backends
import tasks.metrics.packed_images as packed_images
from tasks.metrics import COCODetectionMetric
from tasks.metrics.coco_transport import join, split
from tasks.metrics.matches import match
from tasks.metrics.packed_images import pack
from tasks.metrics.rle import EncodedMask, mask_areas

BACKENDS = ("hotcoco", "faster_coco_eval", "pycocotools")
TWELVE = (
    *("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
PUBLISHED = {  # val2014_fake_eval_res.txt of cocoapi
    "bbox": (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564),
    "segm": (0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381),
}
RESULT_FILES = [
    ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json", "bbox"),
    ("instances_val2014_100.json", "instances_val2014_fakesegm100_results.json", "segm"),
    ("gt_dataset.json", "dt_dataset.json", "bbox"),
    ("gt_dataset.json", "dt_dataset.json", "segm"),
    ("gt_ignore_test.json", "dt_ignore_test.json", "bbox"),
]


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def from_files(ground_truth, results, segm):
    """COCO dicts -> (class names, predictions, targets); an image is a row even if nothing is in it."""
    api = COCO()
    api.dataset = copy.deepcopy(ground_truth)
    api.createIndex()
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    predictions, targets = [], []
    for image in ground_truth["images"]:
        truths = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"]]
        boxes = torch.tensor([r.get("bbox", [0, 0, 0, 0]) for r in found], dtype=torch.float64).reshape(-1, 4)
        prediction = {
            "image_id": image["id"],
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.tensor([r["score"] for r in found], dtype=torch.float64),
            "labels": torch.tensor([label_of[r["category_id"]] for r in found], dtype=torch.int64),
        }
        target = {
            "image_id": image["id"],
            "original_size": (image["height"], image["width"]),
            "boxes": torch.tensor([a["bbox"] for a in truths], dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor([label_of[a["category_id"]] for a in truths], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in truths], dtype=torch.float64),
            "iscrowd": torch.tensor([a["iscrowd"] for a in truths], dtype=torch.bool),
        }
        if segm:
            prediction["masks"] = [api.annToRLE(r) for r in found]
            target["masks"] = [api.annToRLE(a) for a in truths]
        predictions.append(prediction)
        targets.append(target)
    return [category["name"] for category in categories], predictions, targets


def score(class_names, predictions, targets, iou_type="bbox", backend="auto"):
    metric = COCODetectionMetric(class_names, iou_type, backend)
    metric.update(predictions, targets)
    return metric.compute()


def random_problem(seed, images=6, classes=3, segm=False):
    """Ids with gaps in random order, tied scores, crowds, images without objects, > 100 detections, exact IoU ties."""
    random = np.random.default_rng(seed)
    predictions, targets = [], []
    for n, image_id in enumerate(random.choice(10**6, images, replace=False).tolist()):
        height, width = random.integers(90, 220, 2).tolist()
        grid = float(random.choice([0.37, 1, 4]))

        def boxes(count, height=height, width=width, grid=grid):
            corner = random.random((count, 2)) * [width * 0.7, height * 0.7]
            boxes = np.concatenate([corner, corner + random.random((count, 2)) * 150], axis=1)
            return np.round(np.minimum(boxes, [width, height] * 2) / grid) * grid

        def masks(boxes, height=height, width=width):
            canvas = np.zeros((len(boxes), height, width), dtype=bool)
            for mask, (left, top, right, bottom) in zip(canvas, boxes.astype(int), strict=True):
                inside = mask[top:bottom, left:right]
                inside[:] = random.random(inside.shape) < random.choice([0.9, 1])
            return [encode(mask) for mask in canvas]

        truth, guess = boxes((5, 12, 1, 0)[n % 4]), boxes((40, 140, 0, 9)[n % 4])
        truth_labels, labels = random.integers(0, classes, len(truth)), random.integers(0, classes, len(guess))
        if len(truth) and len(guess):
            copied, moved = random.integers(0, len(truth), len(guess)), random.random(len(guess)) < 0.5
            near = truth[copied] + random.integers(-2, 3, guess.shape) * grid
            guess = np.where(moved[:, None], near.clip(0, [width, height] * 2), guess)
            guess[:, 2:] = np.maximum(guess[:, :2], guess[:, 2:])
            labels = np.where(moved & (random.random(len(guess)) < 0.8), truth_labels[copied], labels)
        prediction = {
            "image_id": image_id,
            "boxes": torch.from_numpy(guess).float(),
            "scores": torch.from_numpy(random.integers(0, 8, len(guess)) / 8).float(),
            "labels": torch.from_numpy(labels),
        }
        sizes = truth[:, 2:] - truth[:, :2]
        target = {
            "image_id": image_id,
            "original_size": (height, width),
            "boxes": np.concatenate([truth[:, :2], sizes], axis=1),
            "labels": truth_labels,
            "area": sizes.prod(axis=1),
            "iscrowd": random.random(len(truth)) < 0.2,
        }
        if segm:
            prediction["masks"], target["masks"] = masks(guess), masks(truth)
        predictions.append(prediction)
        targets.append(target)
    return [f"class {label}" for label in range(classes)], predictions, targets


def perfect(targets):
    """Predictions equal to the ground truth without the crowds."""
    predictions = []
    for target in targets:
        keep = ~torch.as_tensor(target["iscrowd"])
        boxes = torch.as_tensor(target["boxes"])[keep]
        prediction = {
            "image_id": target["image_id"],
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.ones(len(boxes)),
            "labels": torch.as_tensor(target["labels"])[keep],
        }
        if "masks" in target:
            prediction["masks"] = [mask for mask, kept in zip(target["masks"], keep, strict=True) if kept]
        predictions.append(prediction)
    return predictions


def one_object(image_id, objects=1):
    return {
        "image_id": image_id,
        "original_size": (50, 50),
        "boxes": torch.tensor([[10, 10, 20, 20]], dtype=torch.float64)[:objects],
        "labels": torch.tensor([0])[:objects],
        "area": torch.tensor([400.0])[:objects],
        "iscrowd": torch.tensor([False])[:objects],
    }


def without_detections(prediction):
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    return prediction | empty | ({"masks": []} if "masks" in prediction else {})


def assert_equal(first, second, tolerance=1e-12):
    assert list(first) == list(second)
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=0, atol=tolerance)


def reference(ground_truth, results, iou_type, without_boxes):
    """The twelve numbers from pycocotools alone, fed with the dicts of the files; -1 becomes nan."""
    results = [
        {k: v for k, v in r.items() if k in ("image_id", "category_id", "bbox", "segmentation", "score")}
        for r in copy.deepcopy(results)
    ]
    api = COCO()
    api.dataset = copy.deepcopy(ground_truth)
    api.createIndex()
    if iou_type == "segm":
        results = [r | {"segmentation": api.annToRLE(r)} for r in results]
    if without_boxes:  # else loadRes takes the box's area for the mask's
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    evaluation = COCOeval(api, api.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    per_class = [p[p > -1].mean() if (p > -1).any() else np.nan for p in evaluation.eval["precision"][..., 0, 2].T]
    return np.where(evaluation.stats == -1, np.nan, evaluation.stats), per_class


@cache
def read_and_score(folder: Path, truth_file: str, result_file: str, iou_type: str):
    """Ground truth, results and pycocotools' numbers of two files, which all backends are compared with. Read-only."""
    ground_truth = json.loads((folder / truth_file).read_text())
    for image in ground_truth["images"]:
        image["id"] = int(image["id"])  # text in gt_ignore_test.json, as is the image of its crowd
    for annotation in ground_truth["annotations"]:
        annotation["image_id"] = int(annotation["image_id"])
    results = json.loads((folder / result_file).read_text())
    return ground_truth, results, reference(ground_truth, results, iou_type, without_boxes=iou_type == "segm")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("truth_file", "result_file", "iou_type"), RESULT_FILES)
def test_result_files_score_as_with_pycocotools_alone(shared_data, backend, truth_file, result_file, iou_type):
    folder = shared_data("coco-eval")
    ground_truth, results, (stats, per_class) = read_and_score(folder, truth_file, result_file, iou_type)
    names, predictions, targets = from_files(ground_truth, results, iou_type == "segm")
    numbers = score(names, predictions, targets, iou_type, backend)
    np.testing.assert_allclose([numbers[key] for key in TWELVE], stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose([numbers[f"AP/{name}"] for name in names], per_class, rtol=0, atol=1e-12)
    assert list(numbers) == [*TWELVE, *(f"AP/{name}" for name in names), "images"]
    assert numbers["images"] == len(ground_truth["images"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(shared_data, iou_type, backend):
    folder = shared_data("coco-eval")
    ground_truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    # In float64: some of these boxes overlap the truth by exactly a threshold, and in float32 mAP is 0.0005 lower.
    numbers = score(*from_files(ground_truth, results, iou_type == "segm"), iou_type, backend)
    assert [round(numbers[key], 3) for key in TWELVE] == list(PUBLISHED[iou_type])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(8))
def test_backends_agree(seed, iou_type):
    problem = random_problem(seed, segm=iou_type == "segm")
    *fast, exact = (score(*problem, iou_type, backend) for backend in BACKENDS)
    for numbers in fast:
        assert_equal(numbers, exact)
    assert 0 < exact["mAP50"] < 1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_groups_of_classes_do_not_matter(monkeypatch, iou_type):
    names, predictions, targets = random_problem(9, segm=iou_type == "segm")
    predictions = [p | {"labels": 2 * p["labels"]} for p in predictions]
    targets = [t | {"labels": 2 * t["labels"]} for t in targets]
    names = [*names, "without objects 1", "without objects 2"]  # classes 1 and 3 have none
    once = score(names, predictions, targets, iou_type, "hotcoco")
    assert_equal(once, score(names, predictions, targets, iou_type, "pycocotools"))
    monkeypatch.setattr(coco_backends, "DETECTIONS_AT_ONCE", 1)
    assert_equal(score(names, predictions, targets, iou_type, "hotcoco"), once, 0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_predictions_equal_to_ground_truth_are_perfect(shared_data, split, iou_type):
    annotations = shared_data("coco-free") / "annotations" / f"instances_{split}.json"
    ground_truth = json.loads(annotations.read_text())
    names, _, targets = from_files(ground_truth, [], iou_type == "segm")
    for backend in BACKENDS:
        numbers = score(names, perfect(targets), targets, iou_type, backend)
        assert all(numbers[key] == pytest.approx(1, abs=1e-12) for key in TWELVE if key not in ("AR1", "AR10"))
        present = {a["category_id"] for a in ground_truth["annotations"] if not a["iscrowd"]}
        for category in ground_truth["categories"]:
            expected = 1.0 if category["id"] in present else np.nan
            assert numbers[f"AP/{category['name']}"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert numbers["images"] == len(ground_truth["images"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_detections_of_an_image_count_where_it_is_large(backend):
    """An image of 130 objects of each class, all found: 100 of them count, or 200."""
    corners = np.array([(x, y) for x in range(0, 260, 20) for y in range(0, 200, 20)], np.float64)
    boxes = np.concatenate([corners, np.full((130, 2), 12.0)], axis=1)
    labels = np.repeat([0, 1], 130)
    target = {
        "image_id": 1,
        "original_size": (400, 600),
        "boxes": np.concatenate([boxes, np.add(boxes, [0, 200, 0, 0])]),
        "labels": labels,
        "area": np.full(260, 144.0),
        "iscrowd": torch.zeros(260, dtype=torch.bool),
    }
    for counted, expected in ((100, 100 / 130), (200, 1.0)):
        metric = COCODetectionMetric(["a", "b"], backend=backend, detections=counted)
        metric.update(perfect([target]), [target])
        numbers = metric.compute()
        assert set(metric.scores) == {*TWELVE, "images"} - {"AR100"} | {f"AR{counted}"}
        assert numbers[f"AR{counted}"] == pytest.approx(expected, abs=1e-12)
        assert numbers["mAP"] == pytest.approx(expected, abs=0.01)
        matches = match(metric.scored, 2, "bbox", backend, counted)
        assert len(matches.scores) == 2 * min(counted, 130)
    with pytest.raises(ValueError, match="detections is 10, expected more than 10"):
        COCODetectionMetric(["a"], backend=backend, detections=10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_predictions_score_zero(backend, iou_type):
    names, predictions, targets = random_problem(3, segm=iou_type == "segm")
    with_some = score(names, predictions, targets, iou_type, backend)
    numbers = score(names, [without_detections(p) for p in predictions], targets, iou_type, backend)
    assert numbers["mAP"] == numbers["AR100"] == 0
    for key in (*TWELVE, *(f"AP/{name}" for name in names)):  # defined or not does not depend on the predictions
        assert np.isnan(numbers[key]) if np.isnan(with_some[key]) else numbers[key] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_ground_truth_is_undefined(backend):
    names, predictions, targets = random_problem(3)
    targets = [
        t | {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "area": np.zeros(0), "iscrowd": np.zeros(0)}
        for t in targets
    ]
    for numbers in (score(names, predictions, targets, "bbox", backend), score(names, [], [], "bbox", backend)):
        assert all(np.isnan(value) for key, value in numbers.items() if key != "images")
    assert score(names, predictions, targets, "bbox", backend)["images"] == 6
    assert score(names, [], [], "bbox", backend)["images"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_crowds_are_undefined_and_shield_detections(backend):
    crowd = {
        "image_id": 1,
        "original_size": (100, 100),
        "boxes": np.array([[0, 0, 50, 50], [60, 60, 30, 30.0]]),
        "labels": np.array([0, 0]),
        "area": np.array([2500, 900.0]),
        "iscrowd": np.array([1, 0]),
    }
    hit = torch.tensor([[60, 60, 90, 90.0]])
    inside_crowd = torch.tensor([[5, 5, 20, 20], [20, 20, 40, 40.0]])
    boxes = torch.cat([inside_crowd, hit])
    found = {"image_id": 1, "boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([0, 0, 0])}
    assert score(["thing"], [found], [crowd], "bbox", backend)["mAP"] == pytest.approx(1)
    only = crowd | {"iscrowd": np.array([1, 1])}
    assert np.isnan(score(["thing"], [found], [only], "bbox", backend)["mAP"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_false_positives_on_images_without_objects_count(backend):
    target, empty = one_object(image_id=9), one_object(image_id=5, objects=0)
    prediction = perfect([target])[0]
    noise = prediction | {"image_id": 5, "scores": torch.tensor([2.0])}
    assert score(["thing"], [prediction], [target], "bbox", backend)["mAP"] == pytest.approx(1)
    assert score(["thing"], [prediction, noise], [target, empty], "bbox", backend)["mAP"] == pytest.approx(0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_annotation_is_not_lost(backend):
    """An annotation with id 0 scores as missed in pycocotools; numbering is ours and starts at 1."""
    target = one_object(image_id=0)
    assert score(["thing"], perfect([target]), [target], "bbox", backend)["mAP"] == pytest.approx(1)


def test_order_and_repetition_of_images_do_not_matter():
    names, predictions, targets = random_problem(5)
    once = score(names, predictions, targets)
    assert once["images"] == 6
    assert_equal(score(names, predictions[::-1], targets[::-1]), once, 0)
    metric = COCODetectionMetric(names)
    for chosen in ([0, 1, 2, 0], [2, 3], [4, 5, 0, 1]):
        metric.update([predictions[i] for i in chosen], [targets[i] for i in chosen])
    assert_equal(metric.compute(), once, 0)
    assert_equal(metric.compute(), once, 0)
    metric.reset()
    assert metric.compute()["images"] == 0


def test_tensors_and_arrays_of_any_precision_are_equal():
    names, predictions, targets = random_problem(6)
    as_tensors = [{k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in t.items()} for t in targets]
    as_arrays = [{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in p.items()} for p in predictions]
    half = [p | {"scores": p["scores"].bfloat16()} for p in predictions]  # eighths are exact in bfloat16
    once = score(names, predictions, targets)
    for found, truths in ((as_arrays, as_tensors), (half, targets)):
        assert_equal(score(names, found, truths), once, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_and_masks_are_scored_together(backend):
    problem = random_problem(8, segm=True)
    boxes, masks = (score(*problem, iou_type, backend) for iou_type in ("bbox", "segm"))
    both = score(*problem, "both", backend)
    wanted = boxes | {f"mask_{name}": value for name, value in masks.items() if name != "images"}
    assert sorted(both) == sorted(wanted) and boxes["mAP"] != masks["mAP"]
    assert_equal({name: both[name] for name in wanted}, wanted, 0)
    metric = COCODetectionMetric(problem[0], "both", backend, prefix="x_")
    assert [*metric.scores, *metric.class_scores] == [
        *(f"x_{kind}{name}" for kind in ("", "mask_") for name in TWELVE),
        "x_images",
        *(f"x_{kind}AP/{name}" for kind in ("", "mask_") for name in problem[0]),
    ]
    assert set(metric.compute()) == {*metric.scores, *metric.class_scores}


def test_own_masks_are_not_checked_again(monkeypatch):
    """Only those that all come from our encoder are believed, and their areas with them."""
    names, predictions, targets = random_problem(7, segm=True)
    once = score(names, predictions, targets, "segm")
    checked = []
    monkeypatch.setattr(
        packed_images, "mask_areas", lambda coded, pixels: checked.extend(coded) or mask_areas(coded, pixels)
    )
    own = [p | {"masks": [EncodedMask(m, int(coco_mask.area(m))) for m in p["masks"]]} for p in predictions]
    assert_equal(score(names, own, targets, "segm"), once, 0)
    assert sorted(checked) == sorted(mask["counts"] for target in targets for mask in target["masks"])
    checked.clear()
    mixed = own[0] | {"masks": [*own[0]["masks"][:-1], predictions[0]["masks"][-1]]}
    score(names, [mixed], targets[:1], "segm")
    assert checked == [mask["counts"] for mask in (*mixed["masks"], *targets[0]["masks"])]
    larger = own[0] | {"masks": [EncodedMask(m, m.area + 10**6) for m in own[0]["masks"]]}
    assert pack(larger, targets[0], 3, with_masks=True).detections["mask_area"].min() >= 10**6
    with pytest.raises(ValueError, match="predicted masks must have the size"):
        pack(own[0], targets[0] | {"original_size": (1, 2)}, 3, with_masks=True)


def test_mask_counts_may_be_text():
    names, predictions, targets = random_problem(7, segm=True)
    once = score(names, predictions, targets, "segm")
    as_text = [p | {"masks": [m | {"counts": m["counts"].decode()} for m in p["masks"]]} for p in predictions]
    assert_equal(score(names, as_text, targets, "segm"), once, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_printed(capfd, backend):
    score(*random_problem(0), "bbox", backend)
    assert capfd.readouterr() == ("", "")


def bad_inputs():
    def prediction(**changes):
        return lambda p, t: (p | changes, t)

    def target(**changes):
        return lambda p, t: (p, t | changes)

    mask = encode(np.ones((20, 30)))
    return {
        "image 7.*4 of 8 numbers": prediction(boxes=torch.full((2, 4), 1).float() / torch.tensor([1, 1, 0, 0])),
        "image 7: scores: 1 of 2": prediction(scores=torch.tensor([0.5, torch.nan])),
        "image 7: scores must have shape": prediction(scores=torch.ones(3)),
        "image 7: predicted boxes must be xyxy": prediction(boxes=torch.tensor([[5, 5, 4, 9], [0, 0, 1, 1.0]])),
        r"image 7: predicted boxes must have shape \(N, 4\)": prediction(boxes=torch.ones(4, 2)),
        r"image 7: predicted labels must be integers in 0\.\.1, got 2": prediction(labels=torch.tensor([0, 2])),
        r"image 7: annotated labels .* got -1": target(labels=np.array([-1])),
        "image 7: area": target(area=np.array([np.nan])),
        "prediction of image 8 is paired with target of 7": prediction(image_id=8),
        "image 7: predicted masks must be 2": prediction(masks=[mask]),
        r"image 7: predicted masks must have the size \(20, 30\)": prediction(masks=[mask, mask | {"size": [30, 20]}]),
        "image 7: predicted masks: the runs": prediction(masks=[mask, mask | {"counts": b"55"}]),
        "image 7: annotated masks must be compressed": target(masks=[mask | {"counts": [600]}]),
    }


@pytest.mark.parametrize("message", bad_inputs())
def test_bad_input_is_refused_and_leaves_no_trace(message):
    mask = encode(np.ones((20, 30)))
    prediction = {
        "image_id": 7,
        "boxes": torch.tensor([[0, 0, 30, 20], [0, 0, 5, 5.0]]),
        "scores": torch.tensor([0.9, 0.8]),
        "labels": torch.tensor([0, 1]),
        "masks": [mask, mask],
    }
    target = {
        "image_id": 7,
        "original_size": (20, 30),
        "boxes": np.array([[0, 0, 30, 20.0]]),
        "labels": np.array([0]),
        "area": np.array([600.0]),
        "iscrowd": np.array([False]),
        "masks": [mask],
    }
    metric = COCODetectionMetric(["a", "b"], "segm")
    with pytest.raises(ValueError, match=message):
        metric.update(*([item] for item in bad_inputs()[message](prediction, target)))
    assert metric.compute()["images"] == 0
    metric.update([prediction], [target])
    assert metric.compute()["AP/a"] == pytest.approx(1)
    with pytest.raises(ValueError, match="image id 7 came with two different ground truths"):
        metric.update([prediction], [target | {"area": np.array([601.0])}])
    without = {key: value for key, value in prediction.items() if key != "masks"}
    with pytest.raises(ValueError, match="needs the key 'masks'"):
        metric.update([without], [target])


@pytest.mark.parametrize("counts", [b"", b"55", b"oooooooo0"])
def test_annotated_masks_that_do_not_add_up_are_refused_before_scoring(counts):
    """In groups of images of different sizes; the culprit is named."""
    names, predictions, targets = random_problem(1, 9, segm=True)
    metric = COCODetectionMetric(names, "both")
    metric.update(predictions, targets)
    metric.compute()
    broken = [t | {"image_id": t["image_id"] + 10**7} for t in targets]
    broken[5]["masks"] = [*broken[5]["masks"][:-1], broken[5]["masks"][-1] | {"counts": counts}]
    metric.update([p | {"image_id": p["image_id"] + 10**7} for p in predictions], broken)
    with pytest.raises(
        ValueError, match=f"image {broken[5]['image_id']}: annotated masks: the runs of a mask do not add"
    ):
        metric.compute()


def test_options_are_checked():
    for arguments in (([],), (["a", "a"],), (["a"], "keypoints"), (["a"], "bbox", "torch")):
        with pytest.raises(ValueError, match="must be"):
            COCODetectionMetric(*arguments)


def test_missing_backend(monkeypatch):
    absent = set()

    def missing(name):
        if name.split(".")[0] in absent:
            raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(coco_backends.importlib, "import_module", missing)
    for name in BACKENDS:
        assert COCODetectionMetric(["a"]).backend == name
        absent.add(name)
        with pytest.raises(RuntimeError, match=rf"^no COCO .*No module named '{name}.*pip install {name[:6]}"):
            COCODetectionMetric(["a"], backend=name)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_records_survive_the_journey(iou_type):
    names, predictions, targets = random_problem(2, 7, segm=iou_type == "segm")
    records = [pack(p, t, len(names), iou_type == "segm") for p, t in zip(predictions, targets, strict=True)]
    for chosen in (records, records[3:4], []):  # image 3 is empty
        joined = join(chosen)
        small = pickle.dumps(joined)
        assert len(small) < 2000 + sum(
            r.detections.nbytes
            + r.ground_truths.nbytes
            + sum(map(len, r.detection_masks + r.ground_truth_masks))
            + 4 * len(r.detection_masks + r.ground_truth_masks)
            + 40
            for r in chosen
        )
        for found, wanted in zip(split(pickle.loads(small)), chosen, strict=True):
            for field in dataclasses.fields(wanted):
                assert np.array_equal(getattr(found, field.name), getattr(wanted, field.name))
                assert type(getattr(found, field.name)) is type(getattr(wanted, field.name))


def _share(rank, processes, images):
    """Images of one process under a sampler that repeats the first images until all shares are equal."""
    return [i % images for i in range(rank, -(-images // processes) * processes, processes)]


def _process(rank, processes, folder):
    """Writes what this process computes for N = 5, 7, 1 images, shared with padding, or all in the last process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=processes
    )
    outcomes = []
    for iou_type in ("bbox", "both"):
        for images in (5, 7, 1):
            names, predictions, targets = random_problem(images, images, segm=iou_type == "both")
            padded = _share(rank, processes, images)
            for chosen in (padded, padded if rank == processes - 1 else []):  # then the others are without data
                metric = COCODetectionMetric(names, iou_type)
                metric.update([predictions[i] for i in chosen], [targets[i] for i in chosen])
                outcomes.append(metric.compute())

    def fail(*_):
        raise ZeroDivisionError("broken on purpose")

    evaluate, coco_module.evaluate = coco_module.evaluate, fail
    try:
        metric.compute()
    except Exception as error:
        outcomes.append(f"{type(error).__name__}: {error}")
    coco_module.evaluate = evaluate
    outcomes.append(metric.compute())  # the processes are still in step
    torch.save(outcomes, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_number_of_processes_does_not_matter(tmp_path, processes):
    context = mp.start_processes(_process, (processes, tmp_path), processes, join=False, start_method="forkserver")
    deadline = time.monotonic() + 60
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("processes hang")
    outcomes = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    expected = []
    for iou_type in ("bbox", "both"):
        for images in (5, 7, 1):
            names, predictions, targets = random_problem(images, images, segm=iou_type == "both")
            alone = sorted(set(_share(processes - 1, processes, images)))
            for chosen in (range(images), alone):
                expected.append(score(names, [predictions[i] for i in chosen], [targets[i] for i in chosen], iou_type))
    for rank, seen in enumerate(outcomes):
        for found, wanted in zip(seen[: len(expected)], expected, strict=True):
            assert_equal(found, wanted)
        broken, after = seen[len(expected) :]
        assert broken.endswith("ZeroDivisionError: broken on purpose")
        assert broken.startswith("ZeroDivisionError" if rank == 0 else "RuntimeError: COCO evaluation failed")
        assert_equal(after, expected[-1])
