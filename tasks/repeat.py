"""`python -m tasks.repeat RUN`: takes the step again at which a run has ended because its numbers were not finite.

The run folder keeps such a step in `not_finite/`: the state before it, the options, and the sample keys, losses and
image names of every process. The same training goes from there through the same step: the same images, augmentations
and random numbers on as many processes, and the modules are named whose output is the first that is not finite. Where
the state before the step is not there (on a GPU it is gone when the answer comes), it goes from the last good
checkpoint. Nothing is written into the run folder.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from configs.mistakes import CommandParser
from configs.numbers import at_least
from configs.version import add_version
from tasks import detect, segment
from tasks.command_line import run
from tasks.errors import TaskError
from tasks.run import exit_codes
from tasks.run.guard import KEPT
from tasks.run.resume import newest_good_checkpoint

MAINS = {"detect": detect.main, "segment": segment.main}


class BrokenModules(Callback):
    """Says which modules are the first in a step whose output is not finite, and ends the run behind the step.

    Args:
        step: Optimiser steps before the step that is looked at.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watches the modules of the step."""
        if trainer.global_step != self.step:
            return
        print(f"step {self.step}, images {', '.join(str(target['file_name']) for target in batch['targets'])}")  # noqa: T201
        self.found: list[str] = []
        self.handles = [
            module.register_forward_hook(lambda _module, _inputs, output, name=name: self._look(name, output))
            for name, module in pl_module.model.named_modules()
            if name
        ]

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints losses, modules and gradients."""
        if trainer.global_step != self.step:
            return
        for handle in self.handles:
            handle.remove()
        for name, value in pl_module.loss_parts.items():
            print(f"{name}: {value.float().mean().item():.6g}")  # noqa: T201
        print(f"first modules with outputs that are not finite: {', '.join(self.found[:5]) or 'none'}")  # noqa: T201
        broken = [
            name for name, p in pl_module.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
        ]
        print(f"gradients that are not finite: {len(broken)} ({', '.join(broken[:5])})")  # noqa: T201

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends the run behind the step."""
        trainer.should_stop = trainer.global_step > self.step

    def _look(self, name: str, output: Any) -> None:
        values = (
            output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
        )
        if any(isinstance(v, Tensor) and v.is_floating_point() and not torch.isfinite(v).all() for v in values):
            self.found.append(name)


def arguments(folder: Path, step: int | None, scratch: Path) -> tuple[str, list[str]]:
    """Task and command line that take a kept step again.

    Args:
        folder: The run folder.
        step: Which of its kept steps; none takes the last.
        scratch: Where the repetition may write.

    Raises:
        TaskError: There is no such step, or nothing to start it from.
    """
    kept = {int(file.stem.removeprefix("step-")): file for file in (folder / KEPT).glob("step-*.json")}
    if not kept or (step is not None and step not in kept):
        raise TaskError(
            f"no {'step' if step is None else f'step {step}'} in {folder / KEPT}; kept are {sorted(kept) or 'none'}: a "
            "run keeps the step at which it ends because numbers are not finite"
        )
    step = max(kept) if step is None else step
    record = json.loads(kept[step].read_text())
    checkpoint = kept[step].with_suffix(".ckpt")
    if not checkpoint.exists():
        found = newest_good_checkpoint(folder)
        if found is None or found.step > step:
            raise TaskError(f"no checkpoint of {folder} lies before step {step}")
        checkpoint = found.path
    return record["task"], [
        "fit",
        f"--config={kept[step].with_suffix('.yaml')}",
        f"--ckpt_path={checkpoint}",
        f"--runs={scratch}",
        "--name=repeat",
        "--wandb.mode=disabled",
        "--trainer.limit_val_batches=0",
        "--check_every_step=true",
        "--skip_bad_steps=0",
        "--trainer.callbacks+=tasks.repeat.BrokenModules",
        f"--trainer.callbacks.step={step}",
    ]


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = CommandParser(
        prog="python -m tasks.repeat",
        description="Takes the step again at which a run has ended because its numbers were not finite.",
    )
    add_version(parser)
    parser.add_argument("run", type=Path, help="the run folder, such as runs/detect/NAME")
    parser.add_argument("--step", type=at_least(0), help="which of its kept steps; default: the last")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        prepared: list[tuple[str, list[str]]] = []
        run(lambda: prepared.append(arguments(options.run, options.step, Path(scratch))))
        task, command = prepared[0]
        try:
            MAINS[task](command)
        except SystemExit as end:
            if end.code != exit_codes.NUMBERS:
                raise
            print("the step has been taken again, and again its numbers are not finite")  # noqa: T201


if __name__ == "__main__":
    main()
