"""A served report in a browser: it loads the newer version by itself, where the reader has left off."""

from pathlib import Path

import pytest

from tasks.report import serving
from tests.tasks.report.opened import launched
from tests.tasks.report.run_folders import write_run
from tests.tasks.report.test_serving import visitor


def test_state_is_kept_when_a_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SECONDS", 0.05)
    runs = tmp_path / "runs"
    for attention, quality in (("none", 0.5), ("CBAM", 0.6), ("CoordinateAttention", 0.7)):
        write_run(runs / attention, "segment", attention, quality=quality, images=6)
    asked: list[str] = []

    def visit(port: int) -> None:
        with launched() as (_, chromium):
            page = chromium.new_page(viewport={"width": 1000, "height": 500})
            faults: list[str] = []
            page.on("console", lambda message: faults.append(message.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_label("Baseline").select_option(label="CBAM")
            page.get_by_role("searchbox", name="Rows that contain").fill("runs/c")
            page.locator("th button[data-column='parameters']").click()
            page.get_by_role("button", name="All scores of CBAM").click()
            page.get_by_label("Over", exact=True).select_option("images")
            page.locator("#section-1-cost svg").wait_for()
            page.get_by_label("Over", exact=True).focus()
            page.evaluate("scrollTo(0, 700)")
            page.evaluate("window.first = true")
            write_run(runs / "ECA", "segment", "ECA", images=6)
            page.wait_for_function("!window.first", timeout=20_000)
            page.get_by_text("2 of 4 rows are shown").wait_for()
            page.wait_for_function("Math.abs(scrollY - 700) < 3")
            rows = page.locator("table.scores > tbody > tr[data-group]").all()
            assert [row.get_attribute("data-group") for row in rows] == ["CoordinateAttention", "CBAM"]
            chosen = "(list) => list.selectedOptions[0].text"
            assert page.get_by_label("Baseline").evaluate(chosen) == "CBAM"
            assert page.get_by_label("Over", exact=True).evaluate(chosen) == "images seen"
            assert page.evaluate("document.activeElement.selectedOptions[0].text") == "images seen"
            head = page.locator("th:has(button[data-column='parameters'])")
            assert head.get_attribute("aria-sort") == "descending"
            opened = page.locator("button[aria-expanded=true]").all()
            assert [button.get_attribute("aria-label") for button in opened] == ["All scores of CBAM"]
            page.evaluate("fetch('https://example.org/').catch(() => (window.refused = true))")
            page.wait_for_function("window.refused")
            assert faults != [] and all("Content Security Policy" in fault for fault in faults)

    with visitor(visit) as port:
        serving.serve([runs], port, resamples=3)
    assert [address for address in asked if not address.startswith((f"http://127.0.0.1:{port}/", "data:"))] == []
