"""The largest batch that fits into memory, by Lightning's `Tuner`."""

import gc
import math
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Literal

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import rank_zero_info

from tasks.built import Built
from tasks.errors import TaskError
from tasks.find.memory import free_memory, is_out_of_memory, limited_memory
from tasks.find.rates import option_rate
from tasks.find.search import search_trainer

OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""By which Lightning tells that a trial has failed for want of memory; it does not know what other libraries say."""
MARGIN = 0.05
"""Share of the batch that a search by halves keeps free, as in Lightning."""
SHARE = 0.8
"""Share of the free memory of a machine that trials may take."""


@dataclass(frozen=True)
class Trials:
    """What a search has found.

    Attributes:
        fitting: Batches that have fitted, in the order of the trials.
        too_large: Those that have not.
    """

    fitting: list[int]
    too_large: list[int]


class TrialLoop(_FitLoop):
    """The training of one trial after the other.

    Lightning says of batches that they fit which it has not tried, where its limits end a search; here each trial is
    noted when it has ended.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer, max_epochs=-1)
        self.epoch_loop = trainer.fit_loop.epoch_loop
        self.trials = Trials([], [])

    def run(self) -> None:
        """Trains for some steps.

        Raises:
            RuntimeError: There was not enough memory, in words that Lightning knows.
            TaskError: Not even for one image.
        """
        size = self.trainer.datamodule.batch_size
        if self._fits():
            self.trials.fitting.append(size)
            return
        # Outside of any `except`: an error that is being handled holds the tensors of the failed step.
        gc.collect()
        self.trials.too_large.append(size)
        if size == 1:
            raise TaskError("no batch fits: one image is too much; take smaller images or a smaller model")
        raise RuntimeError(OUT_OF_MEMORY)

    def _fits(self) -> bool:
        try:
            super().run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True


def largest_batch(built: Built, mode: Literal["power", "binsearch"], first: int, most: int, steps: int) -> Trials:
    """Trains with larger and larger batches until one does not fit.

    Args:
        built: What the recipe's command has built.
        mode: `power` doubles the batch; `binsearch` then looks between the last that fits and the first that does not.
        first: The first batch; half of it follows where nothing fits.
        most: The largest batch that is tried, at most the number of images.
        steps: Optimiser steps of each trial.

    Raises:
        TaskError: Not even one image fits.
    """
    doublings = int(math.log2(most / first)) + 1  # one more would be larger than the split
    built.data.batch_size = first
    with TemporaryDirectory() as folder:
        trainer = search_trainer(built, folder, steps)
        trainer.fit_loop = loop = TrialLoop(trainer)
        Tuner(trainer).scale_batch_size(
            built.task,
            datamodule=built.data,
            mode=mode,
            steps_per_trial=steps,
            init_val=first,
            max_trials=doublings if mode == "power" else 2 * doublings + 1,
            margin=0,
            max_val=most + 1 if mode == "power" else most,
        )
    if loop.trials.fitting or first == 1:
        return loop.trials
    return largest_batch(built, mode, first // 2, most, steps)


def search(
    built: Built, mode: Literal["power", "binsearch"], first: int, most: int | None, steps: int, memory: float | None
) -> Trials:
    """Looks for the largest batch on the device of the recipe; on a CPU within a limit.

    Args:
        built: What the recipe's command has built.
        mode: As in `largest_batch`.
        first: The first batch.
        most: The largest batch that is tried; none takes the number of images.
        steps: Optimiser steps of each trial.
        memory: GB that trials may take on a CPU; none takes `SHARE` of what is free.

    Raises:
        TaskError: No batch can be tried.
    """
    images = len(built.data.train_dataset())
    most = images if most is None else min(most, images)
    if first > most:
        raise TaskError(f"--first is {first}, expected at most {most}: of {images} images --most are tried")
    if not isinstance(built.trainer.accelerator, CPUAccelerator):
        if memory is not None:
            raise TaskError(f"--memory {memory:g} is for the CPU; a GPU has its own limit")
        return largest_batch(built, mode, first, most, steps)
    growth = SHARE * free_memory() if memory is None else memory * 1e9
    rank_zero_info(f"trials may take {growth / 1e9:.2f} GB of this machine's memory (--memory)")
    built.data.num_workers = 0  # a loader process that the limit hits leaves its parent waiting for ever
    with limited_memory(int(growth)):
        return largest_batch(built, mode, first, most, steps)


def report(trials: Trials, mode: str, built: Built, recipe: int) -> str:
    """The batch as an option, with what it changes.

    Args:
        trials: What a search has found.
        mode: The search.
        built: What the recipe's command has built.
        recipe: The recipe's batch.
    """
    fits = max(trials.fitting)
    batch = max(1, int(fits * (1 - MARGIN))) if mode == "binsearch" else fits
    end = f"{min(trials.too_large)} do not" if trials.too_large else "more were not tried (--most, or all images)"
    base = built.task.options.parameter_rules.base_batch_size
    rate = (
        f"its learning rate is scaled to the batch (model.parameter_rules.base_batch_size {base})"
        if base is not None
        else f"in proportion its learning rate is --model.optimizer.lr {option_rate(built.task) * batch / recipe:.2g}"
    )
    return (
        f"--data.batch_size {batch}\n"
        f"{fits} images fit, {end}\n"
        f"the recipe has a batch of {recipe}: {rate}; lengths in steps (--trainer.max_steps, warm-up) stay those for it"
    )
