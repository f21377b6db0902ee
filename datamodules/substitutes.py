"""Training goes on past files that cannot be read, in lock-step on all processes, and counts what it has left out."""

import json
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.sampling import SampleKey, stable_hash

MOST = 0.1
"""Share of replaced samples above which a run stops."""
LEAST = 100
"""Samples of a process from which on it knows such a share in the middle of an epoch."""
_DRAWS = 20

Fault = tuple[int, str]
"""A sample's place in the data set, and why it cannot be made."""


class Substituted(Dataset[dict[str, Any]]):
    """A data set that gives another of its samples in the place of one that cannot be made.

    Which one follows from (seed, key) alone: every process has as many samples as before, and a resumed run the same.
    A sample keeps the key that it was asked for by, and tells in `faults` what it stands for.

    Args:
        dataset: Indexed by `SampleKey`; raises `DataError`.
        seed: The run's seed.
    """

    def __init__(self, dataset: "Dataset[Any]", seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample.

        Raises:
            DataError: None of those drawn in its place can be made.
        """
        faults: list[Fault] = []
        index = key.index
        while len(faults) < _DRAWS:
            try:
                return {**self.dataset[key._replace(index=index)], "key": key, "faults": faults}
            except DataError as error:
                faults.append((index, str(error)))
                index = stable_hash(self.seed, key.epoch, key.index, len(faults)) % len(self)
        raise DataError(f"none of {_DRAWS} images drawn one for the other can be read; the first: {faults[0][1]}")


class Losses:
    """What this process, and with the others' help the first one, knows of replaced samples.

    The first process tells each file once per start: its own as they come, those of the others at the end of an epoch.
    """

    def __init__(self) -> None:
        self.samples = self.replaced = 0
        self.new: dict[int, str] = {}
        self.told: set[int] = set()

    def take(self, faults: Sequence[Sequence[Fault]]) -> None:
        """Counts a batch.

        Args:
            faults: Of each of its samples.

        Raises:
            DataError: Too many samples of this epoch were replaced.
        """
        self.samples += len(faults)
        self.replaced += sum(map(bool, faults))
        self.new |= {index: reason for of_sample in faults for index, reason in of_sample}
        self._tell(self.new)
        if self.samples >= LEAST:
            _stop_at_share(self.replaced, self.samples, next(iter(self.new.values()), ""))

    def end_epoch(self) -> str:
        """What this process has to tell the first one at the end of an epoch, as text; the count begins anew."""
        words = json.dumps([self.samples, self.replaced, sorted(self.new.items())])
        self.samples = self.replaced = 0
        self.new = {}
        return words

    def add_up(self, of_processes: Sequence[str], epoch: int) -> None:
        """Tells the total of an epoch, from what all processes have to tell, which all of them are given.

        Raises:
            DataError: Too many samples were replaced.
        """
        counts = [json.loads(words) for words in of_processes]
        samples, replaced = (sum(count[place] for count in counts) for place in (0, 1))
        faults = {index: reason for count in counts for index, reason in count[2]}
        self._tell(faults)
        if replaced:
            rank_zero_info(
                f"epoch {epoch}: {replaced} of {samples} training samples were replaced, because {len(faults)} images "
                "cannot be read (--data.on_corrupt skip)"
            )
            _stop_at_share(replaced, samples, next(iter(faults.values())))

    def _tell(self, faults: dict[int, str]) -> None:
        for index in faults.keys() - self.told:
            rank_zero_info(f"left out of training: {faults[index]}")
        self.told |= faults.keys()


def _stop_at_share(replaced: int, samples: int, first: str) -> None:
    if replaced > MOST * samples:
        raise DataError(
            f"{replaced} of {samples} training samples had to be replaced, more than {MOST:.0%}: {first}; look at all "
            "files with python -m datamodules.check"
        )
