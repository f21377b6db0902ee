"""The comparison table, and the numbers in the documents."""

import json
from pathlib import Path

import pytest

from tasks import compare

ROOT = Path(__file__).parents[2]


def write_summary(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True)
    facts = {
        "task": "detect",
        "backbone": "ResNet-50",
        "attention": "none",
        "detector": "FCOS",
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
    write_summary(tmp_path / "segment" / "d", **{"val/mIoU": 0.5, "task": "segment"})
    compare.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert "CBAM" in lines[2] and "mAP 0.250" in lines[2] and "1,234,567" in lines[2]
    assert "mAP 0.100" in lines[3] and "not defined" in lines[4] and "mIoU 0.500" in lines[5]
    compare.main([str(tmp_path / "detect" / "a"), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["val/mAP"] == 0.1


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no summary\.json"):
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
    assert compare.replace_table(text, compare.find_summaries([ROOT / results])) == text
