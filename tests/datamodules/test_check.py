"""`python -m datamodules.check`: options, what it prints, and what it ends with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.check import main, with_data

ROOT = Path(__file__).parents[2]
RECIPES = {"coco": "detect", "ade20k": "segment"}


def end(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


@pytest.mark.parametrize("layout", RECIPES)
def test_a_recipe_names_the_data(layout: str, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = f"{ROOT}/configs/{RECIPES[layout]}/quickstart.yaml"
    assert end(["--config", recipe, f"--data.root={shapes / layout}"]) == 0
    training, *_, validation = (line for line in capsys.readouterr().out.splitlines() if not line.startswith("note"))
    assert training.startswith("training: 12 images, ") and validation.startswith("validation: 7 images, ")
    assert end([f"--config={recipe}", "--data.root", str(shapes / layout), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"training", "validation"} and told["training"]["images"] == 12


def test_exit_codes(shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trials = shared_data("trials")
    assert end(["--data", "COCO", "--data.root", str(trials / "missing_one_image")]) == 2
    assert "train2017: 1 of 4 files that" in capsys.readouterr().out
    doubtful = ["--data=COCO", f"--data.root={trials / 'exif_180'}"]
    assert end(doubtful) == 0
    assert "warning: " in capsys.readouterr().out
    assert end([*doubtful, "--data.strict=true"]) == 1
    capsys.readouterr()
    assert end(["--data=COCO", f"--data.root={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: no COCO annotation file at ")
    (tmp_path / "run.yaml").write_text("model: 3\n")
    assert end(["--config", str(tmp_path / "run.yaml")]) == 2
    assert "is no recipe with `data`" in capsys.readouterr().err


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(["--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Exit code: 0 where a run can start, 2 where none can" in words and "1 where `--data.strict true`" in words
    assert "--json" in words and "--data CONFIG" in words


def test_data_sets_go_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert with_data(["--data", "ade20k"]) == with_data(["--data=ade20k"]) == ["--data", "configs/data/ade20k.yaml"]
    recipe = "configs/detect/retinanet_1x.yaml"
    assert with_data(["--config", recipe, "--json"]) == ["--data", "configs/detect/../data/coco.yaml", "--json"]
    assert with_data(["--data", "COCO", "--data.root=x"]) == ["--data", "COCO", "--data.root=x"]
