"""A data set that goes on past images that cannot be read."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.sampling import SampleKey


class ReadableOnly(Dataset[dict[str, Any]]):
    """Gives another sample in the place of one that cannot be read, so that every process has as many as before.

    Such a sample is marked as repeated, which writers and metrics leave out, and its target says in `unreadable` what
    was wrong with the one whose place it takes: once, where that is itself a repeated one.

    Args:
        dataset: Indexed by `SampleKey`; raises `DataError`.
    """

    def __init__(self, dataset: "Dataset[Any]") -> None:
        self.dataset = dataset
        self._last_good: int | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """What else is known of the data set, such as `paths`."""
        if name == "dataset":  # asked for while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample.

        Raises:
            DataError: None can be read.
        """
        try:
            sample: dict[str, Any] = self.dataset[key]
            self._last_good = key.index
        except DataError as error:
            sample = self._another(key, error)
            if not key.repeated:
                sample["target"]["unreadable"] = str(error)
        return sample

    def _another(self, key: SampleKey, error: DataError) -> dict[str, Any]:
        for index in self._others(key.index):
            try:
                sample: dict[str, Any] = self.dataset[SampleKey(key.epoch, index, repeated=True)]
            except DataError:
                continue
            self._last_good = index
            return sample
        raise DataError(f"none of {len(self)} images can be read; the first: {error}")

    def _others(self, index: int) -> Iterator[int]:
        if self._last_good is not None:
            yield self._last_good
        yield from ((index + step) % len(self) for step in range(1, len(self)))
