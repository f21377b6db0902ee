"""Options of the trainer that cannot be right here, refused in one line."""

from typing import Any

from tasks.errors import TaskError


def refuse_trainer_options(trainer: Any) -> None:
    """Refuses what would train wrongly or not at all.

    Args:
        trainer: The trainer's options.

    Raises:
        TaskError: With what to use instead.
    """
    if trainer.barebones:
        raise TaskError(
            "--trainer.barebones trains without saving, logging and validating anything; to see where time goes use "
            "--trainer.profiler simple"
        )
