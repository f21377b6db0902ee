"""Run folders are read as what they are compared by, and compared on the same data only."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.comparison import build_arm, compare, read_run, require_same_data
from tasks.errors import TaskError
from tasks.metrics import COCODetectionMetric, SegmentationMetric
from tasks.run.detection_file import ScoredDetections
from tasks.run.evaluation_file import SegmentationEvaluation
from tests.tasks.metrics.test_metric_coco import random_problem

PROBLEM = random_problem(3, segm=True)


def write_detector(folder: Path, seed: int = 0, command: str = "", without: int = 0, **summary: Any) -> Path:
    """A run of a detector: boxes and masks, scores of its own."""
    names, found, targets = PROBLEM
    random = np.random.default_rng(seed)
    predictions = [one | {"scores": random.random(len(one["scores"]), np.float32)} for one in found]
    metric = COCODetectionMetric(names, "both")
    metric.update(predictions[without:], targets[without:])
    logged = {f"val/{name}": None if value != value else value for name, value in metric.compute().items()}
    files = [f"/data/{record.image_id}.jpg" for record in metric.scored]
    folder.mkdir()
    kept = ScoredDetections(metric.class_names, metric.scored, files, ("bbox", "segm"), metric.backend)
    kept.write(folder / f"evaluation{command}.npz")
    facts = {"task": "detect", "headline": "val/mAP", "direction": "max", **logged, **summary}
    (folder / f"summary{command}.json").write_text(json.dumps(facts))
    return folder


def write_segmentor(folder: Path, targets: list[torch.Tensor], names: list[str], seed: int) -> Path:
    """A run of a segmentor on five images."""
    torch.manual_seed(seed)
    predictions = [target.where(torch.rand(target.shape) < 0.6, 3 - target) for target in targets]
    metric = SegmentationMetric(names)
    metric.update(predictions, targets)
    images = [(place, f"/data/{place}.png") for place in range(5)]
    folder.mkdir()
    kept = SegmentationEvaluation.of(names, images, metric.image_areas(), metric.total_confusion())
    kept.write(folder / "evaluation.npz")
    logged = {f"val/{name}": value for name, value in metric.compute().items()}
    facts = {"task": "segment", "headline": "val/mIoU", "direction": "max", **logged}
    (folder / "summary.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_trained_run_is_read(task: str, trained: Callable[[str], Path]) -> None:
    folder = trained(task)
    summary = json.loads((folder / "summary.json").read_text())
    run = read_run(folder)
    per_class = {"detect": "AP", "segment": "IoU"}[task]
    logged = [summary[summary["headline"]], *(summary[f"val/{per_class}/{name}"] for name in run.class_names)]
    np.testing.assert_allclose(run.scores, [np.nan if value is None else value for value in logged], rtol=0, atol=1e-12)
    assert len(run.images) == 7 == len(run.score_images())
    found = compare(*[build_arm("one", [run], resamples=5), [build_arm("other", [run], resamples=5)]])[0]
    assert found.estimate.value[0] == 0 and found.p_corrected == 1


@pytest.mark.parametrize("score", ["mAP", "mAP50", "mAP75", "mask_mAP", "mask_mAP50", "mask_mAP75"])
def test_a_detector_is_read_by_any_of_its_scores(score: str, tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "run", headline=f"val/{score}")
    summary = json.loads((folder / "summary.json").read_text())
    for run in (read_run(folder), read_run(folder, score)):
        assert run.score == score and abs(run.scores[0] - summary[f"val/{score}"]) < 1e-12


def test_a_validation_is_read_where_nothing_was_trained(tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "run", command=".validate")
    assert read_run(folder).folder == folder


def test_two_methods_are_compared_on_their_seeds(tmp_path: Path) -> None:
    runs = [read_run(write_detector(tmp_path / f"run{seed}", seed)) for seed in range(5)]
    arms = [build_arm(name, chosen, resamples=30) for name, chosen in (("a", runs[:2]), ("b", runs[2:]))]
    scores = [run.scores[0] for run in runs]
    found = compare(arms[0], [arms[1]])[0]
    assert found.estimate.value[0] == pytest.approx(np.mean(scores[2:]) - np.mean(scores[:2]))
    again = [build_arm("", chosen, resamples=30) for chosen in (runs[:2], runs[2:])]
    np.testing.assert_array_equal(compare(again[0], [again[1]])[0].estimate.p_value, found.estimate.p_value)
    assert str(found).startswith("b - a: ") and found.estimate.with_seeds


def test_runs_of_other_data_are_refused(tmp_path: Path) -> None:
    whole = read_run(write_detector(tmp_path / "whole"))
    fewer = read_run(write_detector(tmp_path / "fewer", without=1))
    masks = read_run(tmp_path / "whole", "mask_mAP")
    for runs, words in (
        ((whole, fewer), "whole and .*fewer were scored on different images: 6 and 5"),
        ((whole, masks), "are compared by different scores: mAP and mask_mAP"),
    ):
        with pytest.raises(TaskError, match=words):
            require_same_data(runs)
    torch.manual_seed(0)
    targets = [torch.randint(0, 4, (9, 8 + place)) for place in range(5)]
    changed = [targets[0].flip(0), *targets[1:]]
    changed[0][0, 0] = (changed[0][0, 0] + 1) % 4
    one, other, named = (
        read_run(write_segmentor(tmp_path / name, truth, list(names), seed=seed))
        for name, truth, names, seed in (
            ("1", targets, "abcd", 1),
            ("2", changed, "abcd", 2),
            ("3", targets, "abdc", 1),
        )
    )
    with pytest.raises(TaskError, match=r"1 and .*2 were scored on different ground truth of the same images"):
        build_arm("", [one, other])
    with pytest.raises(TaskError, match="different classes: number 3 is c and d"):
        require_same_data([one, named])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "run")
    with pytest.raises(TaskError, match=r"run cannot be compared by AR100, expected one of mAP, .*, mask_mAP75$"):
        read_run(folder, "AR100")
    write_detector(tmp_path / "other", 1)
    (folder / "evaluation.npz").write_bytes((tmp_path / "other" / "evaluation.npz").read_bytes())
    with pytest.raises(TaskError, match=r"evaluation.npz gives val/mAP 0\.\d+, the summary beside it says 0\.\d+"):
        read_run(folder)
    (folder / "evaluation.npz").unlink()
    with pytest.raises(TaskError, match=r"run has no evaluation.npz, which comparisons read"):
        read_run(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(TaskError, match=r"run has no summary.json; expected a run folder"):
        read_run(folder)
    segmentor = write_segmentor(tmp_path / "s", [torch.zeros(9, 9, dtype=torch.int64)] * 5, [*"abcd"], seed=1)
    with pytest.raises(TaskError, match="cannot be compared by mAcc, expected mIoU"):
        read_run(segmentor, "mAcc")
    single = read_run(write_detector(tmp_path / "single", without=5))
    with pytest.raises(TaskError, match="single was scored on 1 image, a comparison needs at least 2"):
        build_arm("", [single])
