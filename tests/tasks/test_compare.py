"""The comparison table, and the numbers in the documents."""

import json
from pathlib import Path

import pytest

from tasks import compare
from tasks.comparison import runs_needed
from tasks.report.runs import find_runs
from tasks.report.sections import in_sections
from tests.tasks.conftest import refused

ROOT = Path(__file__).parents[2]


def write_summary(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True)
    facts = {
        "task": "detect",
        "backbone": "ResNet-50",
        "attention": "none",
        "detector": "FCOS",
        "head": "FCOS",
        "headline": "val/mAP",
        "direction": "max",
        "parameters": 1234567,
        "MACs": 89,
        "image_size": "8x8",
        "seconds": 12.3,
        "run": str(folder),
    }
    (folder / "summary.json").write_text(json.dumps(facts | values))


def test_table_orders_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(tmp_path / "detect" / "a", **{"val/mAP": 0.1})
    write_summary(tmp_path / "detect" / "b", **{"val/mAP": 0.25, "attention": "CBAM"})
    write_summary(tmp_path / "detect" / "c", **{"val/mAP": None})
    write_summary(tmp_path / "segment" / "d", **{"val/mIoU": 0.5, "task": "segment", "headline": "val/mIoU"})
    compare.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert "CBAM" in lines[2] and "mAP 0.250" in lines[2] and "1,234,567" in lines[2]
    assert "mAP 0.100" in lines[3] and "not defined" in lines[4] and "mIoU 0.500" in lines[5]
    compare.main([str(tmp_path / "detect" / "a"), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["val/mAP"] == 0.1


def test_the_run_names_its_score_and_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"task": "depth", "headline": "val/error/far", "direction": "min", "head": "Plane", "val/mAP": 0.9}
    for name, value in (("a", 3.0), ("b", None), ("c", 0.0), ("d", 1.5)):
        write_summary(tmp_path / name, **facts, **{"val/error/far": value})
    compare.main([str(tmp_path)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[6] for row in rows] == [
        *("error/far 0.000", "error/far 1.500", "error/far 3.000"),
        "error/far not defined",
    ]
    assert {row[3] for row in rows} == {"Plane"}


def test_summaries_that_name_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the version before are read, others shown as broken, with the reason."""
    old = {"headline": None, "direction": None, "head": None}
    write_summary(tmp_path / "a", **{"val/mAP": 0.1})
    write_summary(tmp_path / "b", **{"val/mIoU": 0.2, "task": "segment", "segmentor": "UPerHead"})
    for name in ("a", "b"):
        path = tmp_path / name / "summary.json"
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in old})
        )
    compare.main([str(tmp_path)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[3], row[6]) for row in rows] == [("FCOS", "mAP 0.100"), ("UPerHead", "mIoU 0.200")]
    path.write_text(json.dumps({"task": "depth"}))
    compare.main([str(tmp_path)])
    words = "does not say which number runs of 'depth' are compared by: it has no `headline`"
    assert capsys.readouterr().out.splitlines()[3:] == ["", f"broken: {tmp_path / 'b'}: {path} {words}"]
    path.write_text("[]")
    compare.main([str(tmp_path)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"broken: {tmp_path / 'b'}: {path} is not the summary of a run (TypeError)"


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with refused(r"no summary\.json"):
        compare.main([str(tmp_path)])


def test_write_replaces_the_table_of_a_document(tmp_path: Path) -> None:
    write_summary(tmp_path / "runs" / "a", **{"val/mAP": 0.1})
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- runs -->\nold\n<!-- /runs -->\nafter\n")
    compare.main([str(tmp_path / "runs"), "--write", str(document)])
    text = document.read_text()
    assert text.startswith("before\n<!-- runs -->\n| task") and text.endswith("|\n<!-- /runs -->\nafter\n")
    assert "old" not in text


@pytest.mark.parametrize(
    ("document", "results"), [("README.md", "docs/results/quickstart"), ("docs/results.md", "docs/results/overfit")]
)
def test_documents_hold_the_committed_results(document: str, results: str) -> None:
    text = (ROOT / document).read_text()
    assert compare.replace_table(text, in_sections(find_runs([ROOT / results]))) == text


def test_a_plan_says_how_many_runs(capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(["--plan", "0.2", "0.3"])
    assert capsys.readouterr().out == "7 runs of each method\n"
    page = (ROOT / "docs/comparing.md").read_text()
    assert f"takes {runs_needed(0.2, 0.3)} runs of each method" in page and f"AP takes {runs_needed(0.2, 0.5)}." in page
    with refused("^error: the wanted difference is 0, expected a number other than 0$"):
        compare.main(["--plan", "0.2", "0"])
    with refused(r"no summary\.json below nothing; expected run folders"):
        compare.main([])
