"""One and two processes with the same images train alike, however the objects are dealt out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tasks.detectors.loss_probe import BUILDERS, STEPS

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        commands = [
            [sys.executable, "-m", "tests.tasks.detectors.loss_probe", str(rank), str(processes), str(tmp_path)]
            for rank in range(processes)
        ]
        started = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        assert [process.wait(timeout=400) for process in started] == [0] * processes
    one = torch.load(tmp_path / "rank0of1.pt", weights_only=True)
    for rank in (0, 1):
        both = torch.load(tmp_path / f"rank{rank}of2.pt", weights_only=True)
        for name in BUILDERS:
            assert one[name].shape == (STEPS, 2) and one[name][-1].sum() < 0.9 * one[name][0].sum()
            torch.testing.assert_close(both[name], one[name], rtol=1e-4, atol=1e-5)
