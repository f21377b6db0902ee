"""`python -m tasks.profile recipe`: what each part of a model costs, and that the parts are the whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.profile.__main__ import main
from tasks.profile.counting import counted_macs
from tasks.profile.parts import by_part, kept_bytes, parameters_by_part
from tests.tasks.conftest import SIDE, refused

ROOT = Path(__file__).parents[3]


class Model(nn.Module):
    """One part is called within another, one by its `forward`; a product is the rest's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.first = nn.Linear(3, 5)
        self.second = nn.Sequential(nn.Linear(5, 7), nn.Identity())
        self.nothing = nn.ReLU()
        self.third = Third(self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second.forward(self.nothing(self.first(x)) * self.scale)
        return self.third(x) @ torch.ones(5, 11)


class Third(nn.Module):
    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.own, self.first = nn.Linear(7, 3), first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.own(x))


def test_every_part_gets_its_own() -> None:
    model, x = Model(), torch.ones(2, 3)
    # `third` calls a shared layer, not the part `first`: what runs in it is counted where it is called from.
    assert parameters_by_part(model) == {"first": 20, "second": 42, "third": 24, "rest": 5}
    with counted_macs() as so_far:
        assert by_part(model, lambda: model(x), so_far) == {
            "first": 2 * (2 * 3 * 5),
            "second": 2 * 5 * 7,
            "third": 2 * 7 * 3,
            "rest": 2 * 5 * 11,
        }
    with kept_bytes(model) as so_far:
        kept = by_part(model, lambda: model(x), so_far)
    # Kept are inputs of layers and of the products with `scale`, none twice; weights are not.
    assert (
        kept["second"] == 4 * 2 * 5 and kept["third"] == 4 * 2 * 7 and 0 < kept["rest"] <= 4 * (2 * 5 + 5 * 11 + 2 * 5)
    )
    assert not any("forward" in vars(part) for part in model.children())


@pytest.mark.parametrize(
    ("task", "head"), [("detect", "head"), pytest.param("segment", "decode_head", marks=pytest.mark.slow)]
)
def test_parts_of_a_recipe_and_of_its_run_add_up_to_the_summary(
    task: str, head: str, trained: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(task)
    summary = json.loads((run / "summary.json").read_text())
    capsys.readouterr()
    before = sorted(run.rglob("*"))
    small = (
        [f"--size={SIDE}x{SIDE}", "--batch=1", "--rounds=1", "--json"]
        if task == "detect"
        else ["--batch=2", "--rounds=1", "--json"]
    )
    main(["recipe", str(run), *small])
    result = json.loads(capsys.readouterr().out)
    *parts, whole = result["rows"]
    names = {row["name"]: row for row in parts}
    assert {"backbone", head, "rest"} < set(names) and names["rest"]["parameters"] == 0
    assert whole["parameters"] == summary["parameters"] == sum(row["parameters"] for row in parts)
    assert whole["MACs"] == summary["MACs"] * result["batch"] == sum(row["MACs"] for row in parts)
    assert result["size"] == summary["image_size"] and result["classes"] == {"detect": 6, "segment": 9}[task]
    assert all(row["forward_ms"] > 0 and row["kept_MB"] > 0 for row in (names["backbone"], names[head]))
    assert whole["training_ms"] > 0 and sorted(run.rglob("*")) == before


def test_options_follow_the_recipe_and_no_data_set_is_needed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "configs" / "detect" / "quickstart.yaml"
    options = ["--classes", "11", "--size", "64x96", "--rounds", "1", "--model.detector.channels=32"]
    main(["recipe", str(recipe), *options])
    title, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{recipe}: 2 x 3 x 64x96, 11 classes, float32") and "torch" in title
    assert [row.split()[1] for row in rows] == ["backbone", "head", "neck", "rest", "whole"]
    assert not [*tmp_path.iterdir()]
    for arguments, message in (
        (["nowhere.yaml"], "there is no nowhere.yaml; give a recipe, or the folder of a run"),
        (
            [str(ROOT / "configs" / "schedules" / "1x.yaml")],
            "is no recipe: its model has neither detector nor segmentor",
        ),
    ):
        with refused(message):
            main(["recipe", *arguments])
