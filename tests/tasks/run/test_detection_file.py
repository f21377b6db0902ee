"""`evaluation.npz` of a detector is read back as it was written, and gives the logged scores."""

from pathlib import Path

import numpy as np
import pytest

from tasks.comparison import WeightedAP
from tasks.errors import TaskError
from tasks.metrics import COCODetectionMetric
from tasks.metrics.matches import Matches
from tasks.run.detection_file import DetectionEvaluation, ScoredDetections
from tasks.run.evaluation_file import EVALUATION
from tests.tasks.metrics.test_metric_coco import random_problem

KINDS = {"bbox": "", "segm": "mask_"}


def scored(order: list[int], seed: int = 0) -> tuple[ScoredDetections, dict[str, float]]:
    """What is kept of six images that were seen in an order, and their numbers."""
    names, predictions, targets = random_problem(seed, segm=True)
    metric = COCODetectionMetric(names, "both")
    metric.update([predictions[place] for place in order], [targets[place] for place in order])
    numbers = metric.compute()
    files = [f"/data/val/{record.image_id:07}.jpg" for record in metric.scored]
    return ScoredDetections(metric.class_names, metric.scored, files, ("bbox", "segm"), metric.backend), numbers


def test_it_is_read_as_written_and_gives_the_logged_scores(tmp_path: Path) -> None:
    made, numbers = scored([4, 0, 5, 2, 1, 3])
    made.write(tmp_path / EVALUATION)
    read, expected = DetectionEvaluation.read(tmp_path / EVALUATION), made.matched()
    for name in ("class_names", "images", "image_ids"):
        assert getattr(read, name) == getattr(expected, name)
    assert [*read.image_ids] == sorted(read.image_ids) and read.images[0] == f"{read.image_ids[0]:07}.jpg"
    assert [*read.matches] == [*KINDS]
    for kind, prefix in KINDS.items():
        for name in Matches.__dataclass_fields__:
            one, other = (getattr(evaluation.matches[kind], name) for evaluation in (read, expected))
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        found = WeightedAP(read.matches[kind], 6).scores(np.ones(6, np.int64))
        logged = [numbers[f"{prefix}{name}"] for name in ("mAP", *(f"AP/{name}" for name in read.class_names))]
        np.testing.assert_allclose(found, logged, rtol=0, atol=1e-12)


def test_the_order_in_which_images_were_seen_changes_no_byte(tmp_path: Path) -> None:
    for number, order in enumerate(([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4])):
        scored(order)[0].write(tmp_path / f"{number}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()


def test_large_ids_and_double_precision_are_kept(tmp_path: Path) -> None:
    names, predictions, targets = random_problem(1)
    for place, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        prediction["image_id"] = target["image_id"] = 10**25 + place
        prediction["scores"] = prediction["scores"].double() / 3
    metric = COCODetectionMetric(names)
    metric.update(predictions, targets)
    metric.compute()
    ScoredDetections(metric.class_names, metric.scored, ["x"] * 6, ("bbox",), metric.backend).write(tmp_path / "e.npz")
    read = DetectionEvaluation.read(tmp_path / "e.npz")
    assert read.image_ids == tuple(10**25 + place for place in range(6)) and [*read.matches] == ["bbox"]
    assert set(read.matches["bbox"].scores) <= {number / 24 for number in range(8)}


def test_half_a_million_detections_have_a_few_megabytes(tmp_path: Path) -> None:
    random, count = np.random.default_rng(0), 500_000
    starts = np.linspace(0, count, 81).astype(np.int64)
    scores = np.concatenate([np.sort(random.beta(1, 9, 6250).astype(np.float32))[::-1] for _ in range(80)])
    quality = random.random(count) * (random.random(count) < 0.1) * 1.2
    matched = quality > np.linspace(0.5, 0.95, 10)[:, None]
    images, truths = random.integers(0, 5000, count), np.arange(15_000)
    matches = Matches(
        starts, scores.astype(float), images, matched, matched & False, truths % 5000, truths % 80, truths % 7 + 1
    )
    names = tuple(f"{image:012}.jpg" for image in range(5000))
    path = tmp_path / EVALUATION
    DetectionEvaluation(tuple(map(str, range(80))), names, tuple(range(5000)), {"bbox": matches}).write(path)
    assert path.stat().st_size < 4e6


def test_what_is_no_evaluation_of_a_detector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / EVALUATION
    scored([0, 1, 2, 3, 4, 5])[0].write(path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TaskError, match=r"cannot be read as an evaluation .* of a run of tasks.detect"):
            DetectionEvaluation.read(path)
    np.savez(path, format=1, class_names=["a"], images=["x"], intersection=[[1]])
    with pytest.raises(TaskError, match=r"bbox_starts.* of a run of tasks.detect"):
        DetectionEvaluation.read(path)
