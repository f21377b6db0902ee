"""The report in a browser: its numbers equal the summaries, it sorts, filters, groups, and asks nobody for anything."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.report.runs import find_runs
from tasks.report.sections import in_sections
from tasks.report.writing import write_report
from tests.tasks.report.opened import Opened

Study = tuple[Path, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def report(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(in_sections(find_runs([study[0]])), tmp_path_factory.mktemp("report"), resamples=50).as_uri()


@pytest.fixture
def opened(browser: Any, report: str) -> Iterator[Opened]:
    window = Opened(browser[1], report, viewport={"width": 1280, "height": 900})
    yield window
    window.page.context.close()
    assert window.faults == []


def mean_of(study: Study, task: str, score: str, *attentions: str) -> float:
    names = [f"{attention}-seed{seed}" for attention in attentions for seed in (0, 1)]
    return statistics.fmean(study[1][str(study[0] / task / name)][f"val/{score}"] for name in names)


def test_numbers_sorting_grouping_and_filters(study: Study, opened: Opened) -> None:
    page = opened.page
    order = ["CoordinateAttention", "SqueezeExcitation", "none"]
    assert opened.rows() == opened.rows(3) == order
    for attention in order:
        assert opened.value(attention) == pytest.approx(mean_of(study, "detect", "mAP", attention), rel=1e-12)
        assert opened.value(attention, section=3) == pytest.approx(
            mean_of(study, "segment", "mIoU", attention), rel=1e-12
        )
    other = study[1][str(study[0] / "detect" / "other-data")]
    assert (
        opened.rows(2) == ["MobileNetV2 x0.25, none"] and opened.value(opened.rows(2)[0], section=2) == other["val/mAP"]
    )

    head = page.locator("#section-1 th:has(button[data-column='parameters'])")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending" and opened.rows() == [
        "CoordinateAttention",
        "SqueezeExcitation",
        "none",
    ]
    page.keyboard.press("Enter")  # the button has kept the focus
    assert head.get_attribute("aria-sort") == "ascending" and opened.rows() == order[::-1]

    first = page.get_by_role("searchbox", name="Rows that contain").first
    first.fill("squeeze")
    assert opened.rows() == ["SqueezeExcitation"]
    assert opened.value("SqueezeExcitation") == pytest.approx(
        mean_of(study, "detect", "mAP", "SqueezeExcitation"), rel=1e-12
    )
    first.fill("")
    page.locator("#section-1 .filters").get_by_label("seed").select_option("=0")
    assert (
        opened.rows() == order[::-1]
        and "every number is of all runs" not in page.get_by_role("status").first.inner_text()
    )
    assert opened.value("none") == pytest.approx(mean_of(study, "detect", "mAP", "none"), rel=1e-12)
    page.locator("#section-1 .filters").get_by_label("attention").select_option("=none")
    assert opened.rows() == ["none"] and "1 of 3 rows are shown" in page.get_by_role("status").first.inner_text()
    for name in ("attention", "seed"):
        page.locator("#section-1 .filters").get_by_label(name).select_option("*")

    box = page.locator("#section-1").get_by_role("checkbox", name="attention")
    box.focus()
    page.keyboard.press("Space")
    (whole,) = opened.rows()
    assert opened.value(whole) == pytest.approx(mean_of(study, "detect", "mAP", *order), rel=1e-12)
    assert "differ in attention" in page.locator(f"#section-1 tr[data-group='{whole}']").inner_text()
    page.locator("#section-1").get_by_role("checkbox", name="seed").check()
    assert len(opened.rows()) == 2

    page.locator("#section-3").get_by_role("button", name="All scores of none").press("Enter")
    cells = page.locator("#section-3 tr.more:not([hidden]) table.classes tbody td[data-value]")
    expected = [mean_of(study, "segment", f"IoU/{name}", "none") for name in ("disk", "square", "star", "cross")]
    assert [float(cell.get_attribute("data-value")) for cell in cells.all()] == pytest.approx(expected, rel=1e-12)


def test_views(study: Study, opened: Opened) -> None:
    """Runs that do not count, with the reason; differences from each baseline; what a mark of a chart is."""
    page = opened.page
    assert "stopped by SIGTERM; saved at step 12" in page.locator("#section-1 table.states").inner_text()
    assert "loss is not finite at step 7" in page.locator("#section-3 table.states").inner_text()
    rest = page.locator("main > section").last.inner_text()
    assert "damaged" in rest and "is not the summary of a run" in rest and "running, or killed" in rest

    gain = mean_of(study, "detect", "mAP", "CoordinateAttention") - mean_of(study, "detect", "mAP", "none")
    assert opened.value("CoordinateAttention", table="differences") == pytest.approx(gain, abs=1e-6)
    above = opened.value("CoordinateAttention", 1, table="differences")
    page.locator("#section-1").get_by_label("Baseline").select_option(label="CoordinateAttention")
    assert opened.value("none", table="differences") == pytest.approx(-gain, abs=1e-6)
    assert opened.value("none", 1, table="differences") == pytest.approx(1 - above, abs=1e-6)

    rows = page.locator("#section-1-images table tbody tr")
    assert 2 <= rows.count() <= 12
    one, other, change = (float(cell.get_attribute("data-value")) for cell in rows.first.locator("td").all())
    assert change == pytest.approx(other - one) and change > 0
    assert page.locator("#section-1-images .pair").count() == 2
    words = page.locator("#section-1-images .pair").first.inner_text()
    assert "CoordinateAttention, seed 0, val/" in words and "SqueezeExcitation, seed 0, val/" in words

    mark = page.locator("#section-1-cost path[aria-roledescription='point']").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    words = tooltip.inner_text()
    assert "CoordinateAttention" in words and "on the front" in words and "%" in words
    page.locator("#section-1-curves").get_by_label("Over", exact=True).select_option("images")
    page.locator("#section-1-curves .chart[aria-label*='images seen']").wait_for()
    page.wait_for_function(
        "document.querySelectorAll(\"#section-1-curves path[aria-roledescription='line mark']\").length === 7"
    )


def test_everything_has_a_name_and_takes_the_keyboard(opened: Opened) -> None:
    page = opened.page
    unnamed = "[...document.querySelectorAll('select, input')].filter((one) => !one.labels.length).length"
    assert page.evaluate(unnamed) == 0
    for query in ("table:not(:has(> caption))", "th:not([scope])", "img:not([alt])", ".scroll:not([aria-label])"):
        assert page.locator(query).count() == 0, query
    broken = "[...document.images].filter((one) => one.loading !== 'lazy' && !one.naturalWidth).length"
    assert page.evaluate(broken) == 0
    image = page.locator("#section-1-pictures img").first
    image.scroll_into_view_if_needed()
    page.wait_for_function("(image) => image.naturalWidth === 80", arg=image.element_handle())
    page.keyboard.press("Tab")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName + (document.activeElement.type || '')"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    assert {"INPUTcheckbox", "INPUTsearch", "SELECTselect-one", "BUTTONbutton"} <= seen


def test_phone_by_day_and_night(browser: Any, report: str) -> None:
    """Nothing is wider than the screen, but tables within their own frame; colours follow the system."""
    driver, chromium = browser
    window = Opened(chromium, report, **driver.devices["iPhone 13"])
    page = window.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colour = "(one) => getComputedStyle(one).{}.match(/\\d+/g).map(Number)"
    text = page.locator("#section-1-cost svg text").first
    assert max(text.evaluate(colour.format("fill"))) < 140
    assert min(page.locator("body").evaluate(colour.format("backgroundColor"))) > 200
    page.emulate_media(color_scheme="dark")
    assert max(page.locator("body").evaluate(colour.format("backgroundColor"))) < 50
    drawn = (
        "Math.min(...getComputedStyle(document.querySelector('#section-1-cost svg text')).fill.match(/\\d+/g)) > 140"
    )
    page.wait_for_function(drawn)
    page.context.close()
    assert window.faults == []
