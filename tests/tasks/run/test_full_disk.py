"""Saves that are killed, or find the disk full, with `$TMPDIR` on a small file system of its own."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.run import exit_codes
from tasks.run.resume import newest_good_checkpoint
from tests.tasks.running import Running, fit_arguments


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Two file systems in memory: `tmp` of 1 MB for $TMPDIR, `runs` of 21 MB: three checkpoints and no fourth."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    mounted = []
    for name, size in (("tmp", "1m"), ("runs", "21m")):
        (tmp_path / name).mkdir()
        answer = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path / name])
        if answer.returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted.append(tmp_path / name)
    yield tmp_path
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def checkpoints(run: Path) -> Path:
    return run / "detect" / "run" / "checkpoints"


@pytest.mark.slow  # in every run: test_a_full_disk_is_said_and_loses_nothing in test_files.py
def test_a_full_disk_ends_the_run_and_loses_nothing(small: Path, shapes: Path) -> None:
    """The third save finds no room beside the best, the last and the one before."""
    for trial in range(20):
        runs = small / "runs" / str(trial)
        arguments = fit_arguments("detect", shapes, runs, "run", "--save_every_n_steps=1")
        running = Running("detect", arguments, TMPDIR=str(small / "tmp"))
        code = running.end()
        assert code == exit_codes.MACHINE, running.output
        assert "No space left on device" in running.lines[-1] and "is untouched" in running.lines[-1]
        found = newest_good_checkpoint(runs / "detect" / "run")
        assert found is not None and found.step >= 2
        assert not list(checkpoints(runs).glob(".*")) and not list((small / "tmp").iterdir())
        subprocess.run(["rm", "-r", runs], check=True)
        print(f"trial {trial}: exit {code}, step {found.step} is good")  # noqa: T201


@pytest.mark.slow
def test_a_kill_in_a_save_leaves_the_checkpoint_before(shapes: Path, tmp_path: Path, small: Path) -> None:
    draw = random.Random(0)
    in_a_save = 0
    for trial in range(20):
        runs = tmp_path / "killed" / str(trial)
        running = Running(
            "detect", fit_arguments("detect", shapes, runs, "run", "--save_every_n_steps=1"), TMPDIR=str(small / "tmp")
        )
        running.wait_for(rf"step {draw.randint(2, 10)}/12")
        end = time.monotonic() + 30
        while time.monotonic() < end and not list(checkpoints(runs).glob(".last.ckpt.*.tmp")):
            pass
        running.kill()
        in_a_save += bool(list(checkpoints(runs).glob(".last.ckpt.*.tmp")))
        steps = [int(line.split("step ")[1].split("/")[0]) for line in running.lines if "/12 loss" in line]
        found = newest_good_checkpoint(runs / "detect" / "run")
        assert found is not None and found.step >= max(steps) - 1, running.output
        assert not list((small / "tmp").iterdir())
        print(f"trial {trial}: killed after step {max(steps)}, step {found.step} is good")  # noqa: T201
    assert in_a_save >= 5
