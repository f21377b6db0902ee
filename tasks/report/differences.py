"""What the configurations of a section score more or less than each other, for every choice of the baseline."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.comparison import (
    Arm,
    Estimate,
    RunScores,
    build_arm,
    compare,
    estimate_mean,
    read_run,
    require_enough_images,
    require_same_data,
    share_on_front,
)
from tasks.errors import TaskError
from tasks.report.changes import image_changes
from tasks.report.costs import costs_of
from tasks.report.groups import Group, rounded, spread_of

CLASS_DIGITS = 4
"""Decimal places of what is kept of the score of a class: there are hundreds of those."""

IN_WANDB = (
    "{} of the rows are of runs in W&B, which has no evaluation.npz: intervals come of their run folders, or of the "
    "artifacts of --wandb.upload_evaluation"
)
"""Said once, whatever the number."""


def differences(
    groups: Sequence[Group],
    resamples: int,
    pictured: Sequence[str] = (),
    read_scores: Callable[[Path, str], RunScores] = read_run,
) -> dict[str, Any]:
    """Compares groups pair by pair, by the headline.

    Args:
        groups: Seeds of one configuration each, which may be ranked together.
        resamples: Resamples of the images.
        pictured: Names of the pictures that the report shows.
        read_scores: Reads the evaluation of a run folder by a score.

    Returns:
        `arms`: folders of the runs of each group that could be compared, the 95 % interval of its mean, and whether the
        seeds are in it. `classes`: names. `pairs`: for each baseline, the later groups as [difference, low, high,
        probability of being better, p value, seeds are in it, [[difference, half of the interval, p value corrected
        over the classes] of each class]]; the other way round they have the other sign. `corrected`: (A, A) p values by
        baseline and candidate, corrected over the candidates. `front`: how often each group is on the front of a cost.
        `images`: see `image_changes`. `left_out`: why runs could not be compared, in words.
    """
    read, kept, left_out = read_groups(groups, read_scores)
    arms = [build_arm(group.runs[0].name, runs, resamples) for group, runs in zip(kept, read, strict=True)]
    found = [compare(arm, [other for other in arms if other is not arm]) for arm in arms] if len(arms) > 1 else []
    means = [estimate_mean(arm) for arm in arms]
    return {
        "arms": [
            {"runs": [str(run.folder) for run in group.runs], "interval": _interval(mean, 0), "seeds": mean.with_seeds}
            for group, mean in zip(kept, means, strict=True)
        ],
        "classes": list(read[0][0].class_names) if read else [],
        "pairs": [
            [_pair(one.estimate, one.class_p_corrected) for one in rivals[place:]] for place, rivals in enumerate(found)
        ],
        "corrected": [
            [None if one is None else rounded(one.p_corrected) for one in (*rivals[:place], None, *rivals[place:])]
            for place, rivals in enumerate(found)
        ],
        "front": _fronts(kept, arms),
        "images": image_changes(read, pictured),
        "left_out": left_out,
    }


def read_groups(
    groups: Sequence[Group], read_scores: Callable[[Path, str], RunScores] = read_run
) -> tuple[list[list[RunScores]], list[Group], list[str]]:
    """The evaluations of the groups that can be compared, those groups, and why the others cannot be."""
    read: list[list[RunScores]] = []
    kept: list[Group] = []
    in_wandb = [group for group in groups if any(run.logged is not None for run in group.runs)]
    left_out = [IN_WANDB.format(len(in_wandb))] if in_wandb else []
    for group in groups:
        if group in in_wandb:
            continue
        try:
            runs = [read_scores(run.folder, group.headline) for run in group.runs]
            require_same_data([read[0][0] if read else runs[0], *runs])
            require_enough_images(runs[0])
        except TaskError as error:
            left_out.append(str(error))
        else:
            read.append(runs)
            kept.append(group)
    return read, kept, left_out


def _pair(estimate: Estimate, class_p_values: Iterable[float]) -> list[Any]:
    low, high = estimate.interval()
    halves = (high - low) / 2
    columns = zip(estimate.value[1:], halves[1:], class_p_values, strict=True)
    classes = [[rounded(number, CLASS_DIGITS) for number in column] for column in columns]
    numbers = (estimate.value[0], *_interval(estimate, 0), estimate.above_zero[0], estimate.p_value[0])
    return [*map(rounded, numbers), estimate.with_seeds, classes]


def _interval(estimate: Estimate, column: int) -> list[float | None]:
    return [rounded(end[column]) for end in estimate.interval()]


def _fronts(groups: Sequence[Group], arms: Sequence[Arm]) -> dict[str, list[float | None]]:
    fronts = {}
    for cost in costs_of([run for group in groups for run in group.runs]):
        spreads = [spread_of(map(cost.of, group.runs)) for group in groups]
        known = [place for place, spread in enumerate(spreads) if spread is not None]
        if len(known) > 1:
            means = [spread.mean for spread in spreads if spread is not None]
            shares = share_on_front([arms[place] for place in known], means)
            by_place = dict(zip(known, map(rounded, shares), strict=True))
            fronts[cost.name] = [by_place.get(place) for place in range(len(groups))]
    return fronts
