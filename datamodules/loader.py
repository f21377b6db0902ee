"""The loaders: exact when a run is resumed, from the end of an epoch or from its middle."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.epoch_progress import EpochProgress
from datamodules.sampling import KeySampler, SampleKey
from datamodules.substitutes import Losses
from datamodules.workers import signals_wait


class StepSampler(Sampler[list[SampleKey]]):
    """Yields this process's keys of one step after the other: what is left of the epoch.

    Args:
        sampler: Knows the epoch and this process.
        progress: Knows the steps of the epoch, and which of them are done.
        steps: Steps of an ordinary epoch, the length that the trainer counts with.
    """

    def __init__(self, sampler: KeySampler, progress: EpochProgress, steps: int) -> None:
        self.sampler, self.progress, self.steps = sampler, progress, steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Begins the epoch that the sampler was told last, or goes on with it."""
        plan, done = self.progress.begin(self.sampler.epoch)
        for step in range(done, len(plan)):
            yield [SampleKey(plan.epoch, index, repeated=False) for index in plan.batch(step, self.sampler.rank)]

    def __len__(self) -> int:
        """Steps of an ordinary epoch."""
        return self.steps


class QuietLoader(DataLoader[Any]):
    """A DataLoader whose workers are born deaf to signals, until `workers.start_worker` has settled which they heed."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Starts the workers, or those that persist anew."""
        with signals_wait():
            return super().__iter__()


class ResumableLoader(QuietLoader):
    """A loader of whole steps that starts behind what the interrupted epoch has seen.

    Lightning makes the iterator of the first epoch before it has told the sampler the epoch and before it has restored
    the progress of a resumed run, so a plain loader would prefetch the order of epoch 0 from its beginning. This one
    looks at both when the first batch is asked for.

    Args:
        dataset: The training split.
        steps: Says what a step is.
        losses: Counts the samples that stand for others; their batches have `faults`.
        options: Further options of `DataLoader`.
    """

    def __init__(self, dataset: "Dataset[Any]", steps: StepSampler, losses: Losses | None, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=steps, **options)
        # In place of the sampler of plain numbers that PyTorch puts here and never reads. Lightning reads it, and would
        # put a distributed one in its place.
        self.__dict__["sampler"] = steps.sampler
        self.losses = losses

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the remaining batches of the epoch."""
        for batch in super().__iter__():
            if self.losses is not None:
                self.losses.take(batch.pop("faults"))
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module holds the state. Tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the empty state back."""
