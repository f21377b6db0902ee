"""Differences from a row, in the tables of the terminal: the numbers are those of the report."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from tasks import compare
from tasks.report.differences import differences
from tasks.report.runs import find_runs
from tasks.report.sections import in_sections
from tasks.report.tables import grouped
from tests.tasks.conftest import refused
from tests.tasks.report.run_folders import write_run

Study = tuple[Path, dict[str, dict[str, Any]]]
RESAMPLES = "40"


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    compare.main([*map(str, words), "--resamples", RESAMPLES])
    return capsys.readouterr().out


def test_table_has_the_numbers_of_the_report(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Of both tasks; of the section that has no such row, and of the row itself, there are none."""
    root = study[0]
    rows = list(csv.DictReader(printed(capsys, root, "--against", "CoordinateAttention", "--csv").splitlines()))
    shown = printed(capsys, root, "--against", "CoordinateAttention")
    for task in ("detect", "segment"):
        (section,) = (part for part in in_sections(find_runs([root / task])) if len(part.finished) == 6)
        _, groups = grouped(section, None)
        found = differences(groups, int(RESAMPLES))
        assert [group.keys["attention"] for group in groups] == ["CoordinateAttention", "SqueezeExcitation", "none"]
        own = [row for row in rows if row["section"].startswith(task) and row["runs"] == "2"]
        assert own[0]["difference"] == ""
        for row, pair, corrected in zip(own[1:], found["pairs"][0], found["corrected"][0][1:], strict=True):
            numbers = [float(row[name]) for name in ("difference", "low", "high", "P(better)", "p")]
            assert numbers == pytest.approx(pair[:5], abs=1e-6)
            assert float(row["p, Holm"]) == pytest.approx(corrected, abs=1e-6)
            assert f"| {pair[0]:+.3f}     | {pair[1]:+.3f} to {pair[2]:+.3f} | {pair[3]:.3f}" in shown
    (alone,) = (row for row in rows if row["runs"] == "1")
    assert alone["difference"] == ""
    assert (
        "differences from MobileNetV2 x0.25, CoordinateAttention, FCOS on the same images; p corrected for 2" in shown
    )


def test_one_run_and_what_has_no_evaluation_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for attention in ("none", "CBAM", "ECA"):
        write_run(tmp_path / attention, attention=attention)
    (tmp_path / "ECA" / "evaluation.npz").unlink()
    shown = printed(capsys, tmp_path, "--against", "none,FCOS", "--latex")
    assert " * & " in shown and "\n% * of these runs, not of the methods: the seed is not in it\n" in shown
    assert "p corrected for 1 candidates" in shown and f"% {tmp_path / 'ECA'}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--against", "non"], "--against non names no row of these runs; did you mean none?"),
        (["--against", "FCOS"], "--against FCOS names 3 rows: MobileNetV2 x0.25,CoordinateAttention,FCOS; "),
        (["--against", "none", "--json"], "--json prints single runs, which --against does not compare; --csv has"),
        (["--against", "none", "--resamples", "0"], "--against takes resamples of the images, and --resamples is 0"),
        (["--against", "none", "--output", "folder"], "--against is for tables; in a report every row can be the"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words: list[str], message: str, study: Study) -> None:
    with refused(f"^error: {re.escape(message)}"):
        compare.main([str(study[0] / "detect"), *words])
