"""Large images on the command line of a detector: windows, what a checkpoint says of them, and progress."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.shapes_mosaic import write_mosaic
from tasks.batch import Batch
from tasks.callbacks.window_progress import WindowProgress
from tasks.detection import DetectionTask

Command = Callable[..., Path]
PART = 240, 320


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mosaic") / "scene"
    write_mosaic(root, rows=4, columns=6, part_rows=2, part_columns=2)
    return root


def windows(*size: int, overlap: int = 0) -> list[str]:
    return [
        "--data.pipeline.test_scale=1",
        f"--model.windows.size=[{size[0]},{size[1]}]",
        f"--model.windows.overlap={overlap}",
        "--model.windows.at_once=1",
        "--model.detector.score_threshold=0.02",
        "--data.val_batch_size=1",
    ]


def test_predictions_of_the_whole_are_those_of_its_parts(
    mosaic: Path, trained: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command for both; boxes in pixels of the whole, a line on the windows, a picture as large as the image."""
    monkeypatch.setattr("tasks.callbacks.window_progress.SECONDS", 0.0)
    rows = {}
    for kind in ("parts", "whole"):
        run = command(
            "detect",
            "predict",
            f"--ckpt_path={trained('detect')}/checkpoints/last.ckpt",
            f"--data.images={mosaic}/{kind}/coco/val2017",
            *windows(*PART),
            name=kind,
        )
        rows[kind] = json.loads((run / "predictions" / "predictions.json").read_text())
    moved = []
    for row in rows["parts"]:
        top, left = (row["image_id"] - 1) // 3 * PART[0], (row["image_id"] - 1) % 3 * PART[1]
        x, y, *sides = row["bbox"]
        moved.append([row["category_id"], row["score"], x + left, y + top, *sides])
    found = [[row["category_id"], row["score"], *row["bbox"]] for row in rows["whole"]]
    assert len(found) == len(moved) > 30
    # Written boxes are width and height; of corners in the whole, which have fewer digits left.
    np.testing.assert_allclose(sorted(found), sorted(moved), atol=1e-3)
    assert Image.open(run / "predictions" / "pictures" / "000000000001.png").size == (960, 480)


def test_windows_are_options_of_the_moment(
    mosaic: Path, trained: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that was trained without takes them, and the scores count as many detections as are asked for."""
    run = command(
        "detect",
        "validate",
        f"--ckpt_path={trained('detect')}/checkpoints/last.ckpt",
        f"--data.root={mosaic}/whole/coco",
        *windows(200, 170, overlap=60),
        "--model.windows.merge=wbf",
        "--model.scored_detections=500",
    )
    assert "decides about the model" not in "".join(capsys.readouterr())
    assert "val/AR500" in (run / "metrics.validate.csv").read_text()


def test_windows_with_the_validation_loss_are_refused(
    mosaic: Path, trained: Command, fails: Callable[..., str]
) -> None:
    options = f"--ckpt_path={trained('detect')}/checkpoints/last.ckpt", f"--data.root={mosaic}/whole/coco"
    message = fails("detect", "validate", *options, *windows(200, 170), "--model.validation_loss=true")
    assert message == (
        "error: --model.validation_loss true looks at whole images and --model.windows at parts of them; leave one out"
    )


def test_windows_without_meaning_are_refused_in_one_line(trained: Command, fails: Callable[..., str]) -> None:
    options = f"--ckpt_path={trained('detect')}/checkpoints/last.ckpt", *windows(64, 64, overlap=64)
    assert "overlap of the windows is 64, expected 0..63, less than their size" in fails("detect", "validate", *options)


def test_the_way_over_windows_is_watched() -> None:
    lines: list[str] = []
    progress = WindowProgress("a.png", lines.append, every=0.0)
    progress(3, 12)
    assert lines == [f"a.png: 3 of 12 windows, {lines[0].split(', ')[1]}"] and lines[0].endswith("left")


def test_a_task_sees_whole_images_without_windows(mosaic: Path, trained: Command) -> None:
    task = DetectionTask.load_from_checkpoint(trained("detect") / "checkpoints" / "last.ckpt").eval()
    assert task.over_windows is None
    batch: Batch = {
        "image": torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8),
        "size": torch.tensor([[64, 96]]),
        "targets": [{"original_size": torch.tensor([64, 96])}],
    }
    with torch.no_grad():
        (whole,), (direct,) = task.predictions(batch), task.model(batch)
    assert torch.equal(whole["boxes"], direct["boxes"])
