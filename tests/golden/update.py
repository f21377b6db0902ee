"""Writes the frozen numbers again: `python -m tests.golden.update [NAME ...]`. Say in the commit why they have changed.

The curves are trained once for every entry of `PROCESSORS`, with the instructions that PyTorch, oneDNN and MKL would
use on such a processor. Their differences are those of rounding, which training amplifies step by step, and so is the
tolerance: at each row ten times the largest difference up to there of the column, and at least 1e-5 of the value; for
scores, which move by whole objects and pixels, at least 0.002. AMD's processors of today run the AVX2 or AVX-512 paths
of PyTorch and oneDNN, and MKL treats them like the last two entries. Metrics are exact but for the order of sums: 1e-9.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from tests.conftest import sample_data
from tests.golden import ade20k_sample
from tests.golden.runs import HERE, MAINS, METRICS, ROOT, Curve, train

PROCESSORS: dict[str, dict[str, str]] = {
    "this one": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
NAMES = [*MAINS, "metrics", "ade20k_sample"]


def curves_on(tasks: list[str], environment: dict[str, str]) -> dict[str, Curve]:
    """The curves of some tasks from a process with other instructions."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.golden.update", *tasks, "--curves", folder]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=True)
        return {task: json.loads((Path(folder) / f"{task}.json").read_text()) for task in tasks}


def tolerances(curves: list[Curve], column: str) -> list[float]:
    """How far each row of a column may be from the first curve; see the top of this file."""
    found, largest = [], 0.0
    least = 0.002 if column.startswith("val/") else 0.0
    for values in zip(*(curve[column] for curve in curves), strict=True):
        if any((value is None) != (values[0] is None) for value in values):
            raise ValueError(f"{column} is defined on some processors only: {values}")
        if values[0] is not None:
            largest = max(largest, *(abs(value - values[0]) for value in values))
        found.append(float(f"{max(10 * largest, 1e-5 * abs(values[0] or 0), least):.2g}"))
    return found


def main() -> None:
    """Runs the command line."""
    parser = ArgumentParser(prog="python -m tests.golden.update", description="Writes the frozen numbers again.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument(
        "--curves", type=Path, metavar="FOLDER", help="writes bare curves, of this processor; for the command itself"
    )
    options = parser.parse_args()
    names = options.names or NAMES
    tasks = [task for task in MAINS if task in names]
    if options.curves:
        for task in tasks:
            (options.curves / task).mkdir()
            (options.curves / f"{task}.json").write_text(json.dumps(train(task, options.curves / task)))
        return
    found = [curves_on(tasks, environment) for environment in PROCESSORS.values()] if tasks else []
    for task in tasks:
        curves = [each[task] for each in found]
        write(task, {name: {"values": curves[0][name], "tolerances": tolerances(curves, name)} for name in curves[0]})
    if "metrics" in names:
        write("metrics", {kind: numbers() for kind, numbers in METRICS.items()})
    if "ade20k_sample" in names:
        write("ade20k_sample", ade20k_sample.numbers(sample_data() / "ade20k-sample"))


def write(name: str, content: object) -> None:
    """Writes a file of frozen numbers."""
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
