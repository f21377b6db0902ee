"""The table about padding in `docs/pitfalls.md` is what the command measures."""

import re
from pathlib import Path

import pytest

from benchmarks.padding import OPERATORS, changes

PAGE = Path(__file__).parents[1] / "docs" / "pitfalls.md"


def test_page_holds_what_is_measured() -> None:
    text = PAGE.read_text().partition("<!-- padding -->")[2].partition("<!-- /padding -->")[0]
    rows = text.strip().splitlines()[2:]
    assert len(rows) == len(OPERATORS)
    for row, operator in zip(rows, OPERATORS, strict=True):
        assert row.startswith(f"| {'none' if operator is None else operator.__name__} |")
        written = [float(value) for value in re.findall(r"([\d.]+) %", row)]
        assert written == pytest.approx([100 * change for change in changes(operator)], abs=0.1)
