"""`evaluation.npz` is read back as it was written, and any choice of its images is scored as the metric scores them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.errors import TaskError
from tasks.metrics import SegmentationMetric
from tasks.run.evaluation_file import EVALUATION, SegmentationEvaluation
from tests.tasks.metrics.test_metric_confusion import names, random_maps

FILES = ["b/2.png", "a/10.png", "a/9.png", "b/é.png", "a/1.png", "a/c/1.png"]  # by their numbers 0, 1, ...


def scored(order: list[int], classes: int = 7) -> tuple[SegmentationEvaluation, list[torch.Tensor], list[torch.Tensor]]:
    """The evaluation of six images that were seen in an order, and their maps by number."""
    predictions, targets = random_maps(3, len(FILES), classes)
    metric = SegmentationMetric(names(classes))
    metric.update([predictions[image] for image in order], [targets[image] for image in order])
    seen = [(image, f"/data/split/{FILES[image]}") for image in order]
    made = SegmentationEvaluation.of(names(classes), seen, metric.image_areas(), metric.total_confusion())
    return made, predictions, targets


def test_every_choice_of_images_is_scored_as_by_the_metric(tmp_path: Path) -> None:
    made, predictions, targets = scored([4, 0, 5, 2, 1, 3])
    made.write(tmp_path / EVALUATION)
    read = SegmentationEvaluation.read(tmp_path / EVALUATION)
    assert read.images == tuple(FILES) and read.class_names == tuple(names(7))
    for choice in (None, [0, 1, 2, 3, 4, 5], [5], [3, 3, 0, 3, 1], np.random.default_rng(1).integers(0, 6, 40), []):
        metric, places = SegmentationMetric(names(7)), range(6) if choice is None else choice
        metric.update([predictions[place] for place in places], [targets[place] for place in places])
        expected, found = metric.compute(), read.scores(choice)
        assert [*found] == [*expected]
        np.testing.assert_array_equal([*found.values()], [*expected.values()])  # nan is equal to nan here
        areas = read.areas if choice is None else read.areas.take(choice)
        for kind in ("intersection", "truth", "predicted", "union"):
            assert getattr(areas, kind).dtype == np.int64
        np.testing.assert_array_equal(areas.intersection.sum(axis=0), metric.confusion.diagonal())
        np.testing.assert_array_equal(areas.truth.sum(axis=0), metric.confusion.sum(dim=1))
        np.testing.assert_array_equal(areas.predicted.sum(axis=0), metric.confusion.sum(dim=0))
    np.testing.assert_array_equal(read.confusion.diagonal(), read.areas.intersection.sum(axis=0))
    np.testing.assert_array_equal(read.confusion.sum(axis=1), read.areas.truth.sum(axis=0))


def test_the_order_in_which_images_were_seen_changes_no_byte(tmp_path: Path) -> None:
    for number, order in enumerate(([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4])):
        scored(order)[0].write(tmp_path / f"{number}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()


def test_a_file_of_ade20k_has_some_megabytes(tmp_path: Path) -> None:
    random, metric = np.random.default_rng(0), SegmentationMetric(names(150))
    held = random.random((2000, 150)) < 0.1  # 15 classes an image
    truth = np.where(held, random.integers(1, 100_000, held.shape), 0)
    areas = type(metric.image_areas())(truth // 3, truth, truth // 2)
    images = [(image, f"/data/ADE_val_{image:08}.jpg") for image in range(2000)]
    made = SegmentationEvaluation.of(names(150), images, areas, metric.total_confusion())
    made.write(tmp_path / EVALUATION)
    assert (tmp_path / EVALUATION).stat().st_size < 3e6
    assert SegmentationEvaluation.read(tmp_path / EVALUATION).scores() == pytest.approx(made.scores(), nan_ok=True)


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / EVALUATION
    with pytest.raises(
        TaskError, match=r"evaluation.npz cannot be read as an evaluation \(.*; expected evaluation.npz"
    ):
        SegmentationEvaluation.read(path)
    scored([0, 1, 2, 3, 4, 5])[0].write(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TaskError, match="cannot be read as an evaluation"):
            SegmentationEvaluation.read(path)
    np.savez(path, format=2)
    with pytest.raises(TaskError, match="has format 2, expected 1"):
        SegmentationEvaluation.read(path)
    with pytest.raises(ValueError, match="5 images have names, but 6 were scored"):
        made = scored([0, 1, 2, 3, 4, 5])[0]
        SegmentationEvaluation.of(names(7), [(0, "a")] * 5, made.areas, torch.zeros(7, 7))
