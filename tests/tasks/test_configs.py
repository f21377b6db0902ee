"""Every file under configs/ builds, and trains two steps on the sample data set."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks import detect, segment

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*CONFIGS.glob("detect/*.yaml"), *CONFIGS.glob("segment/*.yaml")])
PARTS = sorted(set(CONFIGS.rglob("*.yaml")) - set(RECIPES))
MAINS = {"detect": detect.main, "segment": segment.main}
DATA = {"detect": "coco", "segment": "ade20k"}

IN_EVERY_RUN = ("fcos_resnet50_cbam_1x", "upernet_resnet50_160k")
"""Heads that `test_recipes.py` does not train in every run of the tests."""

Train = Callable[..., None]


@pytest.fixture
def train(shapes: Path, tmp_path: Path) -> Train:
    """Trains a recipe for two steps on the sample data set, with small inputs and no downloads."""

    def run(task: str, *options: str) -> None:
        arguments = [
            "fit",
            f"--config={CONFIGS}/{task}/quickstart.yaml",
            *options,
            f"--data={CONFIGS}/data/shapes_{task}.yaml",
            f"--data.root={shapes / DATA[task]}",
            "--data.batch_size=2",
            "--data.num_workers=0",
            "--data.max_images=null",
            "--trainer.fast_dev_run=2",
            "--trainer.sync_batchnorm=false",
            f"--runs={tmp_path}",
        ]
        MAINS[task](arguments)

    return run


def offline(config: str) -> list[str]:
    """ImageNet weights are not loaded in tests: they would be downloaded."""
    return ["--model.backbone.weights=null"] if "backbones." in config or "backbones/" in config else []


def identify(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def marked(path: Path) -> object:
    marks = () if path.stem in IN_EVERY_RUN else (pytest.mark.slow,)
    return pytest.param(path, marks=marks, id=identify(path))


@pytest.mark.parametrize("path", map(marked, RECIPES))
def test_recipe_trains(path: Path, train: Train) -> None:
    train(path.parent.name, f"--config={path}", *offline(path.read_text()))


@pytest.mark.parametrize("path", PARTS, ids=identify)
def test_part_builds(path: Path, train: Train, shapes: Path, tmp_path: Path) -> None:
    kind = path.parent.name
    task = "segment" if "ade20k" in path.name or "poly" in path.name or path.stem.endswith("segment") else "detect"
    if kind == "data":
        MAINS[task](
            [
                "fit",
                f"--config={CONFIGS}/{task}/quickstart.yaml",
                f"--data={path}",
                f"--data.root={shapes / DATA[task]}",
                "--data.batch_size=2",
                "--data.val_batch_size=1",
                "--data.num_workers=0",
                "--trainer.fast_dev_run=1",
                f"--runs={tmp_path}",
            ]
        )
        return
    key = {"backbones": "--model.backbone", "schedules": "--model.lr_schedule"}[kind]
    train(task, f"{key}={path}", *offline(path.read_text() if kind == "backbones" else ""))


def test_backbone_files_of_a_class_set_the_same_options() -> None:
    """Otherwise a file that takes the place of another would keep some of its options without a word."""
    options: dict[str, set[frozenset[str]]] = {}
    for path in (CONFIGS / "backbones").glob("*.yaml"):
        part = yaml.safe_load(path.read_text())
        options.setdefault(part["class_path"], set()).add(frozenset(part["init_args"]))
    assert options and all(len(kinds) == 1 for kinds in options.values()), options


@pytest.mark.parametrize("path", RECIPES, ids=identify)
def test_recipe_header_says_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert f"python -m tasks.{path.parent.name} fit --config configs/{identify(path)}" in text
    assert "Hardware:" in text and ("measured" in text or "reached" in text.lower())
    assert len(path.read_text().splitlines()) <= 45
