"""Who started this process: environments as Slurm 22.05 and torchrun 2.14 set them."""

import re

import pytest

from tasks.errors import TaskError
from tasks.run.cluster import check_processes, cluster_environment
from tasks.run.job import FIRST_PORT, LAST_PORT, Job, current_job

SHELL = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
"""The shell of a batch script for two tasks."""
TASK = SHELL | {
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
"""The second task of an srun in it."""
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "77",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_buluzf4d/none_2e2_nksx/attempt_2/1/error.json",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "38651",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
ARRAY = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "4714"}


def test_elsewhere() -> None:
    assert current_job({}) == Job(None, None, None, 0, 0, 0, 1, False)
    assert cluster_environment(current_job({})) is None
    started_by_lightning = current_job({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"})
    assert started_by_lightning == Job(rank=1, local_rank=1, world_size=2)


def test_a_task_of_srun() -> None:
    job = current_job(TASK | {"SLURM_RESTART_COUNT": "2"})
    expected = Job("slurm", "4711.0", "4711", 2, 1, 0, 2, True, 1, (1, 1), "node1", job.main_port)
    assert job == expected
    environment = cluster_environment(job)
    assert environment is not None and environment.creates_processes_externally
    assert (environment.global_rank(), environment.local_rank(), environment.node_rank()) == (1, 0, 1)
    assert (environment.world_size(), environment.main_address) == (2, "node1")
    assert environment.main_port == job.main_port


def test_a_batch_script_is_no_task() -> None:
    """Python without srun must not wait for a second task; a requeue continues it nevertheless."""
    job = current_job(SHELL | {"SLURM_RESTART_COUNT": "1"})
    assert job == Job("slurm", "4711.shell", "4711", 1, 0, 0, 1, False)
    environment = cluster_environment(job)
    assert environment is not None and not environment.creates_processes_externally
    assert environment.world_size() == 1


def test_the_only_task_of_a_step_may_start_processes() -> None:
    """`srun --gpus 4 --pty bash` and then four devices: Slurm has started one process, Lightning starts three."""
    alone = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_STEP_NODELIST": "node2"}
    job = current_job(TASK | alone | {"SLURM_PROCID": "0"})
    assert job == Job("slurm", "4711.0", "4711")
    check_processes(job, devices=4, num_nodes=1)


def test_an_array_has_one_key_and_label_per_task() -> None:
    assert current_job(SHELL | ARRAY).key == "4711_3.shell"
    job = current_job(TASK | ARRAY)
    assert (job.key, job.label) == ("4711_3.0", "4711_3")


def test_a_step_on_some_of_the_nodes() -> None:
    """Its first process is on the step's first node, not on the job's."""
    job = current_job(TASK | {"SLURM_STEP_NODELIST": "node[002,005-007]-ib,login", "SLURM_STEP_ID": "5"})
    assert (job.main_address, job.key) == ("node002-ib", "4711.5")


def test_given_address_and_port_win() -> None:
    job = current_job(TASK | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"})
    assert (job.main_address, job.main_port) == ("10.0.0.7", 4000)


def test_ports_differ_between_jobs_and_steps() -> None:
    """Lightning's port is that of any job whose number ends in the same four digits."""
    jobs = range(14711, 14711 + 500)
    ports = {
        current_job(TASK | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).main_port
        for job in jobs
        for step in range(16)
    }
    assert len(ports) == 500 * 16
    assert all(port and FIRST_PORT <= port <= LAST_PORT and port % 2 == 0 for port in ports)  # port + 1 is used as well
    assert current_job(TASK).main_port != current_job(TASK | {"SLURM_JOB_ID": "14711"}).main_port


def test_torchrun() -> None:
    job = current_job(TORCHRUN)
    assert job == Job("torchrun", "77", None, 2, 3, 1, 4, True, 1, (2, 2), "node1", 38651, True)
    assert current_job(TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}).key == "none_2e2_nksx"
    environment = cluster_environment(job)
    assert environment is not None and environment.creates_processes_externally


def test_torchrun_in_a_slurm_job() -> None:
    """A requeue starts a new torchrun, with a count of 0: the same job is Slurm's."""
    inside = current_job(TASK | TORCHRUN | {"SLURM_RESTART_COUNT": "1"})
    assert (inside.scheduler, inside.key, inside.label, inside.restarts) == ("torchrun", "4711.0", "4711", 3)
    assert (inside.rank, inside.world_size, inside.main_port) == (3, 4, 38651)


@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes", "message"),
    [
        (TASK, 1, 1, "srun has started 1 processes on each of 2 nodes; give --trainer.devices 1 --trainer.num_nodes 2"),
        (TASK, 2, 1, "--trainer.devices is 2 and --trainer.num_nodes is 1, but srun has started 1"),
        (TORCHRUN, 4, 1, "torchrun has started 2 processes on each of 2 nodes; give --trainer.devices 2"),
        (SHELL, 1, 2, "put srun before python, with --nodes 2 --ntasks-per-node 1"),
        (
            TASK | {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1(x2)"},
            2,
            4,
            "srun has started 2, 2, 1, 1 tasks on its nodes, expected equally many on each; give --ntasks-per-node",
        ),
    ],
)
def test_trainer_options_that_do_not_fit(
    environment: dict[str, str], devices: int, num_nodes: int, message: str
) -> None:
    job = current_job(environment)
    with pytest.raises(TaskError, match=re.escape(message)):
        check_processes(job, devices, num_nodes)
    lightnings_own = cluster_environment(job)
    assert lightnings_own is not None
    with pytest.raises(TaskError, match=re.escape(message)):
        lightnings_own.validate_settings(devices, num_nodes)


def test_trainer_options_that_fit() -> None:
    check_processes(current_job(TASK), devices=1, num_nodes=2)
    without_per_node = {name: value for name, value in TASK.items() if name != "SLURM_NTASKS_PER_NODE"}
    check_processes(current_job(without_per_node), devices=1, num_nodes=2)
    check_processes(current_job(TORCHRUN), devices=2, num_nodes=2)
    check_processes(current_job(SHELL), devices=2, num_nodes=1)
    check_processes(current_job({}), devices=2, num_nodes=3)
