"""The training loader: exact when a run is resumed, from the end of an epoch or from its middle."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from datamodules.sampling import KeySampler


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that starts behind the batches which the interrupted epoch has consumed.

    Lightning makes the iterator of the first epoch before it has told the sampler the epoch and before it has restored
    the progress of a resumed run, so a plain loader would prefetch the order of epoch 0 from its beginning. This one
    looks at both when the first batch is asked for.

    Attributes:
        consumed_batches: Tells how many batches of the current epoch are done.
    """

    consumed_batches: Callable[[], int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the remaining batches of the epoch."""
        sampler = self.sampler
        if self.consumed_batches is not None and isinstance(sampler, KeySampler):
            sampler.start = self.consumed_batches() * (self.batch_size or 1)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the trainer's own progress is the state. Tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the empty state back."""
