"""Frozen numbers: what is run for them, how they are written, and how far they may be off.

Two short trainings, with the quickstart's recipes as they stand, on a smaller sample of its data and with seed 42; and
the metrics of fixed, seeded predictions. The files beside this one hold the numbers that came out when
`python -m tests.golden.update` was last called; see there for the tolerances.
"""

import csv
import json
import math
from pathlib import Path

import numpy as np
import torch

from datamodules.shapes import write_shapes
from tasks import detect, segment
from tasks.metrics import COCODetectionMetric
from tasks.metrics.confusion import SegmentationMetric

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MAINS = {"detect": detect.main, "segment": segment.main}
DATA = {"detect": "coco", "segment": "ade20k"}
IMAGES, EPOCHS = 32, 2

Curve = dict[str, list[float | None]]
"""Columns of metrics.csv by name, a value a row; None where a cell is empty or not a number."""


def train(task: str, folder: Path, *options: str) -> Curve:
    """The curve of a short quickstart.

    Args:
        task: `detect` or `segment`.
        folder: Where the sample and the run are written.
        options: Options behind those of the recipe.
    """
    write_shapes(folder / "shapes", seed=0, train=IMAGES, val=8)
    MAINS[task](
        [
            "fit",
            f"--config={ROOT}/configs/{task}/quickstart.yaml",
            f"--data.root={folder / 'shapes' / DATA[task]}",
            "--data.num_workers=0",
            "--trainer.accelerator=cpu",
            f"--trainer.max_epochs={EPOCHS}",
            "--trainer.log_every_n_steps=1",
            "--model.lr_schedule.warmup_steps=2",
            "--pictures.images=0",
            "--wandb.mode=disabled",
            f"--runs={folder / 'runs'}",
            "--name=golden",
            *options,
        ]
    )
    return read_curve(folder / "runs" / task / "golden" / "metrics.csv")


def read_curve(table: Path) -> Curve:
    """The columns of a run's table, without those that depend on the clock."""
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = sorted(name for name in rows[0] if not name.startswith(("perf/", "seconds")))
    return {name: [number(row[name]) for row in rows] for name in names}


def number(text: str) -> float | None:
    """A cell of a table."""
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value


def detection_numbers() -> dict[str, float | None]:
    """COCO's numbers of boxes near seeded ones: some shifted, some missed, some of another class, some from nowhere."""
    random = np.random.RandomState(0)
    metric = COCODetectionMetric([f"class {label}" for label in range(5)])
    for image in range(40):
        count = random.randint(0, 9)
        corners, sides = random.uniform(0, 300, (count, 2)), random.uniform(8, 200, (count, 2))
        truth = np.concatenate([corners, sides], 1)  # xywh
        labels = random.randint(0, 5, count)
        target = {
            "image_id": image,
            "boxes": truth,
            "labels": labels,
            "area": sides.prod(1) * random.uniform(0.5, 1, count),
            "iscrowd": random.uniform(size=count) < 0.1,
            "original_size": (520, 510),
        }
        found = random.uniform(size=count) < 0.8
        moved = truth[found] + random.normal(0, 6, (found.sum(), 4))
        more = np.concatenate([random.uniform(0, 300, (3, 2)), random.uniform(8, 90, (3, 2))], 1)
        boxes = np.concatenate([moved, more]).clip(1)
        boxes[:, 2:] += boxes[:, :2]  # xyxy
        guessed = np.where(random.uniform(size=found.sum()) < 0.9, labels[found], random.randint(0, 5, found.sum()))
        prediction = {
            "image_id": image,
            "boxes": torch.from_numpy(boxes),
            "scores": torch.from_numpy(random.uniform(0.05, 1, len(boxes))),
            "labels": torch.from_numpy(np.concatenate([guessed, random.randint(0, 5, 3)])),
        }
        metric.update([prediction], [target])
    return finite(metric.compute())


def segmentation_numbers() -> dict[str, float | None]:
    """Numbers of label maps that are right in two of three pixels; one class is never there, one never found."""
    random = np.random.RandomState(0)
    metric = SegmentationMetric([f"class {label}" for label in range(7)])
    for _ in range(10):
        size = tuple(random.randint(11, 60, 2))
        truth = random.choice([0, 1, 2, 3, 4, 5, 255], size, p=[0.3, 0.25, 0.2, 0.1, 0.06, 0.04, 0.05])
        guess = np.where(random.uniform(size=size) < 0.67, truth, random.randint(0, 5, size))
        guess = np.where((guess == 5) | (guess == 255), 0, guess)
        metric.update([torch.from_numpy(guess)], [torch.from_numpy(truth)])
    return finite(metric.compute())


def finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """None in place of what is not defined, as in summary.json."""
    return {name: None if math.isnan(value) else value for name, value in sorted(numbers.items())}


METRICS = {"detection": detection_numbers, "segmentation": segmentation_numbers}


def frozen(name: str) -> dict:
    """The content of a file of frozen numbers."""
    return json.loads((HERE / f"{name}.json").read_text())
