"""What processes of a real Slurm know of their job: batch scripts, tasks, arrays, requeues."""

import json
import sys
from pathlib import Path

import pytest

from tasks.run.job import Job
from tests.slurm.cluster import Cluster, wait_for

ROOT = Path(__file__).parents[2]
REPORT = f"""{sys.executable} -c '
import dataclasses, json, os, sys
from pathlib import Path
from tasks.run.job import current_job
job = current_job()
name = f"{{sys.argv[1]}}-{{job.key}}-{{job.rank}}-{{job.restarts}}"
part = Path(os.environ["REPORTS"], name + ".part")
part.write_text(json.dumps(dataclasses.asdict(job)))
part.rename(part.with_suffix(".json"))
'"""


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    return folder


def submit(cluster: Cluster, reports: Path, lines: str, *options: str) -> str:
    script = reports / "job.sbatch"
    script.write_text(f"#!/bin/bash\nset -e\ncd {ROOT}\n{lines.replace('REPORT', REPORT)}\n")
    return cluster.submit(script, f"--output={reports}/%j.out", *options, REPORTS=str(reports))


def found(reports: Path) -> dict[str, Job]:
    """The jobs of all processes that have reported."""
    jobs = {}
    for path in reports.glob("*.json"):
        fields = json.loads(path.read_text())
        jobs[path.stem] = Job(**fields | {"processes_per_node": tuple(fields["processes_per_node"])})
    return jobs


def test_batch_script_and_tasks(cluster: Cluster, reports: Path) -> None:
    """Two steps at once differ in key and port; a step on the second node is its own first process."""
    lines = """
    REPORT shell
    srun REPORT both
    srun --overcommit --ntasks=3 REPORT uneven
    srun --overcommit --nodes=1 --ntasks=2 --nodelist=$SECOND REPORT second
    srun --nodes=1 --ntasks=1 REPORT alone
    """
    first, second = cluster.nodes
    job = submit(cluster, reports, lines.replace("$SECOND", second), "--nodes=2", "--ntasks-per-node=1")
    assert cluster.end_of(job) == "COMPLETED", (reports / f"{job}.out").read_text()
    jobs = found(reports)
    ports = {name.split("-")[0]: job.main_port for name, job in jobs.items()}
    assert len({ports["both"], ports["uneven"], ports["second"]}) == 3
    assert jobs == {
        f"shell-{job}.shell-0-0": Job("slurm", f"{job}.shell", job),
        f"both-{job}.0-0-0": Job("slurm", f"{job}.0", job, 0, 0, 0, 2, True, 0, (1, 1), first, ports["both"]),
        f"both-{job}.0-1-0": Job("slurm", f"{job}.0", job, 0, 1, 0, 2, True, 1, (1, 1), first, ports["both"]),
        f"uneven-{job}.1-0-0": Job("slurm", f"{job}.1", job, 0, 0, 0, 3, True, 0, (2, 1), first, ports["uneven"]),
        f"uneven-{job}.1-1-0": Job("slurm", f"{job}.1", job, 0, 1, 1, 3, True, 0, (2, 1), first, ports["uneven"]),
        f"uneven-{job}.1-2-0": Job("slurm", f"{job}.1", job, 0, 2, 0, 3, True, 1, (2, 1), first, ports["uneven"]),
        f"second-{job}.2-0-0": Job("slurm", f"{job}.2", job, 0, 0, 0, 2, True, 0, (2,), second, ports["second"]),
        f"second-{job}.2-1-0": Job("slurm", f"{job}.2", job, 0, 1, 1, 2, True, 0, (2,), second, ports["second"]),
        f"alone-{job}.3-0-0": Job("slurm", f"{job}.3", job),
    }


@pytest.mark.slow  # in every run: test_two_nodes_requeued_and_continued, and arrays in tests/tasks/run/test_job.py
def test_array_and_requeue(cluster: Cluster, reports: Path) -> None:
    """Tasks of an array have labels of their own; a requeued one keeps its key and counts its restarts."""
    lines = """
    REPORT shell
    srun REPORT task
    if [ $SLURM_ARRAY_TASK_ID = 3 ] && [ -z $SLURM_RESTART_COUNT ]; then
        scontrol requeue $SLURM_JOB_ID
        sleep 60
    fi
    """
    array = submit(cluster, reports, lines, "--array=3,5", "--ntasks=1")
    wait_for("the array", lambda: {f"task-{array}_5.0-0-0", f"task-{array}_3.0-0-1"} <= found(reports).keys())
    jobs = found(reports)
    assert len(jobs) == 6
    assert jobs[f"shell-{array}_5.shell-0-0"] == Job("slurm", f"{array}_5.shell", f"{array}_5")
    assert jobs[f"task-{array}_5.0-0-0"] == Job("slurm", f"{array}_5.0", f"{array}_5")
    assert jobs[f"task-{array}_3.0-0-0"] == Job("slurm", f"{array}_3.0", f"{array}_3")
    assert jobs[f"shell-{array}_3.shell-0-1"] == Job("slurm", f"{array}_3.shell", f"{array}_3", restarts=1)
    assert jobs[f"task-{array}_3.0-0-1"] == Job("slurm", f"{array}_3.0", f"{array}_3", restarts=1)


def test_a_batch_script_that_a_task_has_submitted(cluster: Cluster, reports: Path) -> None:
    """It inherits the variables of the task's step, and is no task of it."""
    inner = reports / "inner.sbatch"
    inner.write_text(f"#!/bin/bash\ncd {ROOT}\nenv | grep SLURM_STEP_NUM_TASKS=2 && {REPORT} inner\n")
    submitting = f"[ $SLURM_PROCID = 1 ] || sbatch --wait --overcommit --output={reports}/inner.out {inner}"
    lines = f"srun bash -c '{submitting}'"
    outer = submit(cluster, reports, lines, "--nodes=1", "--ntasks=2", "--overcommit")
    assert cluster.end_of(outer) == "COMPLETED", (reports / f"{outer}.out").read_text()
    (job,) = found(reports).values()
    assert not job.started_outside and job.key == f"{job.label}.shell"
