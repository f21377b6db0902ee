"""Runs as what they are compared by: the scores of any resample of their images, from their evaluation files."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.comparison.estimate import Arm
from tasks.comparison.resampling import Scorer, resampled_scores
from tasks.comparison.weighted_ap import WeightedAP, image_scores
from tasks.comparison.weighted_iou import WeightedIoU
from tasks.errors import TaskError
from tasks.metrics.coco_backends import IoUType
from tasks.run.detection_file import DetectionEvaluation
from tasks.run.evaluation_file import EVALUATION, SegmentationEvaluation
from tasks.run.summary_file import SUMMARY, of_command, read_summary

RESAMPLES = 1000
_COMMANDS = ("fit", "validate", "test")
_MASKS = "mask_"
_IOUS = {"mAP": slice(None), "mAP50": slice(0, 1), "mAP75": slice(5, 6)}


@dataclass(frozen=True, eq=False)
class RunScores:
    """A run, scored on the images of its best epoch.

    Attributes:
        folder: Its folder.
        score: The score that it is compared by, such as `mAP`.
        class_names: K names.
        images: I files.
        pictures: What the picture of each image is called, without its ending.
        truth: What is annotated in each image and class, to tell data sets apart.
        scores: (1 + K,) the score on all images, then that of each class.
        resampled: Gives (R, 1 + K) scores on R resamples of the images, drawn with a seed.
        score_images: Gives the score of each image alone, (I,).
    """

    folder: Path
    score: str
    class_names: tuple[str, ...]
    images: tuple[str, ...]
    pictures: tuple[str, ...]
    truth: NDArray[np.int64]
    scores: NDArray[np.float64]
    resampled: Callable[[int, int], NDArray[np.float64]]
    score_images: Callable[[], NDArray[np.float64]]


def read_run(folder: Path, score: str | None = None) -> RunScores:
    """Reads what a run has left of its best epoch, or what `validate` or `test` has left where nothing was trained.

    Args:
        folder: The run folder.
        score: `mAP`, `mAP50`, `mAP75`, the same with `mask_` in front, or `mIoU`. Default: the run's headline.

    Raises:
        TaskError: A file is missing or damaged, the two do not belong together, or the score cannot be resampled.
    """
    command = next((command for command in _COMMANDS if (folder / of_command(SUMMARY, command)).is_file()), None)
    if command is None:
        raise TaskError(f"{folder} has no {SUMMARY}; expected a run folder such as runs/detect/NAME")
    path = folder / of_command(EVALUATION, command)
    summary = read_summary(folder / of_command(SUMMARY, command))
    split, _, headline = str(summary["headline"]).partition("/")
    name = headline if score is None else score
    if not path.is_file():
        raise TaskError(f"{folder} has no {path.name}, which comparisons read; `validate` writes it for a checkpoint")
    run = (_read_detector if summary["task"] == "detect" else _read_segmentor)(path, name)
    logged, found = summary.get(f"{split}/{name}"), run.scores[0]
    if logged is None or not math.isclose(found, logged, rel_tol=0, abs_tol=1e-9):
        raise TaskError(
            f"{path} gives {split}/{name} {found:.6g}, the summary beside it says {logged}: they are not of one "
            "evaluation; write both again with `validate`"
        )
    return run


def _read_detector(path: Path, score: str) -> RunScores:
    kind: IoUType = "segm" if score.startswith(_MASKS) else "bbox"
    evaluation = DetectionEvaluation.read(path)
    ious = _IOUS.get(score.removeprefix(_MASKS))
    if ious is None or kind not in evaluation.matches:
        names = [f"{prefix}{name}" for prefix in ("", _MASKS)[: len(evaluation.matches)] for name in _IOUS]
        raise TaskError(f"{path.parent} cannot be compared by {score}, expected one of {', '.join(names)}")
    matches = evaluation.matches[kind]
    truth = np.stack([matches.truth_images, matches.truth_labels, matches.truth_counts])
    scorer = WeightedAP(matches, len(evaluation.images), ious)
    by_image = partial(image_scores, matches, len(evaluation.images), ious)
    pictures = tuple(map(str, evaluation.image_ids))
    classes, images = evaluation.class_names, evaluation.images
    return RunScores(path.parent, score, classes, images, pictures, truth, *_scoring(scorer), by_image)


def _read_segmentor(path: Path, score: str) -> RunScores:
    if score != "mIoU":
        raise TaskError(f"{path.parent} cannot be compared by {score}, expected mIoU")
    evaluation = SegmentationEvaluation.read(path)
    areas = evaluation.areas
    scorer = WeightedIoU(areas.intersection, areas.union)
    pictures = tuple(map(str, range(len(evaluation.images))))
    classes, images = evaluation.class_names, evaluation.images
    return RunScores(path.parent, score, classes, images, pictures, areas.truth, *_scoring(scorer), areas.image_iou)


def _scoring(scorer: Scorer) -> tuple[NDArray[np.float64], Callable[[int, int], NDArray[np.float64]]]:
    """The scores on all images, and what gives those on resamples."""
    return scorer.scores(np.ones(scorer.num_images, np.int64)), partial(resampled_scores, scorer)


def build_arm(name: str, runs: Sequence[RunScores], resamples: int = RESAMPLES, seed: int = 0) -> Arm:
    """The runs of one method, resampled.

    Args:
        name: What they have in common.
        runs: At least one run.
        resamples: Resamples of the images.
        seed: Of the resamples; it has to be the same for all arms that are compared.

    Raises:
        TaskError: The runs are of different data, or there are too few images.
    """
    require_same_data(runs)
    require_enough_images(runs[0])
    resampled = [run.resampled(resamples, seed) for run in runs]
    return Arm(name, np.stack([run.scores for run in runs]), np.mean(resampled, axis=0), len(runs[0].images))


def require_enough_images(run: RunScores) -> None:
    """Refuses a run of a single image, which cannot be resampled.

    Raises:
        TaskError: It was scored on fewer than two.
    """
    if len(run.images) < 2:
        raise TaskError(f"{run.folder} was scored on {len(run.images)} image, a comparison needs at least 2")


def require_same_data(runs: Sequence[RunScores]) -> None:
    """Refuses runs whose scores cannot be compared.

    Raises:
        TaskError: They differ in score, classes, images or ground truth.
    """
    first = runs[0]
    for other in runs[1:]:
        for what, one, two in (
            ("are compared by different scores", first.score, other.score),
            ("have different classes", first.class_names, other.class_names),
            ("were scored on different images", first.images, other.images),
        ):
            if one != two:
                raise TaskError(f"{first.folder} and {other.folder} {what}: {_first_difference(one, two)}")
        if not np.array_equal(first.truth, other.truth):
            raise TaskError(
                f"{first.folder} and {other.folder} were scored on different ground truth of the same images"
            )


def _first_difference(one: Any, other: Any) -> str:
    """Where two texts or two sequences differ first."""
    if isinstance(one, str):
        return f"{one} and {other}"
    if len(one) != len(other):
        return f"{len(one)} and {len(other)}"
    place = next(place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    return f"number {place + 1} is {one[place]} and {other[place]}"
