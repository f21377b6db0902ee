"""`docs/large-images.md`: its commands are run on a small scene, and its table is what the benchmark writes."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.large_images import COLUMNS_OF_TABLE, MOST, Usage, table
from datamodules import shapes_mosaic
from tasks import detect, segment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "large-images.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "datamodules.shapes_mosaic": shapes_mosaic.main,
    "tasks.detect": detect.main,
    "tasks.segment": segment.main,
}
SMALLER = {
    "fit": ["--trainer.max_epochs=1", "--data.batch_size=2", "--model.backbone.width=0.25"],
    "validate": ["--pictures.images=0"],
    "predict": [],
}
"""Options that make a command of the page fast, behind its own."""


def blocks() -> list[list[list[str]]]:
    """The words of the commands of each block."""
    found = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [[shlex.split(line) for line in block.replace("\\\n", " ").splitlines()] for block in found]


def train_and_val(scene: Path, detection: Path, segmentation: Path) -> None:
    """The parts of a scene as training splits, the whole for validation, called as on the page."""
    for kind, split, folder in (("parts", "train2017", "training"), ("whole", "val2017", "validation")):
        shutil.copytree(scene / kind / "coco" / "val2017", detection / split)
        (detection / "annotations").mkdir(exist_ok=True)
        shutil.copy(
            scene / kind / "coco" / "annotations" / "instances_val2017.json",
            detection / "annotations" / f"instances_{split}.json",
        )
        for pictures in ("images", "annotations"):
            shutil.copytree(scene / kind / "ade20k" / pictures / "validation", segmentation / pictures / folder)
    shutil.copy(next((scene / "whole" / "ade20k").glob("*.csv")), segmentation)
    shutil.copy(detection / "val2017" / "000000000001.png", detection / "val2017" / "1.png")
    shutil.copy(detection / "val2017" / "1.png", segmentation / "photo.png")


@pytest.mark.slow  # in every run: tests/tasks/test_large_scene.py, tests/tasks/detectors/test_windows.py
def test_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNDENSE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "configs", "configs")
    shapes_mosaic.write_mosaic(Path("scene"), 8, 6, 8, 3)
    train_and_val(Path("scene"), Path("data/aerial"), Path("data/land"))
    objects, pixels, measured = blocks()
    shutil.move("data/aerial/val2017/1.png", "data/photo.png")
    os.link("data/photo.png", "data/land/1.png")
    for commands in (objects, pixels, measured):
        for words in commands:
            assert words[:2] == ["python", "-m"], words
            arguments = ["data/photo.png" if word.endswith("/1.png") else word for word in words[3:]]
            if words[2].startswith("tasks."):
                arguments += [*SMALLER[words[3]], "--trainer.accelerator=cpu", "--data.num_workers=0"]
                arguments += ["--wandb.mode=disabled"]
            PROGRAMS[words[2]](arguments)
            if words[3] == "fit":
                (facts,) = Path("runs").glob(f"*/{words[-1]}/data.json")
                assert json.loads(facts.read_text())["training"]["tiles"] == 4
    scores = [Path(f"runs/detect/{name}/metrics.validate.csv").read_text() for name in ("whole", "parts")]
    assert all("val/AR1000" in table for table in scores)
    assert Path("runs/segment/photo/predictions/label_maps/photo.png").is_file()
    assert Path("runs/detect/photo/predictions/predictions.json").is_file()


def test_table_has_the_form_and_the_goal_of_the_benchmark() -> None:
    """Its numbers are of one machine, and of minutes; that they are reached is what the benchmark ends with."""
    written = PAGE.partition("<!-- large -->\n")[2].partition("<!-- /large -->")[0]
    rows = [line.strip("| ").split(" | ") for line in written.strip().splitlines() if line.startswith("| ")]
    assert tuple(rows[0]) == COLUMNS_OF_TABLE
    body = [row for row in rows[1:] if row[0] in ("detect", "segment")]
    looks = ("2,200 x 2,200", "8,000 x 6,000", "8,000 x 6,000, drawn on")
    assert [(row[0], row[1]) for row in body] == [(task, look) for task in ("detect", "segment") for look in looks]
    usages = {(row[0], row[1]): Usage(float(row[2]), float(row[3].replace(",", ""))) for row in body}
    for task in ("detect", "segment"):
        above = usages[task, "8,000 x 6,000"].megabytes - usages[task, "2,200 x 2,200"].megabytes
        assert 0 < above < MOST
    assert written.splitlines()[: len(body) + 2] == table(usages).splitlines()[: len(body) + 2]
