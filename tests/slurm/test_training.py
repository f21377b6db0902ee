"""Training on a real Slurm with the scripts of `configs/slurm`: two nodes, preempted, failing, lost.

The end is always that of a run that nobody disturbed.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.run import exit_codes
from tests.slurm.cluster import FINAL, Cluster, free_ports, wait_for
from tests.tasks.running import (
    ROOT,
    fit_arguments,
    numbers_of_table,
    require_equal_checkpoints,
    run,
    run_as_forks,
    two_processes,
)

SCRIPTS = ROOT / "configs" / "slurm"
HERE = ("--gpus-per-node=0", "--cpus-per-task=1", "--ntasks-per-node=1", "--time=10")
"""Resources of the test's nodes, in place of the scripts' own."""


class Submitted:
    """A batch job; what it prints is kept over requeues.

    Args:
        cluster: The cluster.
        log: File for its output.
        script: The batch script.
        arguments: Its arguments.
        options: Options of sbatch.
        variables: Variables of its environment.
    """

    def __init__(
        self, cluster: Cluster, log: Path, script: Path, arguments: list[str], *options: str, **variables: str
    ) -> None:
        self.cluster, self.log = cluster, log
        where = (f"--chdir={ROOT}", f"--output={log}", "--open-mode=append")
        variables = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | variables
        self.number = cluster.submit(script, *HERE, *where, *options, arguments=arguments, **variables)

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, pattern: str, seconds: float = 280) -> None:
        """Waits until a line matches that has come since the last such wait."""
        wait_for(f"{pattern!r} of job {self.number}", lambda: self._says(pattern), seconds)

    def _says(self, pattern: str) -> bool:
        state = self.cluster.fact(self.number, "JobState")
        assert state not in FINAL, f"{state}\n{self.output}"
        return re.search(pattern, self.output) is not None

    def end(self, seconds: float = 400) -> str:
        """Waits for its end: state and exit code."""
        return f"{self.cluster.end_of(self.number, seconds)} {self.cluster.fact(self.number, 'ExitCode')}"


def arguments(shapes: Path, runs: Path, *options: str) -> list[str]:
    """What follows a script's name on the command line: 6 steps, of 4 images each, 3 in an epoch."""
    return ["detect", *fit_arguments("detect", shapes, runs, "run", "--trainer.max_epochs=2", *options)[1:]]


def require_equal(one: Path, other: Path) -> None:
    """Everything in both checkpoints is equal bit for bit, and so is the table."""
    for name in ("last.ckpt", "best.ckpt"):
        require_equal_checkpoints(one / "checkpoints" / name, other / "checkpoints" / name)
    assert numbers_of_table(one) == numbers_of_table(other)


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody disturbs, without Slurm."""
    runs = tmp_path_factory.mktemp("whole")
    codes, output = run_as_forks("detect", ["fit", *arguments(shapes, runs, *two_processes())[1:]], 2, 400)
    assert codes == [0, 0], output
    return runs / "detect" / "run"


@pytest.fixture(scope="module")
def whole_of_one(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in one process."""
    runs = tmp_path_factory.mktemp("whole-of-one")
    code, output = run("detect", ["fit", *arguments(shapes, runs)[1:]], 400)
    assert code == 0, output
    return runs / "detect" / "run"


def test_two_nodes_requeued_and_continued(cluster: Cluster, shapes: Path, tmp_path: Path, whole: Path) -> None:
    """`scontrol requeue` in the middle of an epoch: the job saves, and goes on in its own folder by itself."""
    options = arguments(shapes, tmp_path, "--data.batch_size=2")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "multi_node.sbatch", options, "--nodes=2")
    job.wait_for(r"epoch 0 step 2")
    cluster.command("scontrol", "requeue", job.number)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 1 and cluster.fact(job.number, "Restarts") == "1"
    require_equal(whole, tmp_path / "detect" / "run")


@pytest.mark.slow
def test_two_nodes_preempted_twice(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """Once by a user's SIGUSR1, which the script answers with a requeue, once by a job of higher priority."""
    longer = ("--data.batch_size=2", "--trainer.max_epochs=6")
    code, output = run("detect", ["fit", *arguments(shapes, tmp_path / "whole", *two_processes(), *longer)[1:]], 400)
    assert code == 0, output
    options = arguments(shapes, tmp_path, *longer)
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "requeue.sbatch", options, "--nodes=2")
    job.wait_for(r"epoch 0 step 2")
    cluster.command("scancel", "--signal=USR1", job.number)
    job.wait_for(r"(?s)going on with.*epoch 1 step 5")
    urgent = tmp_path / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\nsleep 1\n")
    urgent_job = Submitted(cluster, tmp_path / "urgent", urgent, [], "--nodes=2", "--partition=urgent")
    assert urgent_job.end() == "COMPLETED 0:0"
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 2 and cluster.fact(job.number, "Restarts") == "2"
    require_equal(tmp_path / "whole" / "detect" / "run", tmp_path / "detect" / "run")


@pytest.mark.slow
def test_everybody_may_end_in_peace(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """srun ends the other tasks when one has left with a code: not before the first has closed its W&B run."""
    options = arguments(shapes, tmp_path, "--data.batch_size=2", "--wandb.mode=offline")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "multi_node.sbatch", options, "--nodes=2")
    job.wait_for(r"epoch 0 step 2")
    cluster.command("scancel", "--signal=USR1", job.number)
    assert job.end() == f"FAILED {exit_codes.USER_SIGNAL}:0", job.output
    assert "continue: python -m tasks.detect fit" in job.output


@pytest.mark.slow
def test_a_lost_node(cluster: Cluster, shapes: Path, tmp_path: Path, whole: Path) -> None:
    """The node is gone without a word: at most the steps since the last save are trained again."""
    options = arguments(shapes, tmp_path, "--data.batch_size=2", "--save_every_n_steps=1")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "multi_node.sbatch", options, "--nodes=2")
    job.wait_for(r"epoch 1 step 4")
    node = cluster.nodes[1]
    cluster.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for("the requeue", lambda: cluster.fact(job.number, "JobState") == "PENDING", 30)
    cluster.resume(node)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 1 and cluster.fact(job.number, "Restarts") == "1"
    require_equal(whole, tmp_path / "detect" / "run")


@pytest.mark.slow
def test_a_task_that_outlives_its_lost_node(cluster: Cluster, shapes: Path, tmp_path: Path, whole_of_one: Path) -> None:
    """Slurm starts the job again elsewhere while the first task still trains: that one saves nothing more."""
    options = arguments(shapes, tmp_path, "--save_every_n_steps=1")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "single_node.sbatch", options)
    job.wait_for(r"epoch 0 step 2")
    (task,) = task_pids(str(tmp_path))
    node = environment_of(task)["SLURMD_NODENAME"]
    held = (task, cluster.daemon_of(node))  # nothing on the node answers, and nothing ends the task
    try:
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        cluster.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        job.wait_for(r"(?s)going on with.*epoch 1 step 4")
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)
    assert job.end() == "COMPLETED 0:0", job.output
    wait_for("the end of the first task", lambda: not Path(f"/proc/{task}").exists(), 30)
    cluster.resume(node)
    assert job.output.count("going on with") == 1
    require_equal(whole_of_one, tmp_path / "detect" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_task_ends_the_job(rank: int, cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """Neither the other task nor the job waits for it."""
    options = arguments(shapes, tmp_path, "--data.batch_size=2", "--trainer.max_epochs=99")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "multi_node.sbatch", options, "--nodes=2")
    job.wait_for(r"epoch 0 step 2")
    (pid,) = [pid for pid in task_pids(str(tmp_path)) if environment_of(pid)["SLURM_PROCID"] == str(rank)]
    os.kill(pid, signal.SIGKILL)
    state = job.end(90)
    assert state.startswith("FAILED"), f"{state}\n{job.output}"


@pytest.mark.slow
def test_a_mistake_ends_the_job_with_its_line(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """One process is asked for where srun has started two: refused, instead of two runs that write one folder."""
    script = tmp_path / "job.sbatch"
    script.write_text('#!/bin/bash\nsrun --kill-on-bad-exit=1 "$PYTHON" -m tasks.detect fit "$@"\nexit $?\n')
    job = Submitted(cluster, tmp_path / "log", script, arguments(shapes, tmp_path)[1:], "--nodes=2")
    assert job.end().startswith("FAILED"), job.output  # the code may be that of the task that srun has ended
    assert "give --trainer.devices 1 --trainer.num_nodes 2" in job.output
    assert not list(tmp_path.glob("detect/*")), job.output


@pytest.mark.slow
def test_python_without_srun_waits_for_nobody(
    cluster: Cluster, shapes: Path, tmp_path: Path, whole_of_one: Path
) -> None:
    """In an allocation for two tasks it is one process; and requeued, it goes on in its own folder."""
    script = tmp_path / "job.sbatch"
    script.write_text('#!/bin/bash\n#SBATCH --requeue\n"$PYTHON" -m tasks.detect fit "$@" & wait $!\n')
    options = arguments(shapes, tmp_path, "--save_every_n_steps=1")[1:]
    job = Submitted(cluster, tmp_path / "log", script, options, "--nodes=2")
    job.wait_for(r"epoch 1 step 4")
    cluster.command("scontrol", "requeue", job.number)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 1
    require_equal(whole_of_one, tmp_path / "detect" / "run")


@pytest.mark.slow
def test_a_sweep_has_a_folder_per_line(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    options = arguments(shapes, tmp_path, "--trainer.max_epochs=1")
    unnamed = [option for option in options if not option.startswith("--name")]
    sweep = tmp_path / "sweep.txt"
    sweep.write_text("--model.optimizer.lr 0.001\n--model.optimizer.lr 0.004 --seed_everything 1\n")
    script = SCRIPTS / "array_sweep.sbatch"
    job = Submitted(cluster, tmp_path / "log", script, [str(sweep), *unnamed], "--array=1-2%2")
    assert job.end() == "COMPLETED 0:0", job.output
    rates = {}
    for folder in (tmp_path / "detect").iterdir():
        config = yaml.safe_load((folder / "config.fit.yaml").read_text())
        rates[folder.name] = (config["model"]["optimizer"]["init_args"]["lr"], config["seed_everything"])
    assert rates == {f"quickstart-{job.number}_1": (0.001, 42), f"quickstart-{job.number}_2": (0.004, 1)}


@pytest.mark.slow
def test_two_fits_in_one_allocation(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """Two steps at once, with the same name: folders and ports of their own, also after a requeue."""
    script = tmp_path / "job.sbatch"
    fit = 'srun --overcommit --overlap --nodes=2 --ntasks=2 "$PYTHON" -m tasks.detect fit "$@" &\n'
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue\n{fit}{fit}wait\n")
    two = ("--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp", "--data.batch_size=2")
    job = Submitted(cluster, tmp_path / "log", script, arguments(shapes, tmp_path, *two)[1:], "--nodes=2")
    job.wait_for(r"(?s)epoch 0 step 2.*epoch 0 step 2")
    cluster.command("scontrol", "requeue", job.number)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 2
    assert {folder.name for folder in (tmp_path / "detect").iterdir()} == {"run", "run-2"}
    require_equal(tmp_path / "detect" / "run", tmp_path / "detect" / "run-2")


@pytest.mark.slow
def test_torchrun_under_srun(cluster: Cluster, shapes: Path, tmp_path: Path, whole: Path) -> None:
    """One torchrun per node, as `docs/cluster.md` has it; requeued, both go on with the job's run."""
    script = tmp_path / "job.sbatch"
    script.write_text(
        "#!/bin/bash\n#SBATCH --requeue\n"
        'main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)\n'
        'srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node 1 '
        '--rdzv-backend c10d --rdzv-endpoint "$main:$PORT" --rdzv-id "$SLURM_JOB_ID" -m tasks.detect fit "$@"\n'
        "exit $?\n"
    )
    two = ("--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp", "--data.batch_size=2")
    job = Submitted(
        cluster,
        tmp_path / "log",
        script,
        arguments(shapes, tmp_path, *two)[1:],
        "--nodes=2",
        PORT=str(free_ports(1)[0]),
    )
    job.wait_for(r"epoch 0 step 2")
    cluster.command("scontrol", "requeue", job.number)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.output.count("going on with") == 1
    require_equal(whole, tmp_path / "detect" / "run")


@pytest.mark.slow
def test_before_the_time_limit(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    """Slurm's early warning makes it save and go back into the queue; `scancel` then ends it, saved as well."""
    options = arguments(shapes, tmp_path, "--trainer.max_epochs=999")
    job = Submitted(cluster, tmp_path / "log", SCRIPTS / "requeue.sbatch", options, "--time=2", "--signal=USR1@60")
    job.wait_for(r"(?s)SIGUSR1.*going on with.*epoch \d+ step")
    cluster.command("scancel", job.number)
    assert job.end() == "CANCELLED 0:15", job.output
    assert "stopped by SIGTERM" in job.output and "continue: " in job.output, job.output


def task_pids(words: str) -> list[int]:
    """Training processes whose command line holds some words, loader workers left out."""
    found = subprocess.run(["pgrep", "-f", f"tasks.detect fit.*{words}"], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split() if "srun" not in Path(f"/proc/{pid}/comm").read_text()]


def environment_of(pid: int) -> dict[str, str]:
    """Environment with which a process was started."""
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)
