"""Trainings and metrics give the numbers frozen beside this file; `python -m tests.golden.update` writes them again."""

from pathlib import Path

import pytest

from tests.golden import runs

REMEDY = "if that is meant: python -m tests.golden.update, and say why in the commit"


def differences(curve: runs.Curve, expected: dict) -> list[str]:
    """Every number that is further from the frozen one than it may be."""
    found = []
    for column, of_column in expected.items():
        triples = zip(curve[column], of_column["values"], of_column["tolerances"], strict=True)
        for row, (value, frozen, tolerance) in enumerate(triples):
            if value is None or frozen is None:
                if value is not frozen:
                    found.append(f"{column}, row {row}: {value} instead of {frozen}")
            elif not abs(value - frozen) <= tolerance:
                found.append(f"{column}, row {row}: {value} instead of {frozen} +- {tolerance}")
    return found


@pytest.mark.parametrize("task", runs.MAINS)
def test_training_curve_is_the_frozen_one(task: str, tmp_path: Path) -> None:
    expected, curve = runs.frozen(task), runs.train(task, tmp_path)
    assert list(curve) == list(expected), REMEDY
    assert not (found := differences(curve, expected)), "\n".join([*found[:10], REMEDY])


def test_metrics_are_the_frozen_ones() -> None:
    expected = runs.frozen("metrics")
    for kind, numbers in runs.METRICS.items():
        found, undefined = numbers(), {name for name, value in expected[kind].items() if value is None}
        assert {name for name, value in found.items() if value is None} == undefined, REMEDY
        defined = {name: value for name, value in expected[kind].items() if name not in undefined}
        assert {name: found[name] for name in found.keys() - undefined} == pytest.approx(defined, rel=0, abs=1e-9), (
            REMEDY
        )
    assert 0.1 < expected["detection"]["mAP"] < 0.8 and 0.2 < expected["segmentation"]["mIoU"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "change"),
    [  # weight decay moves so few steps of the segmentor by less than other processors do
        *((task, change) for task in runs.MAINS for change in ("--model.optimizer.lr=0.0022", "--seed_everything=43")),
        ("detect", "--model.optimizer.weight_decay=5.0"),
    ],
)
def test_a_small_change_of_the_training_is_seen(task: str, change: str, tmp_path: Path) -> None:
    curve, expected = runs.train(task, tmp_path, change), runs.frozen(task)
    assert any(line.startswith("train/") for line in differences(curve, expected))
