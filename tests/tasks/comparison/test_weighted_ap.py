"""AP of a resample equals that of the resampled data set, written out and evaluated."""

from typing import Any

import numpy as np
import pytest

from tasks.comparison import WeightedAP, image_weights, weighted_ap
from tasks.metrics import COCODetectionMetric
from tasks.metrics.matches import Matches, match
from tests.tasks.metrics.test_metric_coco import BACKENDS, random_problem

Problem = tuple[list[str], list[Any], list[Any]]


def problem(seed: int, images: int = 7, segm: bool = False) -> Problem:
    """Crowds, empty images, more than 100 detections, a class without ground truth; scores tie between images only."""
    names, predictions, targets = random_problem(seed, images, classes=4, segm=segm)
    order = np.argsort([target["image_id"] for target in targets])
    for prediction in predictions:
        count = len(prediction["scores"])
        prediction["scores"] = np.random.default_rng(count).permutation(count) / 256
    for target in targets:
        kept = target["labels"] != 3
        target |= {name: target[name][kept] for name in ("boxes", "labels", "area", "iscrowd")}
        if segm:
            target["masks"] = [mask for mask, keep in zip(target["masks"], kept, strict=True) if keep]
    return names, [predictions[place] for place in order], [targets[place] for place in order]


def evaluated(names: list[str], predictions: list[Any], targets: list[Any], kind: str, backend: str) -> np.ndarray:
    """mAP, mAP50, mAP75, and the AP of each class."""
    metric = COCODetectionMetric(names, kind, backend)
    metric.update(predictions, targets)
    numbers = metric.compute()
    return np.array([numbers[name] for name in ("mAP", "mAP50", "mAP75", *(f"AP/{name}" for name in names))])


def matches_of(made: Problem, kind: str, backend: str) -> Matches:
    metric = COCODetectionMetric(made[0], kind, backend)
    metric.update(*made[1:])
    metric.compute()
    return match(metric.scored, len(made[0]), kind, backend)


def weighted(matches: Matches, weights: np.ndarray) -> np.ndarray:
    scorers = [WeightedAP(matches, len(weights), ious) for ious in (slice(None), slice(0, 1), slice(5, 6))]
    return np.concatenate([[scorer.scores(weights)[0] for scorer in scorers], scorers[0].scores(weights)[1:]])


def written_out(made: Problem, weights: np.ndarray) -> Problem:
    """The images as often as they count, as images of their own."""
    names, predictions, targets = made
    places = np.repeat(np.arange(len(weights)), weights)
    found = [predictions[place] | {"image_id": number} for number, place in enumerate(places)]
    return names, found, [targets[place] | {"image_id": number} for number, place in enumerate(places)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_every_image_once_is_the_logged_score(kind: str, backend: str) -> None:
    for seed in range(2):
        made = problem(seed, segm=kind == "segm")
        expected = evaluated(*made, kind, backend)
        found = weighted(matches_of(made, kind, backend), np.ones(7, np.int64))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert np.isnan(expected[-1]) and 0 < expected[0] < 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_resample_scores_as_the_data_set_written_out(kind: str) -> None:
    compared = []
    for seed in range(3):
        made = problem(seed, segm=kind == "segm")
        matches = matches_of(made, kind, "hotcoco")
        assert matches.ignored.any() and len(np.unique(matches.scores)) < len(matches.scores)
        for weights in (*image_weights(7, 4, seed), np.array([0, 0, 1, 0, 0, 5, 0])):
            expected = evaluated(*written_out(made, weights), kind, "pycocotools")
            np.testing.assert_allclose(weighted(matches, weights), expected, rtol=0, atol=1e-12)
            compared.append(expected)
    assert np.isnan(compared).any(axis=0)[3:].sum() > 1  # a class that some resamples lack
    assert len({*np.array(compared)[:, 0].tolist()}) > 10


def test_without_ground_truth_or_detections() -> None:
    names, predictions, targets = problem(0)
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "area": np.zeros(0), "iscrowd": np.zeros(0)}
    nothing = matches_of((names, predictions, [target | empty for target in targets]), "bbox", "hotcoco")
    assert np.isnan(WeightedAP(nothing, 7).scores(np.ones(7, np.int64))).all()
    none = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    missed = matches_of((names, [found | none for found in predictions], targets), "bbox", "hotcoco")
    np.testing.assert_array_equal(WeightedAP(missed, 7).scores(np.full(7, 2)), [0, 0, 0, 0, np.nan])


def test_matches_are_the_backends_own() -> None:
    made = problem(1, segm=True)
    for kind in ("bbox", "segm"):
        one, other = (matches_of(made, kind, backend) for backend in ("hotcoco", "pycocotools"))
        for name in Matches.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_groups_of_classes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(2)
    once = matches_of(made, "bbox", "hotcoco")
    monkeypatch.setattr("tasks.metrics.coco_backends.MATCHES_AT_ONCE", 1)
    again = matches_of(made, "bbox", "hotcoco")
    for name in Matches.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_an_image_scores_as_if_it_were_the_only_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(5, segm=kind == "segm")
    matches = matches_of(made, kind, "hotcoco")
    alone = np.stack([evaluated(*written_out(made, once), kind, "pycocotools") for once in np.eye(7, dtype=int)])
    assert np.isnan(alone[:, 0]).any() and len(np.unique(alone[:, 0])) > 4
    for pairs in (weighted_ap.PAIRS, 4):  # in one piece, and in several
        monkeypatch.setattr(weighted_ap, "PAIRS", pairs)
        for column, ious in enumerate((slice(None), slice(0, 1), slice(5, 6))):
            found = weighted_ap.image_scores(matches, 7, ious)
            np.testing.assert_allclose(found, alone[:, column], rtol=0, atol=1e-12)
