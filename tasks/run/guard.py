"""The guard of a run's numbers: no step is taken, and nothing saved, with losses or gradients that are not finite.

On a CPU, and wherever steps may be skipped, the numbers are asked before the optimiser's step. On a GPU that would make
every step wait for the device; there the answer of one step is read in the next, and before anything is saved. In both
cases all processes learn it together, stop together, and the batch is kept in `not_finite/` of the run folder with all
that `python -m tasks.repeat RUN` needs to take the same step again.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tasks.errors import NumbersError
from tasks.run.agreement import Agreement, Decision
from tasks.run.files import write_text
from tasks.run.numbers import DelayedFlag, gradients_are_finite, weights_are_finite

KEPT = "not_finite"
REMEDY = "lower the learning rate, lengthen the warm-up or clip gradients (--trainer.gradient_clip_val)"


@dataclass(frozen=True)
class Step:
    """What a process has done in an optimiser step.

    Attributes:
        step: Optimiser steps before it.
        batches: Running numbers of its batches, counted over all epochs.
        keys: Sample keys (epoch, index) of each batch.
        images: Names of the images.
        losses: Parts of the loss of the last batch.
    """

    step: int
    batches: list[int]
    keys: list[list[tuple[int, int]]]
    images: list[str]
    losses: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether this process's own losses are finite."""
        return all(math.isfinite(value) for value in self.losses.values())


@dataclass
class _Step:
    """The same while it is taken: the losses are still on their device."""

    step: int
    batches: list[int] = field(default_factory=list)
    keys: list[list[tuple[int, int]]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)


class NumbersGuard:
    """Watches the numbers of training.

    Args:
        folder: The run folder.
        task: `detect` or `segment`.
        config: The configuration of this start as yaml, kept with a step that is not finite.
        skip_steps: Steps that may be skipped one after another because their numbers are not finite, before the run
            ends; 0 ends it at the first.
        check_every_step: Wait for the numbers before every step, also on a GPU.
    """

    def __init__(
        self, folder: Path, task: str = "", config: str = "", skip_steps: int = 0, check_every_step: bool = False
    ) -> None:
        self.folder, self.task, self.config = folder, task, config
        self.skip_steps, self.waits = skip_steps, check_every_step or skip_steps > 0
        self.skipped_in_a_row = 0
        self._flag = DelayedFlag()
        self._is_finite: Tensor | None = None
        self._step = self._asked = _Step(0)

    def begin_batch(self, step: int, number: int, batch: dict[str, Any], begins_step: bool) -> None:
        """Remembers where a batch of the current step comes from."""
        if begins_step:
            self._step, self._is_finite = _Step(step), None
        self._step.batches.append(number)
        self._step.keys.append([(key.epoch, key.index) for key in batch.get("keys", [])])
        self._step.images += [str(target.get("file_name", target["image_id"])) for target in batch["targets"]]

    def see_losses(self, losses: dict[str, Tensor]) -> None:
        """Takes the loss parts of a batch."""
        self._step.losses = losses
        values = [value.detach().float().mean() for value in losses.values()]
        finite = torch.isfinite(torch.stack(values)).all() if values else torch.tensor(True)
        self._is_finite = finite if self._is_finite is None else self._is_finite & finite

    def before_step(
        self, trainer: Trainer, module: LightningModule, agreement: Agreement, stop: int, save: bool
    ) -> Decision:
        """Asks the numbers of the step that is about to be taken, and lets all processes agree; a collective call.

        Raises:
            NumbersError: They, or on a GPU those of an earlier step, are not finite and may not be skipped.
        """
        gradients = gradients_are_finite(module)
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            gradients = torch.ones_like(gradients)  # the scaler of float16 skips such steps by itself
        finite = gradients if self._is_finite is None else gradients & self._is_finite.to(gradients.device)
        answer = bool(finite) if self.waits else self._flag.put(finite)
        decision = agreement.on(stop, save, answer is False)
        is_late = not self.waits and finite.device.type == "cuda"  # the answer is that of the step before
        asked, self._asked = self._asked if is_late else self._step, self._step
        if decision.broken:
            self._refuse(trainer, asked, agreement)
        else:
            self.skipped_in_a_row = 0
        return decision

    def require_finite(self, trainer: Trainer, module: LightningModule, agreement: Agreement) -> None:
        """Checks all that has been computed so far, before anything is saved; a collective call.

        Raises:
            NumbersError: Gradients of the last steps, or the weights, are not finite.
        """
        pending = self._flag.read()
        if agreement.on(0, broken=pending is False).broken:
            self._refuse(trainer, self._asked, agreement)
        if agreement.on(0, broken=not bool(weights_are_finite(module))).broken:
            raise NumbersError(
                f"weights are no longer finite, or nearly, after step {trainer.global_step}; nothing of it is saved; "
                f"{REMEDY}, then continue from the last checkpoint with --resume auto --new_schedule true"
            )

    def _refuse(self, trainer: Trainer, asked: "_Step", agreement: Agreement) -> None:
        mine = Step(
            asked.step,
            asked.batches,
            asked.keys,
            asked.images,
            {name: float(value.detach().float().mean()) for name, value in asked.losses.items()},
        )
        steps = [Step(**json.loads(words)) for words in agreement.gather(json.dumps(asdict(mine)))]
        report = describe(steps)
        if self.skipped_in_a_row < self.skip_steps:
            self.skipped_in_a_row += 1
            trainer.optimizers[0].zero_grad(set_to_none=True)  # an optimiser leaves parameters without gradients alone
            rank_zero_warn(
                f"{report}; the step is skipped ({self.skipped_in_a_row} of at most {self.skip_steps} in a row)"
            )
            return
        self._keep(trainer, steps)
        raise NumbersError(
            f"{report}; {REMEDY}; the batch is kept: python -m tasks.repeat {self.folder} repeats the step"
        )

    def _keep(self, trainer: Trainer, steps: list[Step]) -> None:
        """Writes the sample keys of all processes, and the state before the step where it is still at hand."""
        folder = self.folder / KEPT
        name = f"step-{steps[0].step}"
        is_before_step = trainer.strategy.root_device.type != "cuda" or self.waits
        if is_before_step:
            trainer.save_checkpoint(folder / f"{name}.ckpt", weights_only=False)
        if trainer.is_global_zero:
            seed = getattr(trainer.datamodule, "seed", None)
            processes = [asdict(step) for step in steps]
            for process in processes:  # JSON has no infinity
                process["losses"] = {n: v if math.isfinite(v) else str(v) for n, v in process["losses"].items()}
            content = {"task": self.task, "step": steps[0].step, "seed": seed, "processes": processes}
            write_text(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
            write_text(folder / f"{name}.yaml", self.config)


def describe(steps: list[Step]) -> str:
    """One line on a step of all processes: what is not finite, and where it came from."""
    guilty = [rank for rank, step in enumerate(steps) if not step.is_finite] or list(range(len(steps)))
    what = (
        "the loss is not finite" if not steps[guilty[0]].is_finite else "gradients are not finite under a finite loss"
    )
    parts = ", ".join(f"{name} {value:.4g}" for name, value in steps[guilty[0]].losses.items())
    images = ", ".join(image for rank in guilty for image in steps[rank].images)
    where = f" on process {', '.join(map(str, guilty))}" if len(steps) > 1 else ""
    return f"{what} at step {steps[0].step}{where} ({parts}; images {images})"
