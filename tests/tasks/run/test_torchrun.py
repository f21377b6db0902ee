"""Training under torchrun: its processes share one run, and a restart of them goes on with it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.tasks.running import ROOT, fit_arguments, numbers_of_table, require_equal_checkpoints, run, two_processes


@pytest.mark.slow
def test_a_killed_process_costs_a_restart_and_nothing_else(shapes: Path, tmp_path: Path) -> None:
    """torchrun starts both processes again, which continue their own run: its end is that of an undisturbed one."""
    options = ("--trainer.max_epochs=2", "--save_every_n_steps=1", *two_processes())
    code, output = run("detect", fit_arguments("detect", shapes, tmp_path / "whole", "run", *options), 280)
    assert code == 0, output

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    arguments = fit_arguments("detect", shapes, tmp_path / "restarted", "run", *options)
    command = [*torchrun, "--monitor-interval=0.5", "-m", "tasks.detect", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        timer = threading.Timer(400, process.kill)
        timer.start()
        for line in process.stdout:
            lines.append(line)
            if "epoch 1 step 5" in line and not any("going on with" in before for before in lines):
                os.kill(second_of(process.pid), signal.SIGKILL)
        timer.cancel()
    output = "".join(lines)
    assert process.returncode == 0, output
    assert output.count("going on with") == 1, output
    one, other = tmp_path / "whole" / "detect" / "run", tmp_path / "restarted" / "detect" / "run"
    assert [folder.name for folder in other.parent.iterdir()] == ["run"]
    for name in ("last.ckpt", "best.ckpt"):
        require_equal_checkpoints(one / "checkpoints" / name, other / "checkpoints" / name)
    assert numbers_of_table(one) == numbers_of_table(other)


def second_of(agent: int) -> int:
    """Process id of the process with rank 1."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            if re.search(r"\0RANK=1\0", "\0" + Path(f"/proc/{child}/environ").read_text()):
                return int(child)
    raise AssertionError("torchrun has no second process")
