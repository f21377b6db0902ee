"""Training under torchrun: its processes share one run, and a restart of them goes on with it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.running import ROOT, fit_arguments, numbers_of_table, require_equal_checkpoints, run, two_processes

pytestmark = pytest.mark.slow
OPTIONS = ("--trainer.max_epochs=2", "--save_every_n_steps=1", *two_processes())


def under_torchrun(arguments: list[str], when: str, act: Callable[[int], None]) -> tuple[int, str]:
    """Runs a command in two processes that may be restarted once; something happens to it when it first says a line.

    Args:
        arguments: Arguments of the command.
        when: What the line holds.
        act: Called with the process id of torchrun.

    Returns:
        Exit code and output.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*torchrun, "--monitor-interval=0.5", "-m", "tasks.detect", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output, has_acted = "", False
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        timer = threading.Timer(400, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        for line in process.stdout:
            output += line
            if when in line and not has_acted:
                has_acted = True
                act(process.pid)
        timer.cancel()
    return process.returncode, output


def kill_the_second(agent: int) -> None:
    """kill -9 to the process of rank 1."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            if re.search(r"\0RANK=1\0", "\0" + Path(f"/proc/{child}/environ").read_text()):
                os.kill(int(child), signal.SIGKILL)
                return
    raise AssertionError("torchrun has no second process")


def test_a_killed_process_costs_a_restart_and_nothing_else(shapes: Path, tmp_path: Path) -> None:
    """torchrun starts both processes again, which continue their own run: its end is that of an undisturbed one."""
    code, output = run("detect", fit_arguments("detect", shapes, tmp_path / "whole", "run", *OPTIONS), 400)
    assert code == 0, output
    arguments = fit_arguments("detect", shapes, tmp_path / "restarted", "run", *OPTIONS)
    code, output = under_torchrun(arguments, "epoch 1 step 5", kill_the_second)
    assert code == 0 and output.count("going on with") == 1, output
    one, other = tmp_path / "whole" / "detect" / "run", tmp_path / "restarted" / "detect" / "run"
    assert [folder.name for folder in other.parent.iterdir()] == ["run"]
    for name in ("last.ckpt", "best.ckpt"):
        require_equal_checkpoints(one / "checkpoints" / name, other / "checkpoints" / name)
    assert numbers_of_table(one) == numbers_of_table(other)


def test_sigterm_to_torchrun_saves_and_ends_it(shapes: Path, tmp_path: Path) -> None:
    arguments = fit_arguments("detect", shapes, tmp_path, "run", *OPTIONS)
    code, output = under_torchrun(arguments, "epoch 0 step 2", lambda agent: os.kill(agent, signal.SIGTERM))
    assert code != 0 and "stopped by SIGTERM at step" in output and "going on with" not in output, output
    assert (tmp_path / "detect" / "run" / "checkpoints" / "last.ckpt").is_file()
