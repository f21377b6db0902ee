"""Runs of W&B in a comparison: its files as W&B writes them, and a project on a stand-in of its server."""

import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import compare
from tasks.report import wandb_report
from tasks.report.content import report_content
from tasks.report.curves import read_curves
from tasks.report.runs import read_run
from tasks.report.sections import in_sections, ranked_together
from tasks.report.wandb_file import Logged, records
from tasks.report.wandb_runs import as_run, find_everywhere, joined
from tasks.run.summary import _as_config
from tasks.run.wandb_run import WandbRun
from tests.tasks.conftest import refused
from tests.tasks.report.run_folders import CLASSES, write_run
from tests.tasks.run.test_wandb_run import KEY, Handler, Server, lines  # noqa: F401

BEST, LATER = 5, 11
"""Steps of two evaluations: the first is the better one."""
AT_THE_END = ("data_hash", "start", "resumed_at", "peak_memory_MB", "seconds")


def scores_of(summary: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if name.startswith("val/") and name.count("/") == 1}


def parts_of(summary: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a training sends W&B as config and summary."""
    import yaml

    facts = {name: value for name, value in summary.items() if "/" not in name and name not in (*AT_THE_END, "run")}
    facts = {name: value for name, value in facts.items() if name not in ("epoch", "step")}
    config = yaml.safe_load((folder / "config.fit.yaml").read_text()) | _as_config(facts, CLASSES)
    data = json.loads((folder / "data.json").read_text())
    config |= {f"data/{split}/images": known["images"] for split, known in data.items()}
    classes = {name: value for name, value in summary.items() if name.count("/") > 1}
    return config, {name: summary[name] for name in AT_THE_END} | dict(reversed(classes.items()))


def assert_same_run(found: Any, folder: Path, scores: dict[str, float]) -> None:
    expected = read_run(folder)
    facts = {name for name in expected.summary if "/" not in name} - {"run", "data", "epoch", "step", "exit"}
    assert {name: found.summary[name] for name in facts} == {name: expected.summary[name] for name in facts}
    assert {name: found.summary[name] for name in scores} == scores and found.summary["step"] == BEST + 1
    assert found.classes == list(CLASSES) and found.images_per_step == expected.images_per_step
    assert dict(found.options) == dict(expected.options)
    assert ranked_together(found) == ranked_together(expected)


def test_offline_run_is_its_folder_again(tmp_path: Path, lines: list[str]) -> None:  # noqa: F811
    """Whole, cut as that of a run that goes on, and damaged."""
    folder = tmp_path / "runs" / "se-seed1"
    summary = write_run(folder, "segment", "SqueezeExcitation", seed=1, images=6)
    config, told = parts_of(summary, folder)
    scores = scores_of(summary)
    worse = {name: value / 2 for name, value in scores.items()} | {"val/images": 6}
    logged = tmp_path / "logged" / "se-seed1"
    logged.mkdir(parents=True)
    run = WandbRun(logged, "offline", {"name": "se-seed1", "project": "p", "group": "se", "tags": None}, 30)
    run.update_config(config)
    run.keep_best("val/mIoU", "max")
    for step in range(LATER + 1):
        run.log_metrics({"train/loss": 1 / (1 + step), "epoch": 0}, step)
        if step in (BEST, LATER):
            run.log_metrics(scores if step == BEST else worse, step)
    run.update_summary(told)
    run.upload_evaluation = True
    run.log_evaluation([folder / "evaluation.npz", folder / "nothing"])
    run.finish(0)
    assert lines == []
    (file,) = logged.glob("wandb/offline-run-*/run-*.wandb")
    assert f"{file.stem}-evaluation".encode() in file.read_bytes()
    write_run(tmp_path / "runs" / "none", "segment", images=6)
    both = find_everywhere([tmp_path / "runs" / "none", logged])
    found = both[1]
    assert (found.state, found.reason, found.name, found.folder) == ("finished", "", "se-seed1", file.parent)
    assert_same_run(found, folder, scores)
    curve = [(step + 1, float(f"{1 / (1 + step):.6g}")) for step in range(LATER + 1)]
    assert found.curves["train/loss"] == curve
    best, last = (float(f"{value:.6g}") for value in (scores["val/mIoU"], scores["val/mIoU"] / 2))
    assert found.curves["val/mIoU"] == [(BEST + 1, best), (LATER + 1, last)]
    (section,) = report_content(in_sections(both), tmp_path / "report", 5)["sections"]
    assert section["differences"]["left_out"][0].startswith("1 of the rows are of runs in W&B")
    assert len(section["differences"]["arms"]) == 1 and len(section["runs"]) == 2

    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    (cut,) = find_everywhere([logged])
    assert (cut.state, cut.reason) == ("unfinished", "running, or killed")
    file.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with refused(r"^error: W&B: .*run-\w+\.wandb: it is damaged at byte \d+$"):
        compare.main([str(logged)])


@pytest.mark.parametrize(
    ("state", "exit_code", "expected", "reason"),
    [
        ("finished", 0, "finished", ""),
        ("failed", 143, "unfinished", "stopped by SIGTERM"),
        ("failed", 4, "broken", "losses, gradients or weights are not finite"),
        ("failed", None, "broken", "failed, or stopped before its end; W&B does not say why"),
        ("running", None, "unfinished", "running, or killed"),
        ("preempting", None, "broken", "W&B calls it preempting"),
    ],
)
def test_states(state: str, exit_code: int | None, expected: str, reason: str) -> None:
    """Of the last of two starts; the undefined epoch of the first is not the best."""
    config = {"task": "detect", "headline": "val/error", "direction": "min", "facts": ["task", "headline", "direction"]}
    rows = [{"trainer/global_step": step, "val/error": value} for step, value in ((1, math.nan), (3, 0.5), (5, 0.75))]
    starts = [
        Logged("a", "x", "crashed", None, config, {}, rows[:2]),
        Logged("a", "x", state, exit_code, {}, {}, rows[2:]),
    ]
    run = as_run(joined(starts), Path("x"))
    assert (run.state, run.reason, run.score, run.summary["step"]) == (expected, reason, 0.5, 4)
    assert run.curves == {"val/error": [(4, 0.5), (6, 0.75)]}
    strange = as_run(Logged("b", "y", "finished", 0, {"lr": 0.1}), Path("y"))
    assert strange.state == "broken" and strange.summary == {} and "its config names no facts" in strange.reason


def log_of(*contents: bytes) -> bytes:
    """A log as LevelDB's description has it."""
    log = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    for content in contents:
        first = True
        while first or content:
            room = 32_768 - len(log) % 32_768
            if room < 7:
                log += bytes(room)
                continue
            part, content = content[: room - 7], content[room - 7 :]
            kind = (1 if first else 4) if not content else (2 if first else 3)
            log += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
    return bytes(log)


def test_records_of_all_lengths() -> None:
    contents = [b"", b"a", 32_740 * b"b", b"cd", 100_000 * b"e", b"f"]
    log = log_of(*contents)
    assert list(records(log)) == contents
    assert list(records(log[:-1])) == contents[:-1] and list(records(log[:60_000])) == contents[:4]
    assert list(records(log + bytes(20))) == contents
    for data in (b"", b":W&B", b"PK" + log[2:]):
        with pytest.raises(ValueError, match="does not begin as a file of W&B's"):
            list(records(data))


class Project(Handler):
    """Answers as the API of a project with two runs does."""

    GetDefaultEntity = Handler.Viewer
    runs: dict[str, dict[str, Any]]
    histories: dict[str, list[dict[str, Any]]]

    def Runs(self, variables: dict[str, Any]) -> Any:
        if (variables["entity"], variables["project"]) != ("team", "proj"):
            return {"project": None}
        edges = [{"node": {"projectId": "1", **run}, "cursor": name} for name, run in self.runs.items()]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}

    def RunFullHistory(self, variables: dict[str, Any]) -> Any:
        """A sample: of the evaluations only the last one is in it."""
        rows = [row for row in self.histories[variables["name"]] if row["trainer/global_step"] != BEST]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}

    def RunSampledHistory(self, variables: dict[str, Any]) -> Any:
        (spec,) = map(json.loads, variables["specs"])
        asked = {"_step", *spec["keys"]}
        rows = [{name: row[name] for name in asked} for row in self.histories[variables["name"]] if asked <= row.keys()]
        return {"project": {"run": {"sampledHistory": [rows]}}}

    def GetProjects(self, variables: dict[str, Any]) -> Any:
        node = {"__typename": "Project", "id": "p", "name": "proj", "entityName": "team", "user": None}
        node |= {"createdAt": "2026-11-29T00:00:00Z", "isBenchmark": False, "internalId": "1"}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": "p"}], "pageInfo": page}}

    def ProjectInternalId(self, _: dict[str, Any]) -> Any:
        return {"project": {"internalId": "1"}}

    def upsertView(self, variables: dict[str, Any]) -> Any:
        self.server.upserts.append(variables)
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        kept = {name: variables[name] for name in ("name", "displayName", "description", "type", "spec")}
        view = {**kept, "id": "Vmlldzox", "project": project, "updatedAt": "2026-11-29T00:00:00Z"}
        return {"upsertView": {"view": view, "inserted": True}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> Iterator[Server]:  # noqa: F811
    Project.runs, Project.histories = {}, {}
    server = Server(handler=Project)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.shutdown()
    server.server_close()


def add(name: str, summary: dict[str, Any], folder: Path, state: str) -> None:
    config, told = parts_of(summary, folder)
    scores = scores_of(summary)
    told |= {**scores, "val/mIoU": {"max": scores["val/mIoU"]}, "val/pictures": {"_type": "images"}, "val/images": 6}
    Project.histories[name] = [
        {"_step": 0, "trainer/global_step": BEST, **scores, "val/images": 6},
        {"_step": 1, "trainer/global_step": LATER, "val/mIoU": scores["val/mIoU"] / 2, "train/loss": 0.5},
    ]
    wrapped = {key: {"value": value} for key, value in config.items()}
    known = {"id": name, "name": name, "displayName": f"run {name}", "state": state, "tags": [], "group": None}
    known |= {"config": json.dumps(wrapped), "summaryMetrics": json.dumps(told), "systemMetrics": "{}"}
    known |= {"createdAt": "2026-11-29T00:00:00Z", "heartbeatAt": "2026-11-29T00:00:00Z", "jobType": "fit"}
    known |= {"description": None, "notes": None, "sweepName": None, "readOnly": False, "commit": None}
    user = {"name": "me", "username": "me"}
    Project.runs[name] = known | {"historyKeys": {"lastStep": 1, "keys": {}}, "user": user, "projectId": "1"}


def test_project_through_the_api(project: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "se"
    summary = write_run(folder, "segment", "SqueezeExcitation", seed=1, images=6)
    add("aaa", summary, folder, "finished")
    add("bbb", write_run(tmp_path / "runs" / "none", "segment", images=6), tmp_path / "runs" / "none", "crashed")
    found, crashed = find_everywhere([], "team/proj")
    assert (found.name, found.state, found.folder) == ("run aaa", "finished", Path("team/proj/aaa"))
    assert_same_run(found, folder, scores_of(summary))
    assert found.curves["train/loss"] == [(LATER + 1, 0.5)] and read_curves(found.folder) == {}
    assert crashed.state == "unfinished" and crashed.reason.startswith("W&B has not heard of it for minutes")
    with refused(r"^error: W&B: .*"):
        compare.main(["--wandb", "team/other"])
    with refused(r"^error: --wandb proj is no project of W&B, expected ENTITY/PROJECT$"):
        compare.main(["--wandb", "proj"])
    with refused(r"^error: --serve shows run folders"):
        compare.main(["--wandb", "team/proj", "--serve"])


def test_report_in_wandb(
    project: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    for attention, quality in (("none", 0.5), ("CBAM", 0.8)):
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{attention}-seed{seed}"
            write_run(folder, "segment", attention, seed, quality, images=6)
            if attention == "CBAM" or seed:
                (folder / "wandb_id.txt").write_text(f"{attention.lower()}{seed}\n")
    command = [str(tmp_path / "runs"), "--resamples", "20", "--wandb-report"]
    compare.main([*command, "team/proj"])
    assert capsys.readouterr().out == f"{project.url}/team/proj/reports/Comparison-of-runs--Vmlldzox\n"
    (sent,) = project.upserts
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("team", "proj", "Comparison of runs")
    blocks = json.loads(sent["spec"])["blocks"]
    (text,) = (block["content"] for block in blocks if block["type"] == "markdown-block")
    sections = in_sections(find_everywhere([tmp_path / "runs"]))
    assert text.startswith(compare.tables.markdown(sections))
    differences = report_content(sections, tmp_path / "report", 20)["sections"][0]["differences"]
    value, low, high, above, *_ = differences["pairs"][0][0]  # the baseline is the second one, the worse
    shown = [f"{-value:+.4f}", f"{-high:+.4f} to {-low:+.4f}", f"{1 - above:.3f}"]
    assert value < 0 and f"| CBAM | {' | '.join(shown)} | {differences['corrected'][1][0]:.3f} | 2 |" in text
    (grid,) = (block["metadata"] for block in blocks if block["type"] == "panel-grid")
    (runs,) = grid["runSets"]
    assert sorted(runs["filters"]["filters"][0]["value"]) == ["cbam0", "cbam1", "none1"]
    assert runs["grouping"] == [{"section": "config", "name": "attention.value"}]
    kinds = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert kinds == ["Bar Chart", "Scalar Chart", *2 * ["Run History Line Plot"], *4 * ["Scatter Plot"]]

    with refused(r"^error: W&B: team has no project other$"):
        compare.main([*command, "team/other"])
    for file in (tmp_path / "runs").glob("*/wandb_id.txt"):
        file.unlink()
    with refused(r"^error: .*none of the finished runs was logged with W&B"):
        compare.main([*command, "team/proj"])
    monkeypatch.setattr(wandb_report, "find_spec", lambda _: None)
    with refused(r"^error: --wandb-report needs wandb-workspaces; install the extra: pip install"):
        compare.main([*command, "team/proj"])
    assert len(project.upserts) == 1
