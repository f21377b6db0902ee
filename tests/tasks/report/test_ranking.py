"""Which runs count, which may be ranked together, and what makes a row of them."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from tasks import compare
from tasks.report import tables
from tasks.report.groups import Spread, in_groups, spread_of
from tasks.report.keys import Keys
from tasks.report.runs import find_runs, read_run
from tasks.report.sections import in_sections
from tests.tasks.conftest import refused
from tests.tasks.report.run_folders import write_run

Study = tuple[Path, dict[str, dict[str, Any]]]


def test_states_and_their_reasons(study: Study) -> None:
    root, summaries = study
    runs = find_runs([root])
    assert {str(run.folder) for run in runs if run.state == "finished"} == summaries.keys()
    assert {run.folder.name: (run.state, run.reason) for run in runs if run.state != "finished"} == {
        "stopped": ("unfinished", "stopped by SIGTERM; saved at step 12"),
        "early": ("unfinished", "running, or killed; taken up at step 3"),
        "failed": ("broken", "failed: loss is not finite at step 7; saved at step 6"),
        "damaged": (
            "broken",
            f"{root / 'detect' / 'damaged' / 'summary.json'} is not the summary of a run (JSONDecodeError)",
        ),
    }


def test_finished_without_a_summary_is_broken(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    run = read_run(tmp_path / "run")
    assert (run.state, run.reason) == ("broken", "it has no summary.json: no epoch was scored")


def test_sections_of_the_study(study: Study) -> None:
    """Another ground truth is ranked by itself, however good it is; runs without a score are in no table."""
    sections = in_sections(find_runs([study[0]]))
    assert [
        (section.title, [run.folder.name for run in section.runs]) for section in sections if section.is_scored
    ] == [
        ("detect, mAP, ground truth 30 images", [*_ranked(study, "detect"), "stopped"]),
        ("detect, mAP, ground truth 30 images (2)", ["other-data"]),
        ("segment, mIoU", [*_ranked(study, "segment"), "failed"]),
    ]
    (rest,) = (section for section in sections if not section.is_scored)
    assert [run.folder.name for run in rest.others] == ["damaged", "early"]


def _ranked(study: Study, task: str) -> list[str]:
    score = {"detect": "val/mAP", "segment": "val/mIoU"}[task]
    scores = {
        Path(folder).name: summary[score]
        for folder, summary in study[1].items()
        if summary["task"] == task and not folder.endswith("other-data")
    }
    return sorted(scores, key=lambda name: -scores[name])


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"data": 1}, ("ground truth",)),
        ({"images": 29}, ("ground truth", "images scored")),
        ({"task": "segment"}, ()),
        ({"lr": 0.1}, None),
        ({"attention": "CBAM"}, None),
    ],
)
def test_what_is_never_ranked_together(tmp_path: Path, change: dict[str, Any], differs: tuple[str, ...] | None) -> None:
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", **change)
    sections = in_sections(find_runs([tmp_path]))
    assert [section.differs for section in sections] == [()] if differs is None else [differs] * 2


def test_ground_truth_of_runs_without_a_hash(tmp_path: Path) -> None:
    """What was known of the split counts, not where it lies; beside a run with a hash it is another one."""
    for folder, data in (("one/a", 0), ("two/a", 0), ("two/b", 1)):
        summary = write_run(tmp_path / folder, data=data)
        del summary["data_hash"]
        (tmp_path / folder / "summary.json").write_text(json.dumps(summary))
    write_run(tmp_path / "hashed")
    sections = in_sections(find_runs([tmp_path]))
    found = [[run.folder.relative_to(tmp_path).as_posix() for run in section.runs] for section in sections]
    assert sorted(map(sorted, found)) == [["hashed"], ["one/a", "two/a"], ["two/b"]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.limit_val_batches", 2),
        ("data.init_args.max_images", 9),
        ("model.segmentor.init_args.inference", "Slide"),
    ],
)
def test_evaluations_are_never_mixed(tmp_path: Path, name: str, value: object) -> None:
    import yaml

    for folder in ("one", "two"):
        write_run(tmp_path / folder)
    file = tmp_path / "two" / "config.fit.yaml"
    content = yaml.safe_load(file.read_text())
    *path, last = name.split(".")
    place = content
    for step in path:
        place = place.setdefault(step, {})
    place[last] = value
    file.write_text(yaml.safe_dump(content))
    assert [section.differs for section in in_sections(find_runs([tmp_path]))] == [("evaluation",)] * 2


def test_classes_by_name(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_run(tmp_path / folder)
    file = tmp_path / "two" / "summary.json"
    file.write_text(file.read_text().replace("AP/disk", "AP/ring"))
    sections = in_sections(find_runs([tmp_path]))
    assert [section.title for section in sections] == ["detect, mAP, classes 4", "detect, mAP, classes 4 (2)"]


def test_seeds_are_folded_by_hand(study: Study) -> None:
    root, summaries = study
    section = in_sections(find_runs([root]))[0]
    keys = Keys(section.finished)
    assert keys.shown == ["backbone", "attention", "head"] and keys.offered == [
        "recipe",
        "start",
        "image_size",
        "processes",
        "seed",
        "device",
        "git",
        "torch",
        "versions",
    ]
    groups = in_groups(section.runs, keys, keys.shown)
    assert [group.keys["attention"] for group in groups] == ["CoordinateAttention", "SqueezeExcitation", "none"]
    for group in groups:
        scores = [
            summaries[str(root / "detect" / f"{group.keys['attention']}-seed{seed}")]["val/mAP"] for seed in (0, 1)
        ]
        found = group.spread("mAP")
        assert (found.mean, found.count) == (sum(scores) / 2, 2), group.keys
        assert found.deviation == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5, rel=1e-12)
        assert group.remark == ""
    (whole,) = in_groups(section.runs, keys, ["head"])
    assert whole.remark == "differ in attention; a seed is there twice" and len(whole.runs) == 6


def test_spread() -> None:
    assert spread_of([3.0, None, 5.0, 10.0]) == Spread(6.0, 13**0.5, 3)
    assert spread_of([2.5]) == Spread(2.5, None, 1) and spread_of([None]) is None
    assert [str(spread_of(values)) for values in ([0.25], [0.25, 0.75])] == ["0.250", "0.500 ± 0.354 (n = 2)"]


def test_options_that_differ_are_no_seeds(tmp_path: Path) -> None:
    """Runs that differ in an option stand in rows of their own; a run without a known seed stands alone."""
    for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.2)):
        write_run(tmp_path / f"seed{seed}", seed=seed, lr=rate)
    unknown = tmp_path / "unknown"
    summary = write_run(unknown, lr=0.1)
    (unknown / "summary.json").write_text(json.dumps({**summary, "seed": None}))
    (section,) = in_sections(find_runs([tmp_path]))
    keys = Keys(section.finished)
    assert [keys.label(name) for name in keys.shown] == ["backbone", "attention", "head", "lr"]
    found = {tuple(run.folder.name for run in group.runs) for group in in_groups(section.runs, keys, keys.shown)}
    assert found == {("seed0", "seed1"), ("seed2",), ("unknown",)}


def test_options_of_an_attention_are_no_keys_of_their_own(tmp_path: Path) -> None:
    """The width of a backbone follows from its name, unless two of one name differ in it."""
    write_run(tmp_path / "one", attention="CBAM")
    write_run(tmp_path / "two", attention="ECA")
    file = tmp_path / "two" / "config.fit.yaml"
    file.write_text(file.read_text().replace("width: 0.25", "width: 0.25\n      reduction: 8"))
    assert Keys(find_runs([tmp_path])).shown == ["backbone", "attention", "head"]
    write_run(tmp_path / "three", attention="ECA")
    assert Keys(find_runs([tmp_path])).shown == ["backbone", "attention", "head", "model.backbone.reduction"]


def test_csv_and_latex(study: Study) -> None:
    root, summaries = study
    sections = in_sections(find_runs([root / "segment"]))
    rows = list(csv.DictReader(tables.as_csv(sections).splitlines()))
    assert [row["attention"] for row in rows] == ["CoordinateAttention", "SqueezeExcitation", "none"]
    of_none = [summaries[str(root / "segment" / f"none-seed{seed}")] for seed in (0, 1)]
    assert float(rows[2]["IoU/star"]) == pytest.approx(
        statistics.mean(one["val/IoU/star"] for one in of_none), rel=1e-12
    )
    assert float(rows[2]["mIoU sd"]) == pytest.approx(statistics.stdev(one["val/mIoU"] for one in of_none), rel=1e-9)
    assert (rows[2]["runs"], rows[2]["parameters"], float(rows[2]["seconds"])) == ("2", "405867.0", 30.5)
    lines = tables.latex(sections).splitlines()
    assert lines[:4] == [r"% segment, mIoU", r"\begin{tabular}{llllllll}", r"\toprule", lines[3]]
    assert r"mIoU 0." in lines[5] and r"$\pm$ " in lines[5] and lines[-1] == r"\end{tabular}"
    assert len(lines) == 10


def test_unknown_keys_are_refused(study: Study) -> None:
    with refused("^error: --by atention is no key of these runs.* attention"):
        compare.main([str(study[0] / "segment"), "--by", "atention"])


def test_by_keys(study: Study) -> None:
    sections = in_sections(find_runs([study[0] / "segment"]))
    lines = tables.markdown(sections, ["head"]).splitlines()
    assert (
        len(lines) == 3 + 2 + 1 and "(n = 6)" in lines[2] and "differ in attention; a seed is there twice" in lines[2]
    )
    assert [line.partition(":")[0] for line in lines[-2:]] == ["unfinished", "broken"]
