"""What Lightning is told about the processes of Slurm and torchrun, and whether the trainer's options fit them."""

import os
from functools import cached_property

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from tasks.errors import TaskError
from tasks.run.job import Job
from tasks.run.rendezvous import agree


def check_processes(job: Job, devices: int, num_nodes: int) -> None:
    """Holds the trainer's number of processes against what the scheduler has started.

    Lightning compares them only under some strategies; with one device, every task of srun would train for itself.

    Args:
        job: The job of this process.
        devices: The trainer's processes per machine.
        num_nodes: The trainer's machines.

    Raises:
        TaskError: They differ.
    """
    asked = f"--trainer.devices is {devices} and --trainer.num_nodes is {num_nodes}"
    if job.started_outside:
        per_node = set(job.processes_per_node)
        if len(per_node) > 1:
            counts = ", ".join(map(str, job.processes_per_node))
            raise TaskError(
                f"srun has started {counts} tasks on its nodes, expected equally many on each; give --ntasks-per-node"
            )
        started = (per_node.pop(), len(job.processes_per_node))
        if (devices, num_nodes) != started:
            launcher = "srun" if job.scheduler == "slurm" else "torchrun"
            raise TaskError(
                f"{asked}, but {launcher} has started {started[0]} processes on each of {started[1]} nodes; give "
                f"--trainer.devices {started[0]} --trainer.num_nodes {started[1]}"
            )
    elif job.scheduler == "slurm" and num_nodes > 1:
        raise TaskError(
            f"{asked}, but nothing has started processes on the other nodes; put srun before python, with --nodes "
            f"{num_nodes} --ntasks-per-node {devices}"
        )


def cluster_environment(job: Job) -> ClusterEnvironment | None:
    """What Lightning is to believe about its processes; None: let it find out."""
    if job.scheduler == "torchrun":
        return _Torchrun(job)
    if job.scheduler == "slurm":
        return _SrunTask(job) if job.started_outside else _SlurmShell(job)
    return None


class _SlurmShell(LightningEnvironment):
    """A command in an allocation without srun, or the only task of a step: Lightning starts the other processes."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        check_processes(self.job, num_devices, num_nodes)


class _Torchrun(TorchElasticEnvironment):
    """A process of torchrun.

    The process group gets a store of its own. torchrun's agent offers one, but keeps in it what the processes before a
    restart have left: with their addresses the new ones do not find each other (pytorch issue 135712, PyTorch 2.14).
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    @cached_property
    def main_port(self) -> int:
        assert self.job.main_port is not None
        if not self.job.has_agent_store:
            return self.job.main_port
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        return int(agree(self.job, lambda: str(find_free_network_port()), "process group", arrive_within=600))

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        check_processes(self.job, num_devices, num_nodes)


class _SrunTask(ClusterEnvironment):
    """A task of srun; signals and requeueing are left to `tasks.run`."""

    creates_processes_externally = True

    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def main_address(self) -> str:
        return self.job.main_address

    @property
    def main_port(self) -> int:
        assert self.job.main_port is not None
        return self.job.main_port

    @staticmethod
    def detect() -> bool:
        return False  # it is handed over, never looked for

    def world_size(self) -> int:
        return self.job.world_size

    def set_world_size(self, size: int) -> None:
        """Nothing to set: srun has."""

    def global_rank(self) -> int:
        return self.job.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing to set: srun has."""

    def local_rank(self) -> int:
        return self.job.local_rank

    def node_rank(self) -> int:
        return self.job.node_rank

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        check_processes(self.job, num_devices, num_nodes)
