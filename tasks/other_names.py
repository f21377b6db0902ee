"""What other programs call options and commands that have another name here."""

from collections.abc import Sequence

from tasks.errors import TaskError

COMMANDS = {"train": "fit", "eval": "validate", "evaluate": "validate", "val": "validate", "inference": "predict"}
OPTIONS = {
    "epochs": "--trainer.max_epochs",
    "max_iters": "--trainer.max_steps",
    "steps": "--trainer.max_steps",
    "learning_rate": "--model.optimizer.lr",
    "optimizer": "--model.optimizer",
    "scheduler": "--model.lr_schedule",
    "gpus": "--trainer.devices",
    "gpu": "--trainer.devices",
    "devices": "--trainer.devices",
    "device": "--trainer.accelerator",
    "amp": "--trainer.precision 16-mixed",
    "fp16": "--trainer.precision 16-mixed",
    "pretrained": "--host.weights imagenet",
    "freeze": "--host.frozen_stages",
    "checkpoint": "--ckpt_path",
    "ckpt": "--ckpt_path",
    "output": "--runs, the folder of all runs, or --name",
    "output_dir": "--runs, the folder of all runs, or --name",
    "img_size": "--data.pipeline",
    "image_size": "--data.pipeline",
    "config_name": "--config configs/.../NAME.yaml",
    "cfg_options": "the option itself: --data.batch_size 4",
    "work_dir": "--runs, the folder of all runs, or --name",
    "launcher": "torchrun or srun in front of the command (docs/cluster.md)",
    "local_rank": "given by torchrun or srun (docs/cluster.md)",
    "multirun": "a sweep: python -m tasks.sweep configs/sweeps/NAME.yaml",
    "num_classes": "--data.class_names; the classes are read from the data set",
}
"""By the last part of the name, with underscores."""
WORDS = ("none", "nil", "nothing", "off", "no", "")
"""What people write for nothing, which is written null; `None` besides, which is never meant as a word."""


def other_name(option: str) -> str | None:
    """The option here that others call so, or None.

    Args:
        option: As it was typed: `--gpus`, `--trainer.gpus`.
    """
    return OPTIONS.get(option.lstrip("-").rpartition(".")[2].replace("-", "_"))


def refuse_none(arguments: Sequence[str]) -> None:
    """Refuses Python's word for nothing as a value, which would be taken for a name or a file.

    Raises:
        TaskError: An option has the value `None`.
    """
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        value = value if equals else "".join(arguments[place + 1 : place + 2])
        if option.startswith("--") and value == "None":
            raise TaskError(f"{option} is 'None'; nothing is written null: {option} null")
