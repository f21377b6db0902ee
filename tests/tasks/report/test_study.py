"""The study of docs/study: its runs, its report in a browser, and the documents that show its numbers."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.compare import replace_table
from tasks.comparison import read_run
from tasks.report.baseline import Baseline
from tasks.report.runs import Run, find_runs
from tasks.report.sections import in_sections
from tests.tasks.report.opened import Opened

STUDY = Path(__file__).parents[3] / "docs" / "study"
SEEDS = {"detect": 4, "segment": 3}
ARMS = 7


@pytest.fixture(scope="module")
def arms() -> dict[str, dict[str, list[Run]]]:
    """The runs of each attention, by task."""
    found: dict[str, dict[str, list[Run]]] = {"detect": {}, "segment": {}}
    for run in find_runs([STUDY / "runs"]):
        found[run.summary["task"]].setdefault(run.summary["attention"], []).append(run)
    return found


def test_it_is_whole(arms: dict[str, dict[str, list[Run]]]) -> None:
    for task, seeds in SEEDS.items():
        assert len(arms[task]) == ARMS
        for runs in arms[task].values():
            assert [(run.state, run.seed) for run in runs] == [("finished", seed) for seed in range(seeds)]
            assert all(run.measured for run in runs)


def test_evaluations_give_the_scores_of_the_summaries(arms: dict[str, dict[str, list[Run]]]) -> None:
    """Of all runs, for all classes; `evaluation.npz` was written by the training, and is scored without the model."""
    for task, per_class in (("detect", "AP"), ("segment", "IoU")):
        for run in (run for runs in arms[task].values() for run in runs):
            scored = read_run(run.folder)
            expected = [run.score, *(run.scores[f"{per_class}/{name}"] for name in scored.class_names)]
            assert len(expected) in (7, 10) and 0.3 < expected[0] < 0.9
            np.testing.assert_allclose(scored.scores, expected, rtol=0, atol=1e-12)
            assert len(scored.images) == 96


def test_the_page_holds_the_table_of_its_runs() -> None:
    """With the differences from the arm without attention, as the command in it writes them."""
    text = (STUDY / "README.md").read_text()
    assert replace_table(text, in_sections(find_runs([STUDY / "runs"])), Baseline("none", 1000)) == text


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    window = Opened(browser[1], (STUDY / "index.html").as_uri(), last=2, viewport={"width": 1280, "height": 900})
    yield window
    window.page.context.close()
    assert window.faults == []


def test_report_in_a_browser(opened: Opened, arms: dict[str, dict[str, list[Run]]]) -> None:
    """Every number that is compared equals the summaries; it sorts, filters, groups, and shows what a mark is."""
    for section, (task, of_task) in enumerate(arms.items(), 1):
        means = {name: statistics.fmean(run.score or 0 for run in runs) for name, runs in of_task.items()}
        assert opened.rows(section) == sorted(means, key=lambda name: -means[name]), task
        for name, mean in means.items():
            assert opened.value(name, section=section) == pytest.approx(mean, rel=1e-12)
            if name != "none":
                change = opened.value(name, section=section, table="differences")
                assert change == pytest.approx(mean - means["none"], abs=1e-6)
    page = opened.page
    page.locator("#section-1 button[data-column='parameters']").click()
    sizes = {name: runs[0].summary["parameters"] for name, runs in arms["detect"].items()}
    assert opened.rows() == sorted(sizes, key=lambda name: -sizes[name])
    page.get_by_role("searchbox", name="Rows that contain").first.fill("static")
    assert opened.rows() == ["StaticGate"]
    page.get_by_role("searchbox", name="Rows that contain").first.fill("")
    page.locator("#section-1").get_by_role("checkbox", name="seed").check()
    assert len(opened.rows()) == ARMS * SEEDS["detect"]
    seed2 = next(run for run in arms["detect"]["CBAM"] if run.seed == 2)
    assert opened.value("CBAM, seed 2") == seed2.score
    mark = page.locator("#section-2-cost path[aria-roledescription='point']").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert "mIoU" in page.locator("#vg-tooltip-element").inner_text()


def test_pictures_of_the_report_lie_beside_it() -> None:
    page = (STUDY / "index.html").read_text()
    content = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    named = {place for part in content["sections"] for run in part["runs"] for place in run["pictures"].values()}
    assert named == {file.relative_to(STUDY).as_posix() for file in (STUDY / "pictures").rglob("*.webp")}
