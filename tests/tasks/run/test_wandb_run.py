"""Weights & Biases, with its real processes: offline, and against a stand-in of its server on this machine."""

import gzip
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from tasks.errors import MachineError, TaskError
from tasks.run import wandb_messenger, wandb_session
from tasks.run.table import CSVMetrics
from tasks.run.wandb_run import WandbOptions, WandbRun, finish_wandb, make_wandb_run

KEY = 40 * "0"


class Server(ThreadingHTTPServer):
    """Answers as W&B's server does as far as its client asks; or hangs, or fails.

    Attributes:
        fault: `hang`, an HTTP status that every request is answered with, or None.
        rows: What has arrived of a run's history.
        summary: A run's summary.
        config: A run's config.
    """

    daemon_threads = True

    def __init__(self, fault: str | int | None = None, handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.fault = fault
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.upserts: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200) -> None:
        if self.server.fault == "hang":
            time.sleep(60)
        data = json.dumps(content).encode()
        self.send_response(self.server.fault or status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        if self.server.fault is not None:
            return self.answer({"errors": [{"message": "refused by the stand-in"}]})
        if self.path.endswith("/file_stream"):
            for name, chunk in (json.loads(data).get("files") or {}).items():
                lines = [json.loads(line) for line in chunk["content"]]
                if name == "wandb-history.jsonl":
                    self.server.rows[chunk["offset"] :] = lines
                elif name == "wandb-summary.json":
                    self.server.summary = lines[-1]
            return self.answer({"exitcode": None, "limits": {}})
        if not self.path.endswith("/graphql"):
            return self.answer({})
        query = json.loads(data)
        name = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])[1]
        return self.answer({"data": getattr(self, name, lambda _: {})(query.get("variables") or {})})

    def Viewer(self, _: dict[str, Any]) -> Any:
        return {
            "viewer": {
                "id": "u",
                "entity": "team",
                "username": "me",
                "email": "",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def RunResumeStatus(self, variables: dict[str, Any]) -> Any:
        bucket = None
        if self.server.upserts:
            bucket = {
                "id": "b",
                "name": variables["name"],
                "displayName": "run",
                "summaryMetrics": json.dumps(self.server.summary),
                "historyLineCount": len(self.server.rows),
                "historyTail": json.dumps([json.dumps(row) for row in self.server.rows[-1:]]),
                "eventsLineCount": 0,
                "eventsTail": "[]",
                "logLineCount": 0,
                "config": "{}",
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
        return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "team"}, "bucket": bucket}}

    def UpsertBucket(self, variables: dict[str, Any]) -> Any:
        self.server.upserts.append(variables)
        self.server.config |= json.loads(variables.get("config") or "{}")
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "team"}}
        bucket = {"id": "b", "name": variables["name"], "displayName": "run", "config": "{}", "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}

    def CreateRunFiles(self, variables: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts a stand-in and lets W&B know it and a key."""
    servers: list[Server] = []

    def start(fault: str | int | None = None) -> Server:
        servers.append(Server(fault))
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A home without W&B's key; what is said; every helper is gone afterwards."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    said: list[str] = []
    for module in ("wandb_messenger", "set_aside"):
        monkeypatch.setattr(f"tasks.run.{module}.rank_zero_info", said.append)
    yield said
    finish_wandb(seconds=0)


def make(folder: Path, mode: str = "offline", **options: Any) -> WandbRun:
    folder.mkdir(exist_ok=True)
    run = make_wandb_run(WandbOptions(mode=mode, **options), "detect", folder)
    assert run is not None
    return run


def score(step: int) -> float:
    """Best early on, so that W&B itself would forget the maximum in a resume."""
    return 0.5 if step == 1 else 0.01 * step


def log_steps(run: WandbRun, *steps: int) -> None:
    run.keep_best("val/mAP", "max")
    for step in steps:
        run.log_metrics({"train/loss": 1 / (1 + step), "val/mAP": score(step)}, step)


def helper_of(run: WandbRun) -> int:
    """Waits until the run is open, and gives the process number of its helper."""
    messenger = run._messenger
    assert messenger._is_decided.wait(60) and not messenger._is_over
    return messenger._helper.pid


def children(pid: int) -> list[int]:
    """Of any of its threads; read by `pgrep`, for threads end while they are listed."""
    return [
        int(child) for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    ]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def curve(server: Server, name: str) -> list[tuple[int, float]]:
    return [(row["trainer/global_step"], row[name]) for row in server.rows if name in row]


def sync(folder: Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", *folder.glob("wandb/offline-run-*")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


class TestProject:
    @pytest.mark.parametrize(
        ("given", "entity", "project"), [("attndense", None, "attndense"), ("team/proj", "team", "proj")]
    )
    def test_is_split_from_its_team(self, tmp_path: Path, given: str, entity: str | None, project: str) -> None:
        run = make(tmp_path, project=given)
        assert (run.identity["entity"], run.identity["project"], run.name) == (entity, project, project)

    @pytest.mark.parametrize("given", ["", "/", "team/", "/proj", "a/b/c", "a#b", "what?", 129 * "x"])
    def test_that_cannot_be_is_refused(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(TaskError, match=r"--wandb.project .*expected PROJECT or TEAM/PROJECT"):
            make(tmp_path, project=given)


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("se-seed3", None, "se"),
        ("a_b_s12", None, "a_b"),
        ("quickstart", None, "detect"),
        ("glass", None, "detect"),
        ("se-seed3", "mine", "mine"),
    ],
)
def test_seeds_of_a_setting_share_a_group(tmp_path: Path, name: str, group: str | None, expected: str) -> None:
    run = make(tmp_path / name, group=group)
    assert (run.identity["group"], run.identity["job_type"]) == (expected, "fit")


class TestId:
    def test_is_kept(self, tmp_path: Path, lines: list[str]) -> None:
        first = wandb_messenger._wandb_id(tmp_path)
        assert re.fullmatch("[0-9a-f]{12}", first)
        assert wandb_messenger._wandb_id(tmp_path) == first == (tmp_path / "wandb_id.txt").read_text()
        assert lines == []

    @pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"a b", b"\xff\xfe", 65 * b"x", b"x/y"])
    def test_that_is_damaged_is_set_aside(self, tmp_path: Path, lines: list[str], content: bytes) -> None:
        (tmp_path / "wandb_id.txt").write_bytes(content)
        (tmp_path / "wandb_id.txt.damaged").write_text("an older one")
        new = wandb_messenger._wandb_id(tmp_path)
        assert (tmp_path / "wandb_id.txt").read_text() == new
        assert (tmp_path / "wandb_id.txt.damaged.2").read_bytes() == content
        assert (tmp_path / "wandb_id.txt.damaged").read_text() == "an older one"
        assert len(lines) == 1 and "wandb_id.txt.damaged.2" in lines[0]

    def test_in_a_folder_that_cannot_be_written_is_not_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert wandb_messenger._wandb_id(tmp_path / "file") != wandb_messenger._wandb_id(tmp_path / "file")


def test_disabled_by_option_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_wandb_run(WandbOptions(mode="disabled"), "detect", tmp_path) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert make_wandb_run(WandbOptions(), "detect", tmp_path) is None
    assert make(tmp_path, "offline").mode == "offline"  # the option beats the environment
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert make(tmp_path, "auto").mode == "offline"


def test_other_ranks_start_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Server]
) -> None:
    serve()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run = make(tmp_path, "online")
    log_steps(run, 0)
    run.update_config({"a": 1})
    run.update_summary({"a": 1})
    run.log_pictures("p", [], [], 0)
    run.finalize("success")
    run.finish()
    assert run._messenger is None and list(tmp_path.iterdir()) == [tmp_path / "home"]


def test_online_run_arrives_whole(tmp_path: Path, serve: Callable[..., Server], lines: list[str]) -> None:
    server = serve()
    had_wandb = "wandb" in sys.modules  # of another test
    run = make(tmp_path / "run", "online", project="team/proj", tags=["t"])
    assert had_wandb or "wandb" not in sys.modules  # none of it runs in this process
    run.update_config({"seed": 1, "folder": tmp_path, "model": {"width": 0.5}})
    run.add_tags(["other"])
    log_steps(run, *range(4))
    run.log_metrics({"val/mAP": 0.2}, 4)
    run.log_pictures("val/pictures", [np.zeros((4, 4, 3), np.uint8)], ["17"], 4)
    run.update_summary({"val/AP/cat": 0.25})
    run.finalize("success")
    run.finish()
    assert curve(server, "train/loss") == [(step, pytest.approx(1 / (1 + step))) for step in range(4)]
    assert [step for step, _ in curve(server, "val/mAP")] == [0, 1, 2, 3, 4]
    assert curve(server, "val/pictures")[0][1]["captions"] == ["17"]
    assert server.summary["val/mAP"] == {"max": 0.5} and server.summary["val/AP/cat"] == 0.25
    assert server.config["seed"]["value"] == 1 and server.config["model"]["value"] == {"width": 0.5}
    first = server.upserts[0]
    assert (first["entity"], first["project"], first["groupName"], first["tags"]) == ("team", "proj", "detect", ["t"])
    assert first["jobType"] == "fit" and not any("other" in (upsert.get("tags") or ()) for upsert in server.upserts)
    assert (first["displayName"], first["name"]) == ("run", (tmp_path / "run" / "wandb_id.txt").read_text())
    assert len(lines) == 1 and lines[0].startswith("W&B: http://127.0.0.1")


# Offline in every run: test_killed_offline_start_is_made_good
@pytest.mark.parametrize("mode", ["online", pytest.param("offline", marks=pytest.mark.slow)])
def test_resumed_run_draws_no_point_twice(tmp_path: Path, serve: Callable[..., Server], mode: str) -> None:
    """Killed in the validation at step 5, resumed from step 3: that validation is new, steps 3 to 5 are not."""
    server = serve()
    folder = tmp_path / "run"
    run = make(folder, mode)
    run.add_tags(["detect", 80 * "x"])
    log_steps(run, *range(5))
    run.log_metrics({"train/loss": 1 / 6}, 5)
    run.finish(1)
    time.sleep(1.1)  # W&B's folders are named after the second
    resumed = make(folder, mode)
    resumed.add_tags(["detect", 80 * "x"])
    log_steps(resumed, 3, 4, 5, 6)
    resumed.finish(0)
    if mode == "offline":
        assert len(list(folder.glob("wandb/offline-run-*"))) == 2
        sync(folder)
    assert {upsert["name"] for upsert in server.upserts} == {(folder / "wandb_id.txt").read_text()}
    assert curve(server, "train/loss") == [(step, pytest.approx(1 / (1 + step))) for step in range(7)]
    assert curve(server, "val/mAP") == [(step, pytest.approx(score(step))) for step in range(7)]
    assert server.upserts[-1]["tags"] == ["detect", 64 * "x"]
    rows = [row["_step"] for row in server.rows]
    assert rows == list(range(len(rows)))
    assert server.summary["val/mAP"] == {"max": 0.5}


@pytest.mark.parametrize("victim", ["wandb-core", "helper"])
def test_killed_process_costs_one_line(tmp_path: Path, lines: list[str], victim: str) -> None:
    run = make(tmp_path / "run")
    log_steps(run, 0, 1)
    helper = helper_of(run)
    os.kill(children(helper)[0] if victim == "wandb-core" else helper, signal.SIGKILL)
    step = iter(range(2, 10**9))

    def goes_on() -> bool:
        log_steps(run, next(step))
        return len(lines) > 0

    assert wait_for(goes_on)
    log_steps(run, *range(50))
    start = time.monotonic()
    run.finalize("success")
    run.finish()
    assert time.monotonic() - start < 1
    assert len(lines) == 1 and "has ended" in lines[0] and f"wandb sync {tmp_path}/run/wandb" in lines[0]
    assert not is_running(helper)


def test_hanging_process_costs_bounded_time(tmp_path: Path, lines: list[str]) -> None:
    run = make(tmp_path / "run", finish_seconds=1.5)
    log_steps(run, 0)
    core = children(helper_of(run))[0]
    os.kill(core, signal.SIGSTOP)
    try:
        start = time.monotonic()
        log_steps(run, *range(1, 100))
        assert time.monotonic() - start < 0.5
        run.finish()
        assert 1.5 <= time.monotonic() - start < 4
    finally:
        os.kill(core, signal.SIGKILL)
    assert len(lines) == 1 and "did not end within" in lines[0]


def test_helper_that_takes_nothing_is_given_up(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_messenger, "HANG_SECONDS", 1)
    run = make(tmp_path / "run")
    log_steps(run, 0)
    os.kill(helper_of(run), signal.SIGSTOP)
    pictures = [np.zeros((200, 200, 3), np.uint8)]
    for step in range(30):
        run.log_pictures("p", pictures, ["1"], step)
        time.sleep(0.05)
    assert len(lines) == 1 and "hangs" in lines[0]
    run.finish()


class TestServer:
    """`auto` goes offline, `online` ends in one line."""

    @pytest.mark.parametrize(
        "fault",
        [
            "down",
            pytest.param(403, marks=pytest.mark.slow),
            pytest.param("hang", marks=pytest.mark.slow),
            pytest.param(500, marks=pytest.mark.slow),
        ],
    )
    def test_auto_goes_offline(
        self,
        tmp_path: Path,
        serve: Callable[..., Server],
        lines: list[str],
        monkeypatch: pytest.MonkeyPatch,
        fault: Any,
    ) -> None:
        serve(None if fault == "down" else fault)
        if fault == "down":
            monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        start = time.monotonic()
        run = make(tmp_path / "run", "auto")
        log_steps(run, 0, 1)
        assert time.monotonic() - start < 0.5  # training does not wait
        assert wait_for(lambda: len(lines) > 0, wandb_messenger.AUTO_SECONDS + wandb_messenger.IMPORT_SECONDS)
        run.finish()
        assert len(lines) == 1 and "offline (" in lines[0] and "wandb sync" in lines[0]
        (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
        assert b"train/loss" in file.read_bytes()

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ("down", MachineError),
            (403, MachineError),
            ("no key", TaskError),
            pytest.param("short key", TaskError, marks=pytest.mark.slow),
            pytest.param("hang", MachineError, marks=pytest.mark.slow),
            pytest.param(500, MachineError, marks=pytest.mark.slow),
        ],
    )
    def test_online_is_refused_in_time(
        self, tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, fault: Any, error: type
    ) -> None:
        serve(fault if fault in ("hang", 403, 500) else None)
        if fault == "down":
            monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        elif fault == "no key":
            monkeypatch.delenv("WANDB_API_KEY")
        elif fault == "short key":
            monkeypatch.setenv("WANDB_API_KEY", "0123")
        start = time.monotonic()
        with pytest.raises(error, match=r"^--wandb.mode online: .*--wandb.mode auto") as caught:
            make(tmp_path / "run", "online")
        assert time.monotonic() - start < 30
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "fault", ["down", *(pytest.param(status, marks=pytest.mark.slow) for status in (403, 500))]
    )
    def test_lost_in_the_middle_does_not_matter(
        self, tmp_path: Path, serve: Callable[..., Server], lines: list[str], fault: Any
    ) -> None:
        server = serve()
        run = make(tmp_path / "run", "online", finish_seconds=2)
        log_steps(run, 0, 1)
        if fault == "down":
            server.shutdown()
            server.server_close()
        else:
            server.fault = fault
        start = time.monotonic()
        log_steps(run, *range(2, 20))
        assert time.monotonic() - start < 0.5
        run.finish()
        assert time.monotonic() - start < 5
        assert len(lines) == 2 and "W&B is over" in lines[1] and str(tmp_path / "run" / "wandb") in lines[1]
        (file,) = tmp_path.glob("run/wandb/run-*/run-*.wandb")
        assert wait_for(lambda: b"train/loss" in file.read_bytes())  # for `wandb sync`


class TestFolders:
    """W&B's own files."""

    def log(self, folder: Path) -> None:
        run = make(folder)
        log_steps(run, 0, 1)
        run.finish()

    @pytest.mark.parametrize(
        "home", ["/proc/nowhere", *(pytest.param(home, marks=pytest.mark.slow) for home in (None, "~"))]
    )
    def test_home_is_not_needed(
        self, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, home: str | None
    ) -> None:
        monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("WANDB_DIR", "/proc/nowhere")
        self.log(tmp_path / "run")
        assert lines == [] and len(list(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))) == 1

    def test_blocked_folder_is_said(self, tmp_path: Path, lines: list[str]) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "wandb").write_text("a file")
        self.log(tmp_path / "run")
        assert len(lines) == 1 and str(tmp_path / "run") in lines[0]


def test_damaged_memory_of_what_was_sent_is_no_error(tmp_path: Path, lines: list[str]) -> None:
    for content in ("", "[]", '{"id": 1}', "\0"):
        (tmp_path / "wandb_sent.json").write_text(content)
        assert wandb_session._read_sent(tmp_path / "wandb_sent.json", "x") == wandb_session.Sent()


class Regression(pl.LightningModule):
    """Kills wandb-core in step 3."""

    def __init__(self, run: WandbRun) -> None:
        super().__init__()
        self.run, self.layer = run, torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if index == 3:
            os.kill(children(helper_of(self.run))[0], signal.SIGKILL)
            time.sleep(0.5)
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_fit_goes_on_when_wandb_core_dies(tmp_path: Path, lines: list[str]) -> None:
    run, table = make(tmp_path / "run"), CSVMetrics(tmp_path / "run")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=[table, run],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Regression(run), torch.utils.data.DataLoader(torch.ones(10, 2)))
    finish_wandb(0)
    assert trainer.global_step == 10
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 11
    assert len([line for line in lines if "W&B is over" in line]) == 1


def train_for_ever(folder: Path, helper: Connection) -> None:
    run = make(folder)
    log_steps(run, 0, 1)
    helper.send(helper_of(run))
    time.sleep(60)


def test_helper_ends_with_a_killed_training(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    training = multiprocessing.get_context("fork").Process(target=train_for_ever, args=(tmp_path / "run", there))
    training.start()
    helper = here.recv()
    (core,) = children(helper)
    os.kill(helper, signal.SIGTERM)  # Slurm sends it to all processes of a job; the training decides
    time.sleep(0.2)
    assert is_running(helper)
    training.kill()
    training.join()
    assert wait_for(lambda: not is_running(helper) and not is_running(core))
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in file.read_bytes()


def test_killed_offline_start_is_made_good(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """W&B had written nothing yet when it was killed; the run goes on from step 3."""
    server = serve()
    folder = tmp_path / "run"
    table, run = CSVMetrics(folder), make(folder)
    for step in range(5):
        table.log_metrics({"train/loss": 1 / (1 + step), "val/mAP": score(step), "epoch": 0}, step)
        table.save()
    log_steps(run, *range(5))
    helper = helper_of(run)
    for pid in (*children(helper), helper):
        os.kill(pid, signal.SIGKILL)
    run.finish()
    time.sleep(1.1)  # W&B's folders are named after the second
    resumed = make(folder)
    resumed.catch_up(CSVMetrics(folder).continue_from(3))
    log_steps(resumed, 3, 4, 5)
    resumed.finish(0)
    sync(folder)
    assert curve(server, "train/loss") == [(step, pytest.approx(1 / (1 + step))) for step in range(6)]
    assert curve(server, "val/mAP") == [(step, pytest.approx(score(step))) for step in range(6)]
    assert server.summary["val/mAP"] == {"max": 0.5}
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb.cut"))) == 1


def test_online_run_notes_what_has_arrived(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """Only what a server surely has is left out after a kill."""
    serve()
    session = wandb_session.Session.__new__(wandb_session.Session)
    session._file, session._on_its_way = tmp_path / "wandb_sent.json", None
    session._is_online, session._shown_best, session.run = True, {"a": "max", "b": "min"}, MagicMock(id="x")
    session._sent = wandb_session.Sent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_session, "ARRIVAL_SECONDS", 0.05)
        session.log({"a": 1.0, "b": 2.0}, 10)
        session.log({"a": 3.0}, 20)
        assert wandb_session._read_sent(session._file, "x") == wandb_session.Sent()
        time.sleep(0.1)
        session.log({"a": 2.0}, 30)
    best = {"a": 1.0, "b": 2.0}
    assert wandb_session._read_sent(session._file, "x") == wandb_session.Sent({"a": 10, "b": 10}, best, best)
    assert wandb_session._read_sent(session._file, "another run") == wandb_session.Sent()
    for step, value in ((40, 0.5), (50, 0.75)):
        session.log({"a": value, "b": value, "c": value}, step)
    shown = {name: value for call in session.run.summary.update.call_args_list for name, value in call[0][0].items()}
    assert shown == {"a": {"max": 3.0}, "b": {"min": 0.5}}
