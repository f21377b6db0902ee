"""What a sweep costs in GPU hours, from images a second that were measured; where none were, it says so."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.built import shown_config
from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.profile.recipes import build
from tasks.run.record import read_record
from tasks.run.summary_file import SUMMARY, read_summary
from tasks.sweep_list import Sweep, SweepRun
from tasks.sweep_options import KINDS

RATE = "perf/images_per_second"
"""Column of `metrics.csv`: training images a second, over all processes."""
UNKNOWN = "not measured"


def parse_rates(given: Sequence[str], sweep: Sweep) -> dict[str, float]:
    """Images a second and GPU by setting, from `NUMBER` for all of them or `SETTING=NUMBER` for one.

    Raises:
        TaskError: It is no positive number, or a setting that the sweep does not have.
    """
    labels = [setting.label for setting in sweep.settings()]
    rates: dict[str, float] = {}
    for words in given:
        label, _, number = words.rpartition("=")
        if label and label not in labels:
            raise TaskError(f"--images-per-second {words}: {label} is not in the sweep{instead(label, labels)}")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not 0 < rate < float("inf"):
            raise TaskError(f"--images-per-second {words}: expected a number above 0, such as 55 or {labels[0]}=55")
        rates |= dict.fromkeys([label] if label else labels, rate)
    return rates


def measured_rate(folder: Path) -> float | None:
    """Images a second and GPU of a run: the median over its table, as far as it has come; None where there is none."""
    try:
        with (folder / "metrics.csv").open(newline="") as lines:
            rates = [float(row[RATE]) for row in csv.DictReader(lines) if row.get(RATE)]
        processes = int(read_summary(folder / SUMMARY)["processes"])
    except FileNotFoundError:  # not begun, or nothing scored yet
        return None
    return statistics.median(rates) / processes if rates else None


def measured_rates(sweep: Sweep, runs: Path) -> dict[str, float]:
    """Images a second and GPU by setting, from the sweep's own runs of any seed."""
    found: dict[str, list[float]] = {}
    for run in sweep.runs():
        if (rate := measured_rate(runs / sweep.task / run.name)) is not None:
            found.setdefault(run.setting.label, []).append(rate)
    return {label: statistics.median(rates) for label, rates in found.items()}


def images_of_a_run(sweep: Sweep, more: Sequence[str]) -> int:
    """Training images that one run sees: its epochs times the images of the data set, or its steps times the recipe's.

    Raises:
        TaskError: Neither epochs nor steps limit a run.
        SystemExit: The data set is not there, or an option is refused; the command line has said so.
    """
    options = [*sweep.options, *more]
    config = shown_config(KINDS[sweep.task], ["fit", "--config", str(sweep.config), *options])
    trainer = config["trainer"]
    steps, epochs = trainer["max_steps"], trainer["max_epochs"]
    images_a_step = config["model"]["parameter_rules"]["base_batch_size"]
    lengths = [] if steps in (None, -1) or images_a_step is None else [steps * images_a_step]
    if epochs not in (None, -1):
        data = build(sweep.config, options, None).trainer.datamodule
        lengths.append(epochs * len(data.train_dataset()))
    if not lengths:
        raise TaskError(f"{sweep.config} says neither how many epochs nor how many steps a run has")
    return min(lengths)


def describe_cost(
    sweep: Sweep, chosen: Sequence[SweepRun], runs: Path, more: Sequence[str], given: Mapping[str, float]
) -> str:
    """A table of runs: how each stands, the rate that was measured, and the GPU hours of the whole run.

    Args:
        sweep: The sweep.
        chosen: Its runs that are wanted.
        runs: Folder of all runs.
        more: Further options of all runs.
        given: Images a second and GPU by setting, which win over those of finished runs.
    """
    rates = {**measured_rates(sweep, runs), **given}
    variants = {run.setting.options for run in chosen if run.setting.label in rates}
    images = {options: images_of_a_run(sweep, [*options, *more]) for options in variants}
    lines, left, unknown = [], 0.0, 0
    for run in chosen:
        record = read_record(runs / sweep.task / run.name)
        state = "new" if record is None else record.status
        rate = rates.get(run.setting.label)
        hours = None if rate is None else images[run.setting.options] / rate / 3600
        if state != "finished":
            left, unknown = left + (hours or 0.0), unknown + (hours is None)
        cost = UNKNOWN if hours is None else f"{rate:.4g} images/s and GPU, {hours:.3g} GPU hours"
        lines.append(f"{run.label:{max(len(each.label) for each in chosen)}}  {state:8}  {cost}")
    seen = sorted(set(images.values()))
    lines.append(f"{len(chosen)} runs" + (f" of {' or '.join(f'{count:,}' for count in seen)} images" if seen else ""))
    if unknown < len(chosen):
        lines[-1] += f"; what is not finished: {left:.3g} GPU hours"
    if unknown:
        hint = "--images-per-second NUMBER, or a run of each setting that has been scored once, would tell"
        lines[-1] += f"; {unknown} runs {UNKNOWN}: {hint}"
    return "\n".join(lines)
