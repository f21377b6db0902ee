"""One choice for all processes: real processes, joined as Slurm's tasks are and by a real torchrun."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.run as distributed_run

from datamodules.errors import DataError
from tasks.errors import MachineError, TaskError
from tasks.run.job import Job
from tasks.run.rendezvous import agree

ROOT = Path(__file__).parents[3]
FORK = multiprocessing.get_context("fork")


def free_pair() -> int:
    """A port that is free together with the next one."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", first.getsockname()[1] + 1))
        return int(first.getsockname()[1])


def task(rank: int, size: int, port: int, key: str = "4711.0") -> Job:
    return Job("slurm", key, "4711", 0, rank, 0, size, True, rank, (1,) * size, "127.0.0.1", port)


def outcomes(size: int, choose: Callable[[], str], ranks: list[int] | None = None, **limits: float) -> list[Any]:
    """What `agree` gives or raises in each of some processes; None of one that was killed."""
    port, answers = free_pair(), FORK.Queue()

    def process(rank: int) -> None:
        try:
            outcome: Any = agree(task(rank, size, port), choose, **limits)
        except BaseException as error:
            outcome = (type(error).__name__, str(error))
        answers.put((rank, outcome))

    processes = [FORK.Process(target=process, args=(rank,)) for rank in ranks or range(size)]
    for running in processes:
        running.start()
    for running in processes:
        running.join(30)
        assert running.exitcode is not None
    found = dict(answers.get() for running in processes if running.exitcode == 0)
    return [found.get(rank) for rank in ranks or range(size)]


def fail(error: BaseException) -> Callable[[], str]:
    def choose() -> str:
        raise error

    return choose


@pytest.mark.parametrize("size", [2, 3])
def test_all_get_the_choice_of_the_first(size: int) -> None:
    ids = outcomes(size, lambda: f"chosen by {os.getpid()}")
    assert len(set(ids)) == 1 and ids[0] != f"chosen by {os.getpid()}"


@pytest.mark.parametrize(
    ("error", "others"),
    [
        (TaskError("no such file"), ("TaskError", "no such file")),
        (DataError("no such image"), ("TaskError", "no such image")),
        (MachineError("disk full"), ("MachineError", "disk full")),
        (KeyError("gone"), ("MachineError", "process 0: KeyError: 'gone'")),
        (SystemExit(0), ("SystemExit", "0")),
    ],
)
def test_an_error_of_the_first_is_everybodys(error: BaseException, others: tuple[str, str]) -> None:
    start = time.monotonic()
    assert outcomes(3, fail(error)) == [(type(error).__name__, str(error)), others, others]
    assert time.monotonic() - start < 10


def test_the_death_of_the_first_is_seen_at_once() -> None:
    start = time.monotonic()
    dead, *others = outcomes(3, lambda: time.sleep(1) or os.kill(os.getpid(), signal.SIGKILL) or "")
    assert dead is None and time.monotonic() - start < 10
    message = "process 0 on 127.0.0.1 ended before the run folder was chosen; look at its messages"
    assert others == [("MachineError", message)] * 2


def test_processes_that_do_not_come() -> None:
    ((kind, message),) = outcomes(4, lambda: "chosen", ranks=[0], arrive_within=0.3)
    assert kind == "MachineError"
    assert message.startswith("processes [1, 2, 3] of 4 did not come within 0.3 s to learn the run folder;")
    ((kind, message),) = outcomes(2, lambda: "chosen", ranks=[1], arrive_within=0.3)
    assert kind == "MachineError" and message.startswith("process 0 did not listen on 127.0.0.1:")
    _, (kind, message) = outcomes(2, lambda: time.sleep(1) or "chosen", choose_within=0.3, arrive_within=2)
    assert kind == "MachineError" and "chose no run folder within 0.3 s" in message


def test_another_job_at_the_same_port_is_not_answered() -> None:
    """Nor does a stranger that connects and says nothing of use keep the choice from the others."""
    port, stranger = free_pair(), [b"GET / HTTP/1.0\r\n\r\n", b'["4712.0/0", 1]\n', b"[1]\n", b""]

    def disturb() -> str:
        for words in stranger:
            with socket.create_connection(("127.0.0.1", port + 1)) as connection:
                connection.sendall(words)
        return "chosen"

    second = FORK.Process(target=agree, args=(task(1, 2, port), lambda: "never called"))
    second.start()
    assert agree(task(0, 2, port), disturb) == "chosen"
    second.join(20)
    assert second.exitcode == 0


def test_a_taken_port_is_named() -> None:
    port = free_pair()
    with socket.socket() as taken:
        taken.bind(("", port + 1))
        taken.listen()
        with pytest.raises(MachineError, match=f"port {port + 1} on 127.0.0.1 cannot be used .*MASTER_PORT"):
            agree(task(0, 2, port), lambda: "chosen")


def test_alone_it_is_just_the_choice() -> None:
    assert agree(Job(), lambda: "chosen") == "chosen"
    assert agree(Job("slurm", "4711.shell", "4711"), lambda: "chosen") == "chosen"


TORCHRUN_SCRIPT = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from tasks.run.cluster import cluster_environment
from tasks.run.job import current_job
from tasks.run.rendezvous import agree
job = current_job()
choice = agree(job, lambda: f"chosen by {job.rank} at start {job.restarts}")
environment = cluster_environment(job)
os.environ["MASTER_PORT"] = str(environment.main_port)
dist.init_process_group("gloo", rank=job.rank, world_size=job.world_size)
dist.barrier()
Path(sys.argv[1], f"{job.rank}-{job.restarts}.json").write_text(json.dumps([choice, job.key, job.world_size]))
sys.exit(1 if job.restarts == 0 and job.rank == 1 else 0)
"""


def torchrun(variables: dict[str, str], options: list[str]) -> None:
    """The command torchrun in this process; its processes are forks of it, and have imported everything."""
    os.environ.update(variables)
    distributed_run.main(["--run-path", "--start-method=fork", *options])


@pytest.mark.parametrize("disable_store", ["0", "1"])
@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["forks", "commands"])
def test_torchrun_and_its_restart(forks: bool, disable_store: str, tmp_path: Path) -> None:
    """The processes agree, and are then joined, in each start; with the agent's store and without."""
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN_SCRIPT)
    options = ["--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1", f"--master-port={free_pair()}"]
    options += [str(script), str(tmp_path)]
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": disable_store}
    if forks:
        agent = FORK.Process(target=torchrun, args=(variables, options))
        agent.start()
        agent.join(100)
        assert agent.exitcode == 0
    else:
        command = [sys.executable, "-m", "torch.distributed.run", *options]
        answer = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=200)
        assert answer.returncode == 0, answer.stderr[-3000:]
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(found) >= {"1-0", "0-1", "1-1"}
    (key,) = {key for _, key, _ in found.values()}
    assert key != "none"
    assert found["0-1"] == found["1-1"] == ["chosen by 0 at start 1", key, 2]
