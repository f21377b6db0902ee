"""The logged numbers of a run over its steps, from `metrics.csv`, in as many points as a chart can show."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.run.table_file import TABLE, DamagedTable, read_table

Curve = list[tuple[int, float]]
"""Steps that were done, and the number then, with six digits."""
COUNTS = ("images", "classes")
"""Numbers of an evaluation that are no scores."""


def read_curves(folder: Path) -> dict[str, Curve]:
    """The numbers that are finite, by their names, and `seconds`; none where the run has no table that can be read."""
    try:
        names, rows = read_table(folder / TABLE)
    except (OSError, DamagedTable):
        return {}
    curves: dict[str, Curve] = {}
    for name in names:
        # A row's step is the one before it was done, as Lightning counts.
        points = [(step + 1, float(row[name])) for step, row in rows.items() if name in row]
        if points and name.partition("/")[2] not in COUNTS and name not in ("step", "epoch"):
            curves[name] = [(step, float(f"{value:.6g}")) for step, value in points if math.isfinite(value)]
    return {name: curve for name, curve in curves.items() if curve}


def thinned(curve: Sequence[tuple[int, float]], points: int) -> Curve:
    """At most so many points, evenly spaced, with the first and the last one."""
    if len(curve) <= points:
        return list(curve)
    places = sorted({round(place * (len(curve) - 1) / (points - 1)) for place in range(points)})
    return [curve[place] for place in places]


def fitting(curves: Mapping[Path, Mapping[str, Curve]], total: int) -> dict[Path, dict[str, Curve]]:
    """Thins the curves of all runs alike until they have no more points than this together, or 20 each."""
    points = 1000
    while True:
        fitted = {run: {name: thinned(curve, points) for name, curve in own.items()} for run, own in curves.items()}
        if points <= 20 or sum(len(curve) for own in fitted.values() for curve in own.values()) <= total:
            return fitted
        points //= 2
