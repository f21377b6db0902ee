"""The numbers of the report: those of the summaries, differences by the statistics' functions, and what lies beside."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import compare
from tasks.comparison import build_arm, estimate_mean, read_run
from tasks.comparison import compare as compare_arms
from tasks.report import bundle
from tasks.report.content import report_content
from tasks.report.curves import fitting, read_curves, thinned
from tasks.report.runs import find_runs, ranked_by
from tasks.report.sections import in_sections
from tasks.report.writing import PAGE, assemble
from tasks.run.evaluation_file import SegmentationEvaluation
from tests.tasks.conftest import refused
from tests.tasks.report.run_folders import BATCH, EPOCHS, SECONDS_PER_STEP, STEPS, write_run

Study = tuple[Path, dict[str, dict[str, Any]]]
RESAMPLES = 40


@pytest.fixture(scope="module")
def content(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report_content(in_sections(find_runs([study[0]])), tmp_path_factory.mktemp("report"), RESAMPLES)


def test_numbers_equal_the_summaries(study: Study, content: dict[str, Any]) -> None:
    runs = {run["name"]: run for section in content["sections"] for run in section["runs"]}
    assert {name for name, run in runs.items() if run["state"] == "finished"} == study[1].keys()
    for name, summary in study[1].items():
        scores = {
            key.removeprefix("val/"): value
            for key, value in summary.items()
            if key.startswith("val/") and key not in ("val/images", "val/classes")
        }
        assert runs[name]["scores"] == scores and runs[name]["seed"] == summary["seed"]
        costs = {name: summary[name] for name in ("parameters", "MACs", "seconds")}
        costs |= {"noted step": 100.0, "noted memory": summary["peak_memory_MB"]}
        assert {key: value for key, value in runs[name]["costs"].items() if value is not None} == costs


def test_unscored_and_unfinished_runs(content: dict[str, Any]) -> None:
    assert [Path(run["name"]).name for run in content["unscored"]] == ["damaged", "early"]
    states = {Path(run["name"]).name: run["state"] for section in content["sections"] for run in section["runs"]}
    assert states["stopped"] == "unfinished" and states["failed"] == "broken"
    compared = [section["differences"]["arms"] for section in content["sections"] if section["differences"]]
    names = [name for arms in compared for arm in arms for name in arm["runs"]]
    assert len(names) == 12 and not any("stopped" in name or "failed" in name for name in names)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_differences_are_those_of_the_statistics(study: Study, content: dict[str, Any], task: str) -> None:
    root = study[0] / task
    section = next(part for part in content["sections"] if part["title"].startswith(task) and len(part["runs"]) > 5)
    found = section["differences"]
    names = [Path(arm["runs"][0]).name.partition("-")[0] for arm in found["arms"]]
    assert sorted(names) == ["CoordinateAttention", "SqueezeExcitation", "none"] and found["left_out"] == []
    arms = {
        name: build_arm(name, [read_run(root / f"{name}-seed{seed}") for seed in (0, 1)], RESAMPLES) for name in names
    }
    for place, baseline in enumerate(names):
        low, high = (end[0] for end in estimate_mean(arms[baseline]).interval())
        assert found["arms"][place]["interval"] == pytest.approx([low, high], abs=1e-6)
        others = [name for name in names if name != baseline]
        for candidate, expected in zip(
            others, compare_arms(arms[baseline], [arms[name] for name in others]), strict=True
        ):
            other = names.index(candidate)
            assert found["corrected"][place][other] == pytest.approx(expected.p_corrected, abs=1e-6)
            if other > place:
                value, low, high, above, p_value, seeds, classes = found["pairs"][place][other - place - 1]
                estimate = expected.estimate
                ends = [end[0] for end in estimate.interval()]
                numbers = [estimate.value[0], *ends, estimate.above_zero[0], estimate.p_value[0]]
                assert [value, low, high, above, p_value] == pytest.approx(numbers, abs=1e-6) and seeds
                halves = (estimate.interval()[1] - estimate.interval()[0])[1:] / 2
                columns = (estimate.value[1:], halves, expected.class_p_corrected)
                assert np.array(classes) == pytest.approx(np.stack(columns, axis=1), abs=1e-4)
    assert found["corrected"][0][0] is None and set(found["front"]) == {
        "parameters",
        "MACs",
        "noted step",
        "noted memory",
        "seconds",
    }
    assert all(0 <= share <= 1 for shares in found["front"].values() for share in shares)


def test_another_score_than_the_headline(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranked by it, compared by it; the headline stands beside it."""
    folder = study[0] / "detect"
    sections = in_sections(ranked_by(find_runs([folder]), "mAP50"))
    section = report_content(sections, tmp_path, RESAMPLES)["sections"][0]
    assert section["headline"] == "mAP50" and section["beside"] == ["mAP"]
    names = [Path(arm["runs"][0]).name.partition("-")[0] for arm in section["differences"]["arms"]]
    one, other = ([read_run(folder / f"{name}-seed{seed}", "mAP50") for seed in (0, 1)] for name in names[:2])
    (expected,) = compare_arms(build_arm("", one, RESAMPLES), [build_arm("", other, RESAMPLES)])
    value, low, high, *_ = section["differences"]["pairs"][0][0]
    ends = [end[0] for end in expected.estimate.interval()]
    assert [value, low, high] == pytest.approx([expected.estimate.value[0], *ends], abs=1e-6)
    compare.main([str(folder), "--score", "mAP50"])
    assert "mAP50 " in capsys.readouterr().out.split("| score")[1]
    with refused(r"error: --score mAP5 is no score of these runs.*mAP50"):
        compare.main([str(folder), "--score", "mAP5"])


def test_runs_without_an_evaluation_are_named(tmp_path: Path) -> None:
    """The rest is compared; of one run each, the seed is not in it."""
    for attention in ("none", "CBAM", "ECA"):
        write_run(tmp_path / "runs" / attention, attention=attention)
    (tmp_path / "runs" / "CBAM" / "evaluation.npz").unlink()
    (section,) = report_content(in_sections(find_runs([tmp_path])), tmp_path / "report", RESAMPLES)["sections"]
    found = section["differences"]
    assert sorted(Path(arm["runs"][0]).name for arm in found["arms"]) == ["ECA", "none"]
    assert [arm["seeds"] for arm in found["arms"]] == [False, False] and found["pairs"][0][0][5] is False
    assert len(found["left_out"]) == 1 and "CBAM has no evaluation.npz" in found["left_out"][0]


def test_curves(study: Study, content: dict[str, Any]) -> None:
    curves = read_curves(study[0] / "detect" / "none-seed0")
    assert list(curves) == ["seconds", "train/loss", "perf/step_p50", "val/mAP"]
    seconds = [[step, SECONDS_PER_STEP * step] for step in range(1, EPOCHS * STEPS + 1)]
    assert [step for step, _ in curves["val/mAP"]] == [STEPS * (epoch + 1) for epoch in range(EPOCHS)]
    assert curves["train/loss"][3] == (4, 0.5)
    run = next(run for run in content["sections"][0]["runs"] if run["name"].endswith("none-seed0"))
    assert {"seconds": [list(pair) for pair in run["times"]], **run["curves"]} == curves | {"seconds": seconds}
    assert run["images_per_step"] == BATCH
    line = [(step, math.sqrt(step)) for step in range(1, 1001)]
    few = thinned(line, 7)
    assert len(few) == 7 and (few[0], few[-1]) == (line[0], line[-1]) and few[3] in (line[499], line[500])
    fitted = fitting({Path("a"): {"x": line, "y": line[:30]}, Path("b"): {"x": line}}, total=160)
    assert [len(curve) for own in fitted.values() for curve in own.values()] == [62, 30, 62]


def test_pictures_lie_beside_the_page(study: Study, tmp_path: Path) -> None:
    sections = in_sections(find_runs([study[0] / "segment"]))
    (section,) = report_content(sections, tmp_path, 0)["sections"]
    assert section["differences"] is None
    for run in section["runs"]:
        assert sorted(run["pictures"]) == ["1", "2"]
        for name, place in run["pictures"].items():
            original = np.asarray(Image.open(Path(run["name"]) / "pictures" / f"{name}.png")).astype(int)
            assert np.abs(np.asarray(Image.open(tmp_path / place)).astype(int) - original).max() <= 3


def test_images_that_differ_most(study: Study, tmp_path: Path) -> None:
    sections = in_sections(find_runs([study[0] / "segment"]))
    (section,) = report_content(sections, tmp_path, resamples=5)["sections"]
    images, arms = section["differences"]["images"], section["differences"]["arms"]
    areas = [[SegmentationEvaluation.read(Path(run) / "evaluation.npz").areas for run in arm["runs"]] for arm in arms]
    # Every class is annotated in every image of these.
    scores = [sum((one.intersection / one.union).mean(axis=1) for one in runs) / len(runs) for runs in areas]
    for one, rivals in enumerate(images["pairs"]):
        for other, most in enumerate(rivals, one + 1):
            gains = scores[other] - scores[one]
            order = sorted(range(30), key=lambda place: -gains[place])
            assert most == [
                *[place for place in order if gains[place] > 0][:6],
                *[p for p in order if gains[p] < 0][-6:],
            ]
            for place in most:
                expected = [score[place] for score in scores]
                assert images["scores"][place] == pytest.approx(expected, abs=1e-4)
                assert images["files"][place] == f"val/{place:04}.jpg"
    assert images["pictures"] == {"1": 1, "2": 2}


def test_a_text_stands_above_the_numbers(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "about.txt"
    text.write_text("Drawn shapes,\nno photographs.\n \n\nA <b> is no tag.\n")
    arguments = [str(study[0] / "segment"), "--output", str(tmp_path / "out"), "--resamples=0", "--about"]
    compare.main([*arguments, str(text)])
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert '"about":["Drawn shapes, no photographs.","A \\u003cb> is no tag."]' in page
    with refused(r"error: --about .*none.txt cannot be read as text"):
        compare.main([*arguments, str(tmp_path / "none.txt")])


def test_page_holds_everything_and_names_no_server(content: dict[str, Any]) -> None:
    page = assemble({**content, "made": "</script><script>alert(1)</script>"})
    assert len(page.encode()) < 1_100_000 and page.count("</script>") == 3
    begin = page.index('type="application/json">') + len('type="application/json">')
    assert json.loads(page[begin : page.index("</script>", begin)])["sections"] == json.loads(
        json.dumps(content["sections"])
    )
    own = page.replace((PAGE / "vega.js").read_text(), "")
    assert "http:" not in own and "https:" not in own and "/* vega.js */" not in own
    for holder in ("University of Washington Interactive Data Lab", "Mike Bostock", "Robert Penner"):
        assert holder in own
    for words in ("Redistribution and use in source", "Permission to use, copy, modify, and/or distribute"):
        assert words in own


@pytest.mark.slow
def test_bundle_is_the_one_that_the_command_writes() -> None:
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    assert (PAGE / "vega.js").read_text() == bundle.bundle()


def test_command_writes_the_report(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main([str(study[0] / "segment"), "--output", str(tmp_path / "report"), "--resamples", "20"])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "report" / "index.html")]
    assert (tmp_path / "report" / "index.html").stat().st_size < 1_500_000


def test_undefined_scores_are_no_numbers(tmp_path: Path) -> None:
    summary = write_run(tmp_path / "runs" / "one")
    file = tmp_path / "runs" / "one" / "summary.json"
    file.write_text(json.dumps({**summary, "val/mAP_large": None}))
    (section,) = report_content(in_sections(find_runs([tmp_path])), tmp_path / "report", 0)["sections"]
    assert section["runs"][0]["scores"]["mAP_large"] is None and np.isfinite(section["runs"][0]["scores"]["mAP"])
