"""Options of the trainer that cannot be right here, refused in one line."""

import os
from typing import Any

from tasks.errors import TaskError
from tasks.run.job import Job

REFUSED = {
    "barebones": "trains without saving, logging or validating; to see where time goes use --trainer.profiler simple",
    "default_root_dir": "does not place a run; use --runs FOLDER and --name NAME",
    "model_registry": "(trainer.model_registry) is a service of Lightning's that this package does not write to",
}


def refuse_trainer_options(trainer: Any, job: Job) -> None:
    """Refuses what would train wrongly or not at all.

    Args:
        trainer: The trainer's options.
        job: The job of this process.

    Raises:
        TaskError: With what to use instead.
    """
    for name, reason in REFUSED.items():
        if trainer.get(name):
            raise TaskError(f"--trainer.{name} {trainer[name]} {reason}")
    if trainer.log_every_n_steps is not None and trainer.log_every_n_steps < 1:
        raise TaskError(
            f"--trainer.log_every_n_steps is {trainer.log_every_n_steps}, expected at least 1; --trainer.logger false "
            "switches logging off"
        )
    if trainer.num_nodes > 1 and job.scheduler is None and "MASTER_ADDR" not in os.environ:
        raise TaskError(
            f"--trainer.num_nodes is {trainer.num_nodes}, but nothing has started processes on the other nodes; start "
            "it with srun or torchrun (docs/cluster.md)"
        )
