"""Told to stop, killed, and continued: nothing is lost, and the end is that of a run that nobody disturbed."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.run import exit_codes
from tasks.run.record import read_record
from tasks.run.stop import SAME_REQUEST, StopRequests
from tests.tasks.running import Running, fit_arguments, require_equal_runs, run, two_processes

MOMENTS = {
    "before the first step": r"run folder",
    "in a step": r"epoch 1 step 5",
    "at the end of an epoch": r"epoch 0 step 3",
    "in validation": r"epoch 1 step 6",
    "at the end": r"epoch 3 step 12",
}
SHORT = "--trainer.max_epochs=2"
"""Half as long, for what is tried in every run of the tests."""


@pytest.fixture(scope="module")
def short(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nobody disturbs."""
    runs = tmp_path_factory.mktemp("short")
    code, output = run("detect", fit_arguments("detect", shapes, runs, "run", SHORT))
    assert code == 0, output
    return runs / "detect" / "run"


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    runs = tmp_path_factory.mktemp("whole")
    code, output = run("detect", fit_arguments("detect", shapes, runs, "run"))
    assert code == 0, output
    return runs / "detect" / "run"


@pytest.fixture(scope="module")
def whole_of_two(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two processes."""
    runs = tmp_path_factory.mktemp("whole-of-two")
    code, output = run("detect", fit_arguments("detect", shapes, runs, "run", *two_processes()))
    assert code == 0, output
    return runs / "detect" / "run"


def chain(folder: Path) -> list[tuple[int, int | None, str]]:
    """Where each start of a run went on, how far it came, and how it ended."""
    record = read_record(folder)
    assert record is not None
    return [(start.step, start.last_step, start.reason) for start in record.starts]


class TestRequests:
    @pytest.fixture
    def left(self) -> Iterator[list[int]]:
        yield []

    def test_the_first_signal_is_a_request(self, left: list[int]) -> None:
        requests = StopRequests(60, left.append)
        assert requests.signal == 0
        requests.note(signal.SIGUSR1)
        requests.note(signal.SIGTERM)  # a moment later: a cluster's second signal
        assert requests.signal == signal.SIGUSR1 and left == []
        requests.done()

    def test_a_second_signal_leaves_at_once(self, left: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        requests = StopRequests(60, left.append)
        requests.note(signal.SIGINT)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + SAME_REQUEST + 0.1)
        requests.note(signal.SIGINT)
        assert left == [130]
        requests.done()

    def test_the_time_is_bounded(self, left: list[int]) -> None:
        requests = StopRequests(0.2, left.append)
        requests.note(signal.SIGTERM)
        time.sleep(0.6)
        assert left == [143] and "--stop_within" in requests.last_words


def stopped_and_continued(
    shapes: Path, runs: Path, moment: str, number: int, everybody: bool, *options: str, resume: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Stops a run when it prints a line, and continues it; gives exit code and output of the first part."""
    arguments = fit_arguments("detect", shapes, runs, "run", *options)
    running = Running("detect", arguments)
    running.wait_for(moment)
    running.signal(number, everybody)
    code = running.end(60)
    running.require_no_orphans()
    has_nothing = moment == MOMENTS["before the first step"] and "nothing was to be saved" in running.output
    assert (runs / "detect" / "run" / "checkpoints" / "last.ckpt").exists() != has_nothing, running.output
    again, output = run("detect", [*arguments, "--resume=auto", *resume])
    assert again == 0, output
    return code, running.output


def test_sigterm_saves_and_the_continued_run_equals_one_that_nobody_stopped(
    shapes: Path, tmp_path: Path, short: Path
) -> None:
    """As the validation of the first of two epochs begins."""
    code, output = stopped_and_continued(shapes, tmp_path, r"epoch 0 step 3", signal.SIGTERM, True, SHORT)
    assert code == exit_codes.TERMINATED
    assert output.splitlines()[-1].startswith("continue: python -m tasks.detect fit --config ")
    require_equal_runs(short, tmp_path / "detect" / "run")
    assert chain(tmp_path / "detect" / "run") == [(0, 3, "stopped by SIGTERM"), (3, 6, "finished")]


def test_kill_loses_no_more_than_the_steps_since_the_last_save(shapes: Path, tmp_path: Path, short: Path) -> None:
    arguments = fit_arguments("detect", shapes, tmp_path, "run", SHORT, "--save_every_n_steps=2")
    running = Running("detect", arguments)
    running.wait_for(r"epoch 1 step 5")
    running.kill()
    code, output = run("detect", [*arguments, "--resume=auto"])
    assert code == 0 and "step 4, epoch 1" in output, output
    require_equal_runs(short, tmp_path / "detect" / "run")
    (_, logged, reason), last = chain(tmp_path / "detect" / "run")
    assert logged in (4, 5, 6) and reason == "killed" and last == (4, 6, "finished")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_tiles(task: str, shapes: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch of tiles: the rest of them follows."""
    size = {
        "detect": ("--data.pipeline.height=96", "--data.pipeline.width=96", "--data.pipeline.test_scale=1"),
        "segment": ("--data.pipeline.shorter=96", "--data.pipeline.longest=96", "--data.pipeline.crop=96"),
    }
    options = (SHORT, "--data.tiles.size=96", "--data.tiles.overlap=24", *size[task])
    code, output = run(task, fit_arguments(task, shapes, tmp_path / "whole", "run", *options))
    assert code == 0, output
    arguments = fit_arguments(task, shapes, tmp_path, "run", *options)
    running = Running(task, arguments)
    running.wait_for(r"epoch 1 step 1\d")
    running.signal(signal.SIGTERM)
    assert running.end(60) == exit_codes.TERMINATED, running.output
    code, output = run(task, [*arguments, "--resume=auto"])
    assert code == 0, output
    (_, stopped, _), (again, end, reason) = chain(tmp_path / task / "run")
    assert 9 < (end or 0) // 2 < again == stopped < (end or 0) and reason == "finished"
    require_equal_runs(tmp_path / "whole" / task / "run", tmp_path / task / "run")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_every_signal_at_every_moment(moment: str, number: int, shapes: Path, tmp_path: Path, whole: Path) -> None:
    code, output = stopped_and_continued(shapes, tmp_path, MOMENTS[moment], number, False, "--data.num_workers=1")
    assert code == exit_codes.of_signal(number), output
    require_equal_runs(whole, tmp_path / "detect" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("whom", ["first", "second", "both"])
def test_two_processes(moment: str, whom: str, shapes: Path, tmp_path: Path, whole_of_two: Path) -> None:
    arguments = fit_arguments("detect", shapes, tmp_path, "run", *two_processes())
    running = Running("detect", arguments)
    running.wait_for(MOMENTS[moment])
    if whom == "second":
        os.kill(running.children()[0], signal.SIGTERM)
    else:
        running.signal(signal.SIGTERM, everybody=whom == "both")
    assert running.end(90) == exit_codes.TERMINATED, running.output
    running.require_no_orphans()
    code, output = run("detect", [*arguments, "--resume=auto"])
    assert code == 0, output
    require_equal_runs(whole_of_two, tmp_path / "detect" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_random_moments(
    number: int, processes: int, shapes: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each of 20 runs is hit once, somewhere between its first line and its end, and continued."""
    expected: Path = request.getfixturevalue("whole" if processes == 1 else "whole_of_two")
    options = ("--save_every_n_steps=1", *(two_processes() if processes == 2 else ()))
    draw = random.Random(f"{number}/{processes}")
    codes = []
    for trial in range(20):
        runs = tmp_path / str(trial)
        arguments = fit_arguments("detect", shapes, runs, "run", *options)
        running = Running("detect", arguments)
        running.wait_for("run folder")
        time.sleep(draw.uniform(0, 8))
        if running.process.exitcode is None:
            running.kill() if number == signal.SIGKILL else running.signal(number)
        codes.append(running.end(90))
        running.require_no_orphans()
        code, output = run("detect", [*arguments, "--resume=auto"])
        assert code == 0, output
        require_equal_runs(expected, runs / "detect" / "run")
        print(f"trial {trial}: exit {codes[-1]}, last line {running.lines[-1]!r}")  # noqa: T201
    assert set(codes) <= {0, -number, exit_codes.of_signal(number)}
