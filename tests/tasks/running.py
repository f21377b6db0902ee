"""Commands as processes of their own: started, watched line by line, signalled, and what they have left compared."""

import atexit
import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
DATA = {"detect": "coco", "segment": "ade20k"}
SERVER = multiprocessing.get_context("forkserver")
"""Commands are forks of a process that has done nothing but import, which takes seconds, once."""
SERVER.set_forkserver_preload(["tasks.detect", "tasks.segment"])


def learn_by_heart(task: str, recipe: str, photographs: Path, runs: Path, *options: str) -> Path:
    """Trains a recipe on the 8 first photographs, and scores it on them, in a process of its own.

    Returns:
        The run's folder.
    """
    arguments = [
        f"--config={ROOT}/configs/{task}/{recipe}.yaml",
        f"--data.root={photographs}",
        "--data.max_images=8",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
        "--wandb.mode=disabled",
        "--pictures.images=0",
        f"--runs={runs}",
        "--name=test",
        *options,
    ]
    code, output = run(task, ["fit", *arguments], seconds=7200)
    assert code == 0, output
    return runs / task / "test"


def fit_arguments(task: str, shapes: Path, runs: Path, name: str, *options: str) -> list[str]:
    """A quarter of the quickstart's width, on 12 images: 3 steps an epoch, 4 epochs, a validation after each."""
    return [
        "fit",
        f"--config={ROOT}/configs/{task}/quickstart.yaml",
        f"--data.root={shapes / DATA[task]}",
        "--data.batch_size=4",
        "--data.val_batch_size=2",
        "--data.num_workers=0",
        "--model.backbone.width=0.25",
        "--model.lr_schedule.warmup_steps=2",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=4",
        "--trainer.log_every_n_steps=1",
        "--wandb.mode=disabled",
        "--pictures.images=0",
        f"--runs={runs}",
        f"--name={name}",
        *options,
    ]


def two_processes() -> tuple[str, ...]:
    """Options for two processes on this machine, with as many images a step as one has."""
    return ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2")


class Running:
    """A command that runs, in a process group of its own.

    Args:
        task: `detect` or `segment`.
        arguments: Its arguments.
        environment: Variables besides those of this process.
    """

    def __init__(self, task: str, arguments: list[str], **environment: str) -> None:
        self.lines: list[str] = []
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)} | environment
        self._output, output = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=_command, args=(task, arguments, variables, output))
        self.process.start()
        output.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 120) -> None:
        """Waits until a line matches."""
        end = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in self.lines):
            assert time.monotonic() < end and self.process.exitcode is None, f"no {pattern!r} in\n{self.output}"
            time.sleep(0.005)

    def signal(self, number: int, everybody: bool = False) -> None:
        """Sends a signal to the first process, or to all of them and their workers."""
        (os.killpg if everybody else os.kill)(self.process.pid, number)

    def children(self) -> list[int]:
        """Process ids of the other processes of the command: ranks and loader workers."""
        found = subprocess.run(["pgrep", "-g", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found if int(pid) != self.process.pid]

    def end(self, seconds: float = 120) -> int:
        """Waits for the end; nothing of the command may be left behind."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s:\n{self.output}")
        self._reader.join(10)
        return self.process.exitcode

    def kill(self) -> None:
        """kill -9 to all of it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()

    def require_no_orphans(self, seconds: float = 15) -> None:
        """Nothing of its process group runs any more."""
        end = time.monotonic() + seconds
        while left := self.children():
            assert time.monotonic() < end, f"processes {left} outlive the command:\n{self.output}"
            time.sleep(0.2)

    def _read(self) -> None:
        with os.fdopen(os.dup(self._output.fileno())) as shown:
            for line in shown:
                self.lines.append(line.rstrip("\n"))


def _command(task: str, arguments: list[str], variables: dict[str, str], output: Connection) -> None:
    """`python -m tasks.TASK`, in a fresh fork: a process group, an environment and an output of its own."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
    output.close()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = variables["PYTHONPATH"].split(os.pathsep)
    tempfile.tempdir = None  # $TMPDIR counts
    torch.set_num_threads(1)
    sys.argv[1:] = arguments
    sys.modules.pop(f"tasks.{task}", None)  # it is run, not imported
    try:
        runpy.run_module(f"tasks.{task}", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def run(task: str, arguments: list[str], seconds: float = 180, **environment: str) -> tuple[int, str]:
    """Runs a command to its end: exit code and output."""
    running = Running(task, arguments, **environment)
    return running.end(seconds), running.output


def run_as_forks(task: str, arguments: list[str], processes: int, seconds: float = 180) -> tuple[list[int], str]:
    """Runs a command in several processes, joined as torchrun joins those that it starts: exit codes and all output.

    Lightning would start all but the first anew, and each of those imports everything once more.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    job = {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "127.0.0.1"}
    job |= {"MASTER_PORT": port, "GROUP_RANK": "0", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [Running(task, arguments, **job, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    return [rank.end(seconds) for rank in ranks], "\n".join(rank.output for rank in ranks)


def content_of(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint that the tests have written: read by C code, in a fraction of the time that data alone takes."""
    content: dict[str, Any] = torch.load(checkpoint, weights_only=False)
    return content


def require_equal_runs(one: Path, other: Path) -> None:
    """Weights, optimiser, schedule, loops and best score are equal bit for bit, and so are table and summary."""
    for name in ("last.ckpt", "best.ckpt"):
        require_equal_checkpoints(one / "checkpoints" / name, other / "checkpoints" / name)
    first, second = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    for summary in (first, second):
        for name in ("seconds", "run", "resumed_at", "peak_memory_MB", "energy_GPU_J", "energy_CPU_J"):
            summary.pop(name, None)
    assert first == second
    tables = numbers_of_table(one), numbers_of_table(other)
    assert [row["step"] for row in tables[0]] == [row["step"] for row in tables[1]]
    for row, again in zip(*tables, strict=True):
        assert row == again


def require_equal_checkpoints(one: Path, other: Path) -> None:
    """Everything in two checkpoints is equal, but for times and paths."""
    first, second = (content_of(path) for path in (one, other))
    assert first.keys() == second.keys()
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"):
        require_equal(first[name], second[name], name)
    for state in (first, second):
        for callback in state["callbacks"].values():
            callback.pop("seconds", None)
            callback.pop("energy", None)
    require_equal(first["callbacks"], second["callbacks"], "callbacks")


def require_equal(one: object, other: object, where: str) -> None:
    """Two nested states are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            require_equal(value, other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, value in enumerate(one):
            require_equal(value, other[place], f"{where}/{place}")
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} {other}"


def numbers_of_table(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what depends on the clock."""
    import csv

    with (run / "metrics.csv").open(newline="") as lines:
        return [
            {name: value for name, value in row.items() if not name.startswith("perf/") and name != "seconds"}
            for row in csv.DictReader(lines)
        ]
