"""`docs/reliability.md` is right about itself: its counts are those of its rows, and every row is held by tests."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "reliability.md").read_text()
OUTCOMES = ("survived", "clear error", "not handled")
PACKAGES = ("attention", "backbones", "datamodules", "tasks")


class Row(NamedTuple):
    id: str
    fault: str
    what_happens: str
    outcome: str
    tests: str


def rows() -> Iterator[Row]:
    for line in DOCUMENT.splitlines():
        if line.startswith("| ") and not line.startswith("| id |"):
            yield Row(*(cell.strip() for cell in line.strip("|").split(" | ")))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield prefix + node.name


@cache
def defined_tests(file: str) -> set[str]:
    return set(functions(ast.parse((ROOT / file).read_text())))


ROWS = list(rows())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row_names_tests_that_exist(row: Row) -> None:
    assert row.fault and row.what_happens and row.outcome in OUTCOMES
    if row.outcome == "not handled":
        return
    assert "(waiting)" not in row.tests, "a test is still to be written"
    assert re.fullmatch(r"(`tests/[\w/]+\.py::(\w+::)?test_\w+`( |$))+", row.tests), row.tests
    for file, name in re.findall(r"`(.+?)::(.+?)`", row.tests):
        assert name in defined_tests(file), f"{file} has no {name}"


def test_counts_are_those_of_the_rows() -> None:
    counts = Counter(row.outcome for row in ROWS)
    assert len(ROWS) >= 95 and len({row.id for row in ROWS}) == len(ROWS)
    survived, refused, not_handled = (counts[outcome] for outcome in OUTCOMES)
    expected = (
        f"**{len(ROWS)} faults tried: {survived} survived, {refused} end in a clear error, {not_handled} not handled.**"
    )
    assert expected in DOCUMENT


def test_nothing_is_unpacked() -> None:
    """No archive is, so none can leave its folder or fill the disk."""
    unpacks = {"extract", "extractall", "unpack_archive"}
    called = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called.add(node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
    assert len(called) > 500 and not unpacks & called
