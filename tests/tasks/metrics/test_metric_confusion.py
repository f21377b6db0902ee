import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from tasks.metrics import SegmentationMetric


def names(count):
    return [f"class {label}" for label in range(count)]


def random_maps(seed, images, classes, ignore=255):
    """Maps of odd sizes; class K-1 is never there, class K-2 is predicted only, class K-3 is annotated only."""
    random = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(images):
        height, width = random.integers(1, 60, 2)
        target = random.integers(0, classes - 2, (height, width))
        prediction = np.where(random.random((height, width)) < 0.6, target, random.integers(0, classes, target.shape))
        prediction[(prediction == classes - 1) | (prediction == classes - 3)] = classes - 2
        target = np.where(random.random((height, width)) < 0.2, ignore, target)
        predictions.append(torch.from_numpy(prediction))
        targets.append(torch.from_numpy(target))
    return predictions, targets


def score(predictions, targets, classes, ignore=255):
    metric = SegmentationMetric(names(classes), ignore)
    metric.update(predictions, targets)
    return metric.compute()


def slow_scores_by_image(predictions, targets, ignore):
    """Means over images and classes of the IoU of each class that an image's ground truth holds."""
    of_images, of_classes = [], {}
    for prediction, target in zip(predictions, targets, strict=True):
        counted = target != ignore
        ious = {}
        for k in target[counted].unique().tolist():
            annotated, predicted = (target == k) & counted, (prediction == k) & counted
            ious[k] = (annotated & predicted).sum().item() / (annotated | predicted).sum().item()
            of_classes.setdefault(k, []).append(ious[k])
        if ious:
            of_images.append(np.mean([*ious.values()]))
    return {
        "mIoU_image": np.mean(of_images),
        "mIoU_class": np.mean([np.mean(values) for values in of_classes.values()]),
        "mIoU_worst": np.mean(sorted(of_images)[: max(1, len(of_images) // 20)]),
    }


def slow_scores(predictions, targets, classes, ignore=255):
    """Pixel by pixel."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for prediction, target in zip(predictions, targets, strict=True):
        for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
            if t != ignore:
                confusion[t, p] += 1
    ious, recalls = [], []
    for k in range(classes):
        annotated, predicted, right = confusion[k].sum(), confusion[:, k].sum(), confusion[k, k]
        ious.append(right / (annotated + predicted - right) if annotated + predicted else np.nan)
        recalls.append(right / annotated if annotated else np.nan)
    scores = {
        "mIoU": np.nanmean(ious),
        "mAcc": np.nanmean(recalls),
        "aAcc": confusion.trace() / confusion.sum(),
        **slow_scores_by_image(predictions, targets, ignore),
        "classes": np.count_nonzero(~np.isnan(ious)),
        "images": len(targets),
    }
    return scores | {f"IoU/{name}": iou for name, iou in zip(names(classes), ious, strict=True)}, confusion


def assert_equal(first, second, tolerance=1e-12):
    assert list(first) == list(second)
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("classes", "ignore"), [(5, 255), (150, 255), (300, 65535), (5, -100), (5, 5), (6, 2), (6, 0)])
def test_equal_to_a_loop_over_pixels(classes, ignore):
    predictions, targets = random_maps(classes, 3, classes, ignore)
    metric = SegmentationMetric(names(classes), ignore)
    metric.update(predictions[:2], targets[:2])
    metric.update(predictions[2:], targets[2:])
    scores, confusion = slow_scores(predictions, targets, classes, ignore)
    assert_equal(metric.compute(), scores)
    assert metric.confusion.dtype == torch.int64
    np.testing.assert_array_equal(metric.confusion, confusion)
    metric.reset()
    assert_equal(metric.compute(), score([], [], classes))


def test_equal_to_mmseg():
    iou_metric = pytest.importorskip("mmseg.evaluation.metrics.iou_metric").IoUMetric
    classes = 12
    predictions, targets = random_maps(0, 5, classes)
    areas = [iou_metric.intersect_and_union(p, t, classes, 255) for p, t in zip(predictions, targets, strict=True)]
    totals = [sum(area) for area in zip(*areas, strict=True)]
    theirs = iou_metric.total_area_to_metrics(*totals, metrics=["mIoU"])
    ours = score(predictions, targets, classes)
    assert ours["aAcc"] == pytest.approx(float(theirs["aAcc"]), abs=1e-7)  # mmseg counts in float32
    assert ours["mIoU"] == pytest.approx(np.nanmean(theirs["IoU"]), abs=1e-7)
    assert ours["mAcc"] == pytest.approx(np.nanmean(theirs["Acc"]), abs=1e-7)
    np.testing.assert_allclose([ours[f"IoU/{name}"] for name in names(classes)], theirs["IoU"], rtol=0, atol=1e-7)
    doubles = iou_metric.total_area_to_metrics(*(total.double() for total in totals), metrics=["mIoU"])
    assert ours["mIoU"] == pytest.approx(np.nanmean(doubles["IoU"]), abs=1e-12)
    assert ours["mAcc"] == pytest.approx(np.nanmean(doubles["Acc"]), abs=1e-12)
    assert np.isnan(theirs["IoU"][-1])
    assert np.isnan(theirs["Acc"][-2])


@pytest.mark.parametrize(("data", "masks", "classes"), [("ade20k-sample", 3, 150), ("coco-sem-free", 53, 133)])
def test_identity_is_perfect_on_real_masks(shared_data, data, masks, classes):
    predictions, targets = [], []
    for path in sorted((shared_data(data) / "annotations").rglob("*.png")):
        label = np.asarray(Image.open(path)).astype(np.int64) - 1  # 0 = other -> ignore, k -> k - 1
        targets.append(torch.from_numpy(np.where(label < 0, 255, label).astype(np.uint8)))
        predictions.append(torch.from_numpy(label.clip(0)))
    scores = score(predictions, targets, classes)
    assert scores["mIoU"] == scores["mAcc"] == scores["aAcc"] == 1.0
    assert scores["images"] == masks
    present = {int(label) for target in targets for label in target.unique() if label != 255}
    assert scores["classes"] == len(present)
    assert all(np.isnan(scores[f"IoU/class {k}"]) == (k not in present) for k in range(classes))


def test_labels_of_any_integer_type_are_equal():
    predictions, targets = random_maps(1, 2, 9)
    expected = score(predictions, targets, 9)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert_equal(score([p.to(dtype) for p in predictions], [t.to(dtype) for t in targets], 9), expected, 0)


def test_ignored_image_contributes_nothing():
    predictions, targets = random_maps(2, 2, 6)
    expected = score(predictions, targets, 6)
    with_ignored = score([*predictions, predictions[0]], [*targets, torch.full_like(targets[0], 255)], 6)
    assert with_ignored.pop("images") == expected.pop("images") + 1
    assert_equal(with_ignored, expected, 0)


def test_worst_case_is_a_twentieth_of_the_images():
    """Image i of 40 has i wrong pixels of 100."""
    targets = [torch.zeros(10, 10, dtype=torch.uint8) for _ in range(40)]
    predictions = [(torch.arange(100) < wrong).long().view(10, 10) for wrong in range(40)]
    scores = score(predictions, targets, 2)
    assert scores["mIoU_worst"] == pytest.approx((0.61 + 0.62) / 2, abs=1e-15)
    assert scores["mIoU_image"] == scores["mIoU_class"] == pytest.approx(1 - 0.195, abs=1e-15)
    metric = SegmentationMetric(names(2))
    metric.update(predictions, targets)
    areas = metric.image_areas()
    np.testing.assert_array_equal(areas.intersection, [[100 - wrong, 0] for wrong in range(40)])
    np.testing.assert_array_equal(areas.union, [[100, wrong] for wrong in range(40)])


def test_inference_mode_may_come_and_go():
    predictions, targets = random_maps(4, 2, 6)
    metric = SegmentationMetric(names(6))
    with torch.inference_mode():
        metric.reset()
        metric.update(predictions[:1], targets[:1])
    metric.update(predictions[1:], targets[1:])
    assert_equal(metric.compute(), score(predictions, targets, 6), 0)


def test_no_pixel_is_undefined():
    for scores in (score([], [], 3), score([torch.zeros(2, 2).long()], [torch.full((2, 2), 255)], 3)):
        undefined = ("mIoU", "mAcc", "aAcc", "mIoU_image", "mIoU_class", "mIoU_worst", "IoU/class 0", "IoU/class 2")
        assert all(np.isnan(scores[key]) for key in undefined)
        assert scores["classes"] == 0


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (3, 0, r"prediction must be in 0\.\.2, got 3"),
        (255, 0, r"prediction must be in 0\.\.2, got 255"),
        (-1, 0, r"prediction must be in 0\.\.2, got -1"),
        (0, 3, r"target must be in 0\.\.2 or 255 \(ignore\), got 3"),
        (0, 200, r"target must be in 0\.\.2 or 255 \(ignore\), got 200"),
        (0, 256, r"target must be in 0\.\.2 or 255 \(ignore\), got 256"),
        (0, -1, r"target must be in 0\.\.2 or 255 \(ignore\), got -1"),
    ],
)
def test_label_out_of_range_is_refused(prediction, target, message):
    metric = SegmentationMetric(names(3))
    predictions, targets = torch.zeros(2, 4, 5, dtype=torch.int64), torch.zeros(2, 4, 5, dtype=torch.int64)
    predictions[1, 3, 2], targets[1, 3, 2] = prediction, target
    with pytest.raises(ValueError, match=message):
        metric.update(list(predictions), list(targets))
    assert metric.compute()["images"] == metric.confusion.sum() == 0


def test_unfit_maps_are_refused():
    metric = SegmentationMetric(names(3))
    good = torch.zeros(4, 5, dtype=torch.int64)
    for prediction, target in ((good, good.T), (good[None], good[None]), (good[:0], good[:0])):
        with pytest.raises(ValueError, match="same size"):
            metric.update([prediction], [target])
    with pytest.raises(ValueError, match="prediction must hold integer labels"):
        metric.update([good.float()], [good])
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        metric.update([good], [good, good])
    for class_names, ignore in (([], 255), (["a", "a"], 255), (["a"], 10**9)):
        with pytest.raises(ValueError, match="must be"):
            SegmentationMetric(class_names, ignore)


def _process(rank, processes, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), rank=rank, world_size=processes
    )
    outcomes = []
    for images in (5, 7, 1):
        predictions, targets = random_maps(images, images, 8)
        metric = SegmentationMetric(names(8))
        metric.update(predictions[rank::processes], targets[rank::processes])  # nothing for some when images = 1
        metric.compute()
        outcomes.append(metric.compute())
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
    expected = [score(*random_maps(images, images, 8), 8) for images in (5, 7, 1)]
    for rank in range(processes):
        for found, wanted in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            assert_equal(found, wanted, 0)
