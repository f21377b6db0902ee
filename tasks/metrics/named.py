"""The metrics of a task as a named set: boxes and masks of one detector are scored together."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tasks.metrics.over_processes import gathered

ImageName = tuple[int, str]
"""Number of an image in its split, and its file."""


class Metric(Protocol):
    """One object that scores a whole split: updated in every step, computed once, equal for any number of processes.

    Scores are better the larger they are, but for those that a metric names in `lower_is_better`, if it has that.
    """

    @property
    def scores(self) -> Sequence[str]:
        """Names of the numbers that it gives for the whole split; they are logged as curves."""

    @property
    def class_scores(self) -> Sequence[str]:
        """Names of those that it gives for each class; they are kept with the best epoch only."""

    def update(self, predictions: list[Any], targets: list[Any]) -> None:
        """Takes the predictions and the ground truth of some images."""

    def compute(self) -> dict[str, float]:
        """Scores everything since the last reset; a collective call in a distributed run."""

    def reset(self) -> None:
        """Forgets everything."""


class NamedMetrics:
    """Metrics that are updated, computed and reset together.

    Args:
        metrics: Metrics by what they score: `boxes`, `masks`, `pixels`.

    Attributes:
        scores: Names of the numbers of all metrics for the whole split.
        falling: Those of them that are better the smaller they are: `lower_is_better` of the metrics that have it.
        images: Number and file of each image of this process, in the order in which they were scored.

    Raises:
        ValueError: Two of them give a number of the same name.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = dict(metrics)
        self.images: list[ImageName] = []
        self.scores = [score for metric in self.metrics.values() for score in metric.scores]
        self.falling = {name for metric in self.metrics.values() for name in getattr(metric, "lower_is_better", ())}
        owners: dict[str, str] = {}
        for name, metric in self.metrics.items():
            for score in (*metric.scores, *metric.class_scores):
                if score in owners:
                    raise ValueError(f"the metrics {owners[score]} and {name} both give {score}; give one a prefix")
                owners[score] = name

    def update(self, predictions: list[Any], targets: list[Any], images: Sequence[ImageName] = ()) -> None:
        """Hands the predictions and the ground truth of some images to all metrics.

        Args:
            predictions: One per image.
            targets: As many.
            images: Their numbers and files, where they are to be known by them.
        """
        for metric in self.metrics.values():
            metric.update(predictions, targets)
        self.images += images

    def compute(self) -> dict[str, float]:
        """The numbers of all metrics; a collective call in a distributed run."""
        return {name: value for metric in self.metrics.values() for name, value in metric.compute().items()}

    def gathered_images(self) -> list[ImageName]:
        """`images` of all processes, in the order of `gathered`; a collective call in a distributed run."""
        return [image for part in gathered(self.images) for image in part]

    def reset(self) -> None:
        """Forgets everything."""
        for metric in self.metrics.values():
            metric.reset()
        self.images = []
