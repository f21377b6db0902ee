"""Runs and their evaluations, each read and resampled once for as long as its files stay as they are."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.callbacks.pictures import OF_THE_BEST, PICTURES
from tasks.comparison import RunScores
from tasks.comparison import read_run as read_scores
from tasks.report.runs import CONFIG, COSTS, DATA, Run, find_folders, read_run
from tasks.run.evaluation_file import EVALUATION
from tasks.run.record import RECORD
from tasks.run.summary_file import SUMMARY
from tasks.run.table_file import TABLE

SCORED = (SUMMARY, EVALUATION)
FILES = (*SCORED, RECORD, CONFIG, DATA, COSTS, TABLE, PICTURES, f"{PICTURES}/{OF_THE_BEST}")
"""What a report is made of: files of a run folder, and folders whose time changes with their files."""
Stamp = tuple[tuple[int, int] | None, ...]
"""Time in ns and size of some files; None of those that are missing."""
Known = TypeVar("Known")


def stamp(folder: Path, names: Sequence[str] = FILES) -> Stamp:
    """What changes when one of these files of a run folder does."""
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


class KnownRuns:
    """Reads runs that are looked at again and again.

    Args:
        places: Run folders, or folders above them.
        resamples: Resamples of the images, the same at every look.
    """

    def __init__(self, places: Sequence[Path], resamples: int) -> None:
        self.places, self.resamples = places, resamples
        self._runs: dict[Path, tuple[Stamp, Run]] = {}
        self._scores: dict[tuple[Path, str], tuple[Stamp, RunScores]] = {}

    def look(self) -> list[Run] | None:
        """All runs; None where nothing has changed since the last look.

        Raises:
            TaskError: There is none.
        """
        before = {folder: known[0] for folder, known in self._runs.items()}
        folders = find_folders(self.places)
        self._runs = {folder: _up_to_date(self._runs.get(folder), folder, FILES, read_run) for folder in folders}
        self._scores = {key: known for key, known in self._scores.items() if key[0] in self._runs}
        changed = before != {folder: known[0] for folder, known in self._runs.items()}
        return [run for _, run in self._runs.values()] if changed else None

    def scores(self, folder: Path, score: str) -> RunScores:
        """The evaluation of a run; see `tasks.comparison.read_run`."""
        known = _up_to_date(self._scores.get((folder, score)), folder, SCORED, lambda _: self._read(folder, score))
        self._scores[folder, score] = known
        return known[1]

    def _read(self, folder: Path, score: str) -> RunScores:
        """Without what the scores are computed from, which takes a hundred times their memory."""
        run, seed = read_scores(folder, score), 0
        scores, by_image = run.resampled(self.resamples, seed), run.score_images()

        def resampled(*asked: int) -> NDArray[np.float64]:
            assert asked == (self.resamples, seed)
            return scores

        return replace(run, resampled=resampled, score_images=lambda: by_image)


def _up_to_date(
    known: tuple[Stamp, Known] | None, folder: Path, names: Sequence[str], read: Callable[[Path], Known]
) -> tuple[Stamp, Known]:
    now = stamp(folder, names)  # before it is read: what changes meanwhile is read again
    return known if known is not None and known[0] == now else (now, read(folder))
