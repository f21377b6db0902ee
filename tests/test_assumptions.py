"""docs/assumptions.md and the code agree: every number that is cited exists, every entry is cited where it is made."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("attention", "backbones", "configs", "datamodules", "tasks")
ROW = re.compile(r"^\| A(\d+) \| (.+?) \| (.+?) \| (.+?) \| (.*?)\|$", re.MULTILINE)


def cited() -> dict[int, str]:
    """Number -> the text of all files that cite it."""
    found: dict[int, str] = {}
    for package in PACKAGES:
        for file in (*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.yaml")):
            text = file.read_text()
            for sentence in re.findall(r"assumptions?((?:[\s#]+(?:A\d+|and),?)+)", text):
                for number in re.findall(r"A(\d+)", sentence):
                    found[int(number)] = found.get(int(number), "") + text
    return found


def test_every_assumption_is_cited_and_every_citation_exists() -> None:
    rows = ROW.findall((ROOT / "docs" / "assumptions.md").read_text())
    numbers = [int(row[0]) for row in rows]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 20
    files = cited()
    assert sorted(files) == numbers
    for number, _, _, _, option in rows:
        for name in re.findall(r"`(\w+)", option):
            assert re.search(rf"^ +{name}: ", files[int(number)], re.MULTILINE), f"A{number}: no option {name}"
