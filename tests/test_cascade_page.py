"""The table about cascades in `docs/results.md` is that of the committed summaries."""

from pathlib import Path

import pytest

from benchmarks import cascade

ROOT = Path(__file__).parents[1]


def test_page_holds_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert f"<!-- cascade -->\n{cascade.table()}\n<!-- /cascade -->" in (ROOT / "docs" / "results.md").read_text()
