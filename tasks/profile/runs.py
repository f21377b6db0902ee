"""What the networks of runs cost, measured after their training, on a machine that does nothing else.

What runs note of their own steps says little where several have shared a machine. Here each configuration is built once
for all of its seeds, all are timed in turn in one process, so that a drift of the machine hits all alike, and the
memory of each is that of a process of its own. The numbers go into every run folder, as `costs.json`.

Networks have the weights that they begin with and see noise: a detector then finds next to nothing, and what follows
from detections, the suppression of doubles and the drawing of masks, is hardly in the times.
"""

import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.errors import TaskError
from tasks.profile import costs
from tasks.profile.timing import milliseconds, time_in_turn
from tasks.report.defaults import option_of
from tasks.report.runs import CONFIG, COSTS, Run, find_runs
from tasks.run.facts import device_name
from tasks.run.files import write_text
from tasks.run.lock import host_name
from tasks.run.record import now

DECIDING = re.compile(
    r"model\.(?!lr_schedule|optimizer\.|parameter_rules|headline|validation_loss|weights$|backbone\.weights$).*|"
    r"data\.(pipeline|batch_size|masks)\b.*|trainer\.precision"
)
"""Options that decide what a network costs."""
AT_LEAST = 0.2
"""Seconds that a timed run of inference lasts; shorter calls are repeated."""
BUSY = 0.5
"""Load of the machine above which a line warns: this process alone makes it 1, a little later."""
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Setup:
    """How networks are measured.

    Attributes:
        size: Height and width of the images; none takes those of each run.
        batch: Images of a training step; none takes those of a process of each run.
        device: `cpu` or `cuda`.
        threads: Threads of the processor.
        rounds: Counted runs of each.
    """

    size: tuple[int, int] | None = None
    batch: int | None = None
    device: str = "cpu"
    threads: int = 1
    rounds: int = 10


@dataclass(frozen=True)
class Network:
    """A network of one or several runs, which differ in nothing that costs.

    Attributes:
        runs: The runs.
        classes: Number of classes.
        size: Height and width of the images, `160x160`.
        batch: Images of a training step.
        precision: That of the trainer, where it is mixed; else `float32`.
    """

    runs: tuple[Run, ...]
    classes: int
    size: str
    batch: int
    precision: str

    @property
    def name(self) -> str:
        """What it is called."""
        more = len(self.runs) - 1
        return str(self.runs[0].folder) + (f" and {more} more" if more else "")


def networks_of(runs: Sequence[Run], setup: Setup) -> list[Network]:
    """Folds runs whose networks cost the same; those without options, or without a summary, are left out."""
    together: dict[tuple[Any, ...], list[Run]] = {}
    deciding = sorted({name for run in runs for name in run.options if DECIDING.fullmatch(name)})
    for run in runs:
        if run.options and run.summary.get("classes"):
            options = (option_of(run, name) for name in deciding)
            together.setdefault((run.summary["task"], run.summary["classes"], *options), []).append(run)
    return [_network(tuple(same), setup) for same in together.values()]


def _network(runs: tuple[Run, ...], setup: Setup) -> Network:
    summary, options = runs[0].summary, runs[0].options
    precision = options.get("trainer.precision")
    return Network(
        runs,
        int(summary["classes"]),
        str(summary["image_size"]) if setup.size is None else f"{setup.size[0]}x{setup.size[1]}",
        setup.batch or int(options.get("data.batch_size") or 2),
        precision if precision in MIXED else "float32",
    )


def calls(source: str, classes: str, size: str, batch: str, precision: str, device: str) -> costs.Calls:
    """`inference` of one image, and a `training` step, optimiser included, of the network of a run.

    Args:
        source: The run folder.
        classes: Number of classes.
        size: Height and width of the images, `160x160`.
        batch: Images of the training step.
        precision: `float32`, or one of `MIXED`.
        device: `cpu` or `cuda`.
    """
    from tasks.profile.recipes import build, random_batch  # loads both command lines, which others do not need

    task = build(Path(source), [], int(classes))
    model = task.model.to(device)
    height, width = map(int, size.split("x"))
    one, many = (random_batch((height, width), images, device) for images in (1, int(batch)))
    optimizer = task.options.parameter_rules.build(task.options.optimizer, model, int(batch))
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # noise teaches nothing
    mixed = torch.autocast(device, MIXED.get(precision), enabled=precision in MIXED)

    def inference() -> object:
        model.eval()
        with torch.no_grad(), mixed:
            return model(one)

    def training() -> Tensor:
        model.train()
        with mixed:
            loss = torch.stack([value.float().mean() for value in model(many).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return {"inference": inference, "training": training}


def calls_in_fresh_process(*arguments: str) -> costs.Calls:
    """The same, after a look at one image that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    found = calls(*arguments)
    found["inference"]()
    return found


def measure(networks: Sequence[Network], setup: Setup) -> dict[str, Any]:
    """Measures networks in turn.

    Returns:
        `rows`, each with what `costs.json` holds, the name and the run folders; `skipped` with name and reason.
    """
    load = os.getloadavg()[0]
    if load > BUSY:
        line = f"the machine is busy (load {load:.1f}): times will scatter; measure again when nothing else runs"
        print(line, file=sys.stderr)  # noqa: T201
    facts = _facts(setup) | {"load": round(load, 2)}
    own: dict[str, costs.Calls] = {}
    rows, skipped = [], []
    by_name = {network.name: network for network in networks}
    for name in costs.announced([*by_name]):
        network = by_name[name]
        sizes = map(str, (network.classes, network.size, network.batch, network.precision, setup.device))
        arguments = (str(network.runs[0].folder), *sizes)
        try:
            built = calls(*arguments)
            peaks = _peaks(built, arguments, setup.device)
        except (TaskError, ValueError, RuntimeError, SystemExit) as error:
            reason = "its options are refused, see above" if isinstance(error, SystemExit) else costs.last_line(error)
            skipped.append({"name": name, "reason": reason})
            continue
        own[name] = built
        measured = {f"{call}_MB": round(peak, 1) for call, peak in peaks.items()}
        asked = {"image_size": network.size, "batch": network.batch, "precision": network.precision}
        rows.append({"name": name, "runs": [str(run.folder) for run in network.runs], **measured, **asked, **facts})
    for kind, call, at_least in (("latency", "inference", AT_LEAST), ("training_step", "training", 0.0)):
        variants = {name: of_one[call] for name, of_one in own.items()}
        seconds = time_in_turn(variants, setup.rounds, _clock(setup), at_least)
        for row in rows:
            row |= _in_short(f"{kind}_ms", seconds[row["name"]])
    return {"rows": rows, "skipped": skipped}


def _clock(setup: Setup) -> Callable[[], float]:
    """Seconds: of one thread the time of the processor, which nothing else of the machine is in."""
    if setup.threads > 1 and setup.device == "cpu":
        return time.perf_counter
    return lambda: milliseconds(setup.device) / 1000


def _in_short(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some times, in milliseconds."""
    found = {name: statistics.median(seconds), f"{name}_min": min(seconds), f"{name}_max": max(seconds)}
    return {key: round(1000 * value, 3) for key, value in found.items()}


def _peaks(built: costs.Calls, arguments: Sequence[str], device: str) -> dict[str, float]:
    """Memory in MB that each call adds at most to the network's weights: on a GPU, or of a process of its own."""
    if device == "cuda":
        return {name: costs.gpu_memory(call) for name, call in built.items()}
    return costs.peaks_in_fresh_process(__name__, "calls_in_fresh_process", *arguments)


def _facts(setup: Setup) -> dict[str, Any]:
    return {
        "machine": host_name(),
        "device": device_name(torch.device(setup.device)),
        "threads": setup.threads,
        "torch": str(torch.__version__),
        "rounds": setup.rounds,
        "time": now(),
    }


def profile(folders: Sequence[Path], setup: Setup) -> dict[str, Any]:
    """Measures the networks of all runs at or below some folders, and writes what they cost into each.

    Raises:
        TaskError: There is no run, or none whose network can be measured.
    """
    runs = find_runs(folders)
    networks = networks_of(runs, setup)
    result = measure(networks, setup)
    known = {run.folder for network in networks for run in network.runs}
    unknown = [str(run.folder) for run in runs if run.folder not in known]
    result["skipped"] += [{"name": name, "reason": f"it has no {CONFIG}, or no summary"} for name in unknown]
    if not result["rows"]:
        raise TaskError("; ".join(f"{each['name']}: {each['reason']}" for each in result["skipped"]))
    for row in result["rows"]:
        content = {name: value for name, value in row.items() if name not in ("name", "runs")}
        for folder in row["runs"]:
            write_text(Path(folder) / COSTS, json.dumps(content, indent=2) + "\n")
    return result


def format_table(result: Mapping[str, Any]) -> str:
    """A Markdown table of the networks, and what was left out."""
    lines = [["network of", "image", "latency ms", "batch", "training step ms", "inference MB", "training MB"]]
    for row in result["rows"]:
        times = [_shown(row, name) for name in ("latency_ms", "training_step_ms")]
        memory = [costs.number(row[name]) for name in ("inference_MB", "training_MB")]
        lines.append([row["name"], row["image_size"], times[0], str(row["batch"]), times[1], *memory])
    first = result["rows"][0]
    threads = f", {first['threads']} thread{'s' if first['threads'] > 1 else ''}"
    title = (
        f"{first['machine']}, {first['device']}{threads}, torch {first['torch']}; median of {first['rounds']} rounds "
        "in turn (least to most); memory above that of the weights"
    )
    left_out = costs.notes(dict(result))
    return "\n".join([title, "", *costs.table(lines), *([""] if left_out else []), *left_out])


def _shown(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.1f} ({row[f'{name}_min']:.1f} to {row[f'{name}_max']:.1f})"
