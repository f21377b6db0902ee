"""The look through a data set: all of it for `python -m datamodules.check`, what is quick before every run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from datamodules.findings import Severity, stop_at
from datamodules.preflight.greys import look_at_greys
from datamodules.preflight.report import Split, SplitReport
from datamodules.preflight.twins import look_for_twins

if TYPE_CHECKING:
    from datamodules.base import VisionDataModule


def look_through(data: "VisionDataModule", splits: Sequence[Split], whole: bool) -> list[SplitReport]:
    """Looks for what is lost or doubtful in splits, and in what they share.

    Args:
        data: The data module.
        splits: Which splits.
        whole: Read every file. Otherwise of each split some, or none where all were read before and stand as they were.
    """
    reports = [data.look_through(split, whole) for split in splits]
    files = [data.image_files(split) for split in splits]
    more = [look_at_greys(of_split, data.largest_grey) for of_split in files]
    if len(splits) > 1:
        more[1] += look_for_twins(files[0], files[1], whole)
    return [replace(report, findings=[*report.findings, *found]) for report, found in zip(reports, more, strict=True)]


def look_before(data: "VisionDataModule", stage: str) -> list[SplitReport]:
    """Looks through the splits of a run, and tells what it finds.

    Every process looks for itself, because machines may have different files; the first one tells.

    Raises:
        DataError: Nothing sensible can be trained or scored; in a strict run, something is lost or doubtful.
    """
    stages: dict[str, list[Split]] = {"fit": ["training", "validation"], "validate": ["validation"], "test": ["test"]}
    splits = stages.get(stage, [])
    if stage == "fit" and data.trainer is not None and data.trainer.limit_val_batches == 0:
        splits = ["training"]
    reports = look_through(data, splits, whole=False)
    told: set[Severity] = set() if data.strict else {"warning"}  # what stops the run is told where it ends
    for report in reports:
        for line in report.lines(told):
            rank_zero_info(line)
    stop_at([finding for report in reports for finding in report.findings], data.strict)
    return reports
