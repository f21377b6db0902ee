"""What the command line tells of the data before step 0, where it stops, and what it leaves in the run folder."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tasks.running import ROOT, fit_arguments, run, two_processes

DETECT = (
    "--data.pipeline=FixedSize",
    "--data.pipeline.height=64",
    "--data.pipeline.width=64",
    "--model.detector.channels=32",
    "--model.detector.num_convs=1",
)
SEGMENT = ("--data.pipeline.longest=64", "--data.pipeline.shorter=64", "--data.pipeline.crop=64")
TRIALS = {
    "cvat_masks_iscrowd1": (
        "detect",
        2,
        r"error: .*train2017\.json: 0 of 8 annotations are left as objects to train on: ",
    ),
    "normalized_boxes": ("detect", 2, r"error: .*train2017\.json: 8 of 8 boxes lie in 0\.\.1, expected pixels"),
    "missing_one_image": ("detect", 2, r"error: .*train2017: 1 of 4 files that .* \(train_004\.png\)"),
    "mask_0_255": ("segment", 2, r"error: num_classes is 1, expected at least 2: .* --data LabelMasks --data\.values"),
    "jfif_images": ("segment", 0, r"training: 4 images, 2 classes; pixels: green 28\.9%, red 15\.9%, ignored 55\.1%"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "cvat_masks_iscrowd1" else pytest.mark.slow) for name in TRIALS]
)
def test_trials(name: str, shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    task, exit_code, line = TRIALS[name]
    code, output = run(
        task,
        [
            "fit",
            f"--config={ROOT}/configs/{task}/quickstart.yaml",
            f"--runs={tmp_path}",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            "--data.batch_size=2",
            "--data.val_batch_size=1",
            "--data.num_workers=0",
            "--wandb.mode=disabled",
            f"--data.root={shared_data('trials')}/{name}",
            *(DETECT if task == "detect" else SEGMENT),
        ],
    )
    assert code == exit_code, output
    assert re.search(line, output), output
    assert exit_code == 0 or not any(tmp_path.glob("*/*")), "no run has begun"


@pytest.fixture
def broken(shapes: Path, tmp_path: Path) -> Path:
    """The sample data set with a training image that is cut off."""
    root = tmp_path / "shapes"
    shutil.copytree(shapes / "coco", root / "coco")
    path = sorted((root / "coco/train2017").iterdir())[3]
    path.write_bytes(path.read_bytes()[:500])
    return root


def told(output: str) -> list[str]:
    kinds = r"(training: .*|validation: .*|left out of training: image .*|epoch \d+: .* were replaced.*)"
    return [line for line in output.splitlines() if re.fullmatch(kinds, line)]


def test_a_run_tells_once_and_goes_on_past_a_broken_file(broken: Path, tmp_path: Path) -> None:
    options = ("--data.on_corrupt=skip", "--trainer.max_epochs=2", "--trainer.limit_val_batches=1")
    code, output = run("detect", fit_arguments("detect", broken, tmp_path / "runs", "a", *options))
    assert code == 0, output
    training, validation, left_out, first, second = told(output)
    assert training.startswith("training: 12 images, ") and validation.startswith("validation: 7 images, ")
    assert "cannot be decoded" in left_out
    replaced = "1 of 12 training samples were replaced, because 1 images cannot be read (--data.on_corrupt skip)"
    assert (first, second) == (f"epoch 0: {replaced}", f"epoch 1: {replaced}")
    data = json.loads((tmp_path / "runs/detect/a/data.json").read_text())
    assert data.keys() == {"training", "validation"} and data["training"]["images"] == 12
    assert data["validation"]["images"] == 7 and data["training"]["missing files"] == 0


@pytest.mark.slow
def test_two_processes_stay_in_step(broken: Path, tmp_path: Path) -> None:
    options = ("--data.on_corrupt=skip", "--trainer.max_epochs=2", "--trainer.callbacks+=rank_probe.RankProbe")
    code, output = run(
        "detect", fit_arguments("detect", broken, tmp_path / "runs", "b", *two_processes(), *options), 400
    )
    assert code == 0, output
    lines = told(output)
    assert len(lines) == 5 and sum(line.startswith("left out") for line in lines) == 1
    assert [line for line in lines if line.startswith("epoch")] == [
        f"epoch {epoch}: 1 of 12 training samples were replaced, because 1 images cannot be read "
        "(--data.on_corrupt skip)"
        for epoch in (0, 1)
    ]
    first, second = (torch.load(tmp_path / f"runs/detect/b/rank{rank}.pt", weights_only=True) for rank in (0, 1))
    names = [name for name in first if "running_" not in name]
    assert names and all(torch.equal(first[name], second[name]) for name in names)
