"""Which way a number improves: what the best checkpoint is chosen by, and what callbacks watch."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from backbones import MobileNetV2
from tasks.detection import DetectionOptions, DetectionTask
from tasks.detectors import FCOS
from tasks.errors import TaskError
from tasks.metrics import Metric
from tasks.run.monitors import check_monitors


class Misses:
    """A count of misses."""

    scores, class_scores, lower_is_better = ("misses", "hits"), (), ("misses",)

    def update(self, predictions: list, targets: list) -> None: ...

    def compute(self) -> dict[str, float]:
        return {"misses": 3.0, "hits": 4.0}

    def reset(self) -> None: ...


class MissesTask(DetectionTask):
    """Detection, scored by misses as well."""

    def build_metrics(self) -> dict[str, Metric]:
        return {**super().build_metrics(), "misses": Misses()}


def task(headline: str | None) -> MissesTask:
    data = {"class_names": ["a"], "category_ids": [1], "image_size": (64, 64)}
    return MissesTask(DetectionOptions(backbone=MobileNetV2(0.25), detector=FCOS, headline=headline, **data))


@pytest.mark.parametrize(
    ("headline", "direction"), [("misses", "min"), ("hits", "max"), (None, "max"), ("AR10", "max")]
)
def test_the_best_is_the_smallest_where_the_metric_says_so(headline: str | None, direction: str) -> None:
    chosen = task(headline).headline
    assert chosen.direction == direction and chosen.score == (headline or "mAP")
    assert chosen.improves(2.0, 1.0) == (direction == "max")


@pytest.mark.parametrize(
    ("monitor", "mode", "words"),
    [
        ("val/misses", "max", r"val/misses \(EarlyStopping\) is better the smaller it is; add .*mode min"),
        ("val/misses", "min", None),
        ("val/hits", "min", r"val/hits \(EarlyStopping\) is better the larger it is; add .*mode max"),
        ("val/hits", "max", None),
        ("train/loss", "min", None),
        ("val/loss", "min", r"logged with --model.validation_loss true only"),
        ("val/miss", "min", r"is not logged; did you mean val/misses"),
    ],
)
def test_a_number_is_watched_the_right_way_round(monitor: str, mode: str, words: str | None) -> None:
    watching = EarlyStopping(monitor, mode=mode)
    if words is None:
        check_monitors([watching], task(None).metrics, has_loss=False)
        return
    with pytest.raises(TaskError, match=words):
        check_monitors([watching], task(None).metrics, has_loss=False)
