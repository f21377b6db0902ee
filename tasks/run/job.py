"""Who started this process, and as part of which job: Slurm's srun, torchrun, or nobody.

Read from the environment, because Lightning's own reading goes wrong in five ways (2.6.6): `python` in a batch script
looks like one task of many and waits for peers that nobody starts; an `salloc` that runs `srun` looks like none; two
jobs or steps on a node may get the same port; a step on a part of the job's nodes looks for its first process on the
job's first node; and `--ntasks` without `--ntasks-per-node` is refused. What Slurm sets where is in `docs/cluster.md`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

FIRST_PORT = 15000
LAST_PORT = 32766
"""Listening ports of Slurm jobs: below those that Linux gives to outgoing connections (32768 and above)."""
STEPS_PER_JOB = 16
"""Steps of one job whose ports surely differ."""


@dataclass(frozen=True)
class Job:
    """The job that this process belongs to.

    Attributes:
        scheduler: What started the processes, or granted the allocation that this shell runs in.
        key: Names the same job over requeues and restarts. Steps of one Slurm job have keys of their own; so has the
            batch script itself (`4711.shell`), which all commands that it runs without srun share.
        label: Short text for folder names: Slurm's job number, with the array's task behind it; None elsewhere.
        restarts: How often the scheduler has started this job again.
        rank: Number of this process; of a process that Lightning has started, its number on this machine.
        local_rank: Number of this process on its machine.
        world_size: Number of processes.
        started_outside: srun or torchrun has started all processes: Lightning must not start any.
        node_rank: Number of this machine.
        processes_per_node: Number of processes on each machine.
        main_address: Machine of process 0.
        main_port: Port of the process group, where process 0 listens, or torchrun's agent; None: a free one is looked
            for.
        has_agent_store: torchrun's agent keeps a store at this port, through all starts.
    """

    scheduler: Literal["slurm", "torchrun"] | None = None
    key: str | None = None
    label: str | None = None
    restarts: int = 0
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    started_outside: bool = False
    node_rank: int = 0
    processes_per_node: tuple[int, ...] = (1,)
    main_address: str = "127.0.0.1"
    main_port: int | None = None
    has_agent_store: bool = False


def current_job(environment: Mapping[str, str] = os.environ) -> Job:
    """The job of the process that has this environment; torchrun counts before the Slurm job that it runs in."""
    job = _started_by_lightning(environment)
    if "SLURM_JOB_ID" in environment:
        job = _in_slurm(job, environment)
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and not _is_batch_script(environment):
            job = _started_by_srun(job, environment)
    return _started_by_torchrun(job, environment) if "TORCHELASTIC_RUN_ID" in environment else job


def _started_by_lightning(environment: Mapping[str, str]) -> Job:
    """Lightning numbers the processes that it starts; the first one knows nothing of them."""
    if "LOCAL_RANK" not in environment:
        return Job()
    local_rank = int(environment["LOCAL_RANK"])
    return Job(rank=local_rank, local_rank=local_rank, world_size=int(environment.get("WORLD_SIZE", "1")))


def _in_slurm(job: Job, environment: Mapping[str, str]) -> Job:
    in_step = "SLURM_STEP_ID" in environment and not _is_batch_script(environment)
    label = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        label = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return replace(
        job,
        scheduler="slurm",
        key=f"{label}.{environment['SLURM_STEP_ID'] if in_step else 'shell'}",
        label=label,
        restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
    )


def _started_by_srun(job: Job, environment: Mapping[str, str]) -> Job:
    first_node = re.sub(r"\[(\w+)[^]]*]", r"\1", environment["SLURM_STEP_NODELIST"]).split(",")[
        0
    ]  # of gpu[07,10-12],x1
    return replace(
        job,
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        world_size=int(environment["SLURM_STEP_NUM_TASKS"]),
        started_outside=True,
        node_rank=int(environment["SLURM_NODEID"]),
        processes_per_node=_repeated(environment["SLURM_STEP_TASKS_PER_NODE"]),
        main_address=environment.get("MASTER_ADDR", first_node),
        main_port=int(environment.get("MASTER_PORT", _port(environment))),
    )


def _started_by_torchrun(job: Job, environment: Mapping[str, str]) -> Job:
    """In a Slurm job, that is the job: it is requeued as a whole, and a new torchrun then starts counting from 0."""
    world_size, per_node = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
    run = environment["TORCHELASTIC_RUN_ID"]
    if (
        run == "none"
    ):  # with --rdzv-id left out; the folder of its logs has a name of its own: RUN/attempt_0/0/error.json
        run = Path(environment.get("TORCHELASTIC_ERROR_FILE", "none/attempt_0/0/error.json")).parents[2].name
    return replace(
        job,
        scheduler="torchrun",
        key=job.key or run,
        restarts=job.restarts + int(environment["TORCHELASTIC_RESTART_COUNT"]),
        rank=int(environment["RANK"]),
        local_rank=int(environment["LOCAL_RANK"]),
        world_size=world_size,
        started_outside=True,
        node_rank=int(environment["GROUP_RANK"]),
        processes_per_node=(per_node,) * (world_size // per_node),
        main_address=environment["MASTER_ADDR"],
        main_port=int(environment["MASTER_PORT"]),
        has_agent_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _is_batch_script(environment: Mapping[str, str]) -> bool:
    """Whether the variables of a step are inherited: those of the task that has submitted this batch script.

    The process that Slurm has started here is then a child of `slurmstepd: [JOB.batch]`. Where it cannot be seen (in
    a container), the variables are believed.
    """
    try:
        status = Path(f"/proc/{environment['SLURM_TASK_PID']}/stat").read_text()
        parent = status.rpartition(")")[2].split()[1]
        return f"[{environment['SLURM_JOB_ID']}.batch]" in Path(f"/proc/{parent}/cmdline").read_text()
    except (KeyError, OSError):
        return False


def _port(environment: Mapping[str, str]) -> int:
    """An even port: not that of another step, nor of another job among the next 500, whose steps may run here too."""
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"]) % STEPS_PER_JOB
    pairs = (LAST_PORT - FIRST_PORT) // 2 + 1
    return FIRST_PORT + 2 * ((job * STEPS_PER_JOB + step) % pairs)


def _repeated(counts: str) -> tuple[int, ...]:
    """Slurm's `2(x3),1` is 2, 2, 2, 1."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return tuple(int(count) for count, times in pairs for _ in range(int(times or 1)))
