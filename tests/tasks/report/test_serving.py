"""The served report: one machine, a new version when files change, nothing read twice, a clean end."""

import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks import compare
from tasks.report import known_runs, serving
from tasks.report.known_runs import KnownRuns
from tasks.run.folder import RunRecord
from tests.tasks.conftest import refused
from tests.tasks.report.run_folders import write_run

NEW = '"attention":"ECA"'
"""What the page has of a run of ECA."""


def ask(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(errors="replace"), answer.headers


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def visitor(visit: Callable[[int], None]) -> Iterator[int]:
    """Visits the server that the main thread runs, and then presses Ctrl-C; fails where the visit does."""
    port, failures = free_port(), []

    def whole() -> None:
        try:
            assert wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            visit(port)
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=whole)
    thread.start()
    yield port
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for attention, quality in (("none", 0.5), ("CBAM", 0.6)):
        write_run(tmp_path / "runs" / attention, "segment", attention, quality=quality, images=6)
    return tmp_path / "runs"


def test_page_follows_its_files_until_ctrl_c(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "SECONDS", 0.05)

    def state(port: int) -> dict[str, str]:
        return json.loads(ask(port, "/version")[0])

    def visit(port: int) -> None:
        page, headers = ask(port)
        first = state(port)
        assert f'"version":"{first["version"]}"' in page and NEW not in page and first["trouble"] == ""
        policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
        assert policy.endswith("; connect-src 'self'") and policy.startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        picture = page.partition('"pictures":{"1":"')[2].partition('"')[0]
        assert "WEBP" in ask(port, f"/{picture}")[0][:20]
        for path, host, status in (("/", "example.org", 403), ("/pictures/../../x", "127.0.0.1", 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(port, path, host)
            assert refused.value.code == status
        write_run(runs / "ECA", "segment", "ECA", images=6)
        assert wait_for(lambda: NEW in ask(port)[0]) and state(port)["version"] != first["version"]
        for name in ("none", "CBAM", "ECA"):
            (runs / name).rename(runs.parent / name)
        assert wait_for(lambda: "no summary.json below" in state(port)["trouble"])
        assert NEW in ask(port)[0]  # what was there stays
        (runs.parent / "none").rename(runs / "none")
        assert wait_for(lambda: state(port)["trouble"] == "" and NEW not in ask(port)[0])

    with visitor(visit) as port:
        compare.main([str(runs), "--serve", "--port", str(port), "--resamples", "3"])  # returns: exit code 0
    assert capsys.readouterr().out == f"http://127.0.0.1:{port}/ until Ctrl-C\n"


def test_what_has_not_changed_is_not_read_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("read_run", "read_scores"):
        original = getattr(known_runs, name)
        monkeypatch.setattr(
            known_runs,
            name,
            lambda folder, *more, f=original, n=name: (read.append(f"{n} {folder.name}"), f(folder, *more))[1],
        )
    known = KnownRuns([runs], resamples=3)
    assert [run.folder.name for run in known.look() or ()] == ["CBAM", "none"] and known.look() is None
    scores = {name: known.scores(runs / name, "mIoU") for name in ("CBAM", "none")}
    assert known.scores(runs / "CBAM", "mIoU") is scores["CBAM"] and len(read) == 4
    with (runs / "none" / "metrics.csv").open("a") as table:
        table.write("\n")
    assert len(known.look() or ()) == 2 and known.scores(runs / "none", "mIoU") is scores["none"]
    assert read[4:] == ["read_run none"]
    write_run(runs / "none", "segment", "none", seed=1, images=6)
    known.look()
    again = known.scores(runs / "none", "mIoU")
    assert again is not scores["none"] and again.resampled(3, 0).shape == (3, 5) and len(again.score_images()) == 6
    shutil.rmtree(runs / "CBAM")
    assert [run.folder.name for run in known.look() or ()] == ["none"]


def test_files_that_are_half_written_are_shown_as_such(runs: Path, tmp_path: Path) -> None:
    report = serving.LiveReport(KnownRuns([runs], resamples=3), tmp_path / "report")
    report.look()
    whole = (runs / "CBAM" / "evaluation.npz").read_bytes()
    (runs / "CBAM" / "evaluation.npz").write_bytes(whole[:100])
    (runs / "none" / "summary.json").write_text('{"task": "segm')
    RunRecord(status="running").write(runs / "early")
    report.look()
    for words in ("is not the summary of a run", "running, or killed"):
        assert words in report.page
    (runs / "none" / "summary.json").unlink()
    write_run(runs / "none", "segment", images=6)
    report.look()
    assert "CBAM/evaluation.npz" in report.page.partition('"left_out":["')[2].partition('"]')[0]
    (runs / "CBAM" / "evaluation.npz").write_bytes(whole)
    report.look()
    assert '"left_out":[]' in report.page


def test_ports(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(rf"^error: --port {port} of 127.0.0.1 is in use; give another one, or 0"):
            compare.main([str(runs), "--serve", "--port", str(port)])
    with refused(r"^error: --port 70000 is no port, expected 0 to 65535$"):
        compare.main([str(runs), "--serve", "--port", "70000"])
    with refused(r"^error: no summary\.json below"):
        compare.main([str(runs / "nothing"), "--serve", "--port", "0"])
