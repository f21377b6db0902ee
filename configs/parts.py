"""The files of this installation that stand for parts of recipes, by their names: `resnet50_cbam`."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def part_names(folder: str) -> list[str]:
    """Names of the files of a folder below `configs`, without their ending; none for an empty name."""
    return sorted(file.stem for file in (HERE / folder).glob("*.yaml")) if folder else []


def part_file(folder: str, name: str) -> Path | None:
    """The file of a name, if there is one."""
    file = HERE / folder / f"{name}.yaml"
    return file if folder and re.fullmatch(r"\w+", name) and file.is_file() else None


def recipe_names() -> list[tuple[str, str]]:
    """All recipes, `detect/retinanet_1x`, each with the first line of the comment that its file begins with."""
    files = sorted(file for folder in ("detect", "segment") for file in (HERE / folder).glob("*.yaml"))
    return [(f"{file.parent.name}/{file.stem}", _first_comment(file)) for file in files]


def _first_comment(file: Path) -> str:
    lines = file.read_text().splitlines()
    return lines[0].removeprefix("#").strip() if lines and lines[0].startswith("#") else ""
