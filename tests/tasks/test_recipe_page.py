"""`docs/recipes.md`: every recipe is in it, and it is what the command writes."""

import csv

import pytest

from tasks import recipes
from tests.tasks.building import CONFIGS, RECIPES


def test_page_is_what_the_command_writes() -> None:
    recipes.main(["--check"])


def test_every_recipe_and_only_files_that_exist_are_listed() -> None:
    with (CONFIGS / "published.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["recipe"] for line in lines} == {f"{path.parent.name}/{path.stem}" for path in RECIPES}
    assert lines == sorted(lines, key=lambda line: line["recipe"])
    files = {line["backbone"] for line in lines if not line["backbone"].startswith("backbones.")}
    assert files <= {path.stem for path in CONFIGS.glob("backbones/*.yaml")}
    assert all(line["source"] for line in lines if line["published"])


def test_an_outdated_page_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(recipes, "PAGE", recipes.ROOT / "README.md")
    with pytest.raises(SystemExit, match=r"outdated; run python -m tasks.recipes --write README.md"):
        recipes.main(["--check"])
    recipes.main(["--write", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == recipes.page()
