"""Attention operators beside other implementations of the same equation, and their cost against the resolution.

    python -m benchmarks.attention [--only NAME] [--rounds N] [--json]
    python -m benchmarks.attention --resolution [--only NAME]

Every file of `benchmarks/attention_cases` lists comparisons. Outputs and gradients must agree before anything is timed:
in turn in one process, CPU time of one thread; peak memory in processes of their own. `--resolution` writes
`docs/results/attention_resolution.json` and `.svg`.
"""

import json
import math
import pkgutil
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import attention_cases
from benchmarks.attention_cases import LINEAR, Call, Comparison
from benchmarks.measure import ROOT, Goal, finish, keep_freed_memory, parse_options, ratio_goal, time_in_turn
from tasks.errors import TaskError
from tasks.profile.fresh import Memory, extra_memories
from tasks.profile.operators import Problem, calls, make, operator_classes

RESULTS = ROOT / "docs" / "results"
SIZES = ((48, 64), (68, 92), (96, 128), (136, 184))
"""Maps of about 3, 6, 12 and 25 thousand positions: the smallest fills the caches already."""
CHANNELS, BATCH = 64, 2
LARGEST_EXPONENT = 1.15
"""Of the operators in `LINEAR`: time ~ positions ** exponent."""
SHORTEST = 0.1
"""Seconds of a timed run; shorter calls are repeated."""
PATIENCE = 3.0
"""Seconds of a training pass after which larger maps are left out."""


def comparisons() -> list[Comparison]:
    """All comparisons of all files.

    Raises:
        ValueError: Two have the same name.
    """
    found: list[Comparison] = []
    for module in pkgutil.iter_modules(attention_cases.__path__):
        found += import_module(f"{attention_cases.__name__}.{module.name}").COMPARISONS
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError(f"comparisons need unique names; there are {sorted(names)}")
    return found


def prepared(comparison: Comparison, last: bool) -> tuple[Call, Call, list[Tensor]]:
    """Both sides and their inputs, in channels_last where asked."""
    ours, peer, inputs = comparison.prepare()
    if last:
        for side in (ours, peer):
            if isinstance(side, nn.Module):
                side.to(memory_format=torch.channels_last)
        inputs = [
            value.detach().contiguous(memory_format=torch.channels_last).requires_grad_(value.requires_grad)
            if value.ndim == 4
            else value
            for value in inputs
        ]
    return ours, peer, inputs


def sides(comparison: Comparison, last: bool) -> dict[str, dict[str, Callable[[], object]]]:
    """`forward` and `training` of `ours` and `peer`, each a function without arguments."""
    ours, peer, inputs = prepared(comparison, last)
    with torch.no_grad():
        direction = torch.randn_like(ours(*inputs))
    return {name: _calls(side, inputs, direction) for name, side in (("ours", ours), ("peer", peer))}


def _calls(side: Call, inputs: list[Tensor], direction: Tensor) -> dict[str, Callable[[], object]]:
    parameters = list(side.parameters()) if isinstance(side, nn.Module) else []
    leaves = [value for value in (*inputs, *parameters) if value.requires_grad]

    def forward() -> Tensor:
        with torch.no_grad():
            return side(*inputs)

    def training() -> tuple[Tensor, ...]:
        return torch.autograd.grad(side(*inputs), leaves, direction, allow_unused=True)

    return {"forward": forward, **({"training": training} if leaves else {})}


def side_in_fresh_process(name: str, side: str, last: str) -> dict[str, Callable[[], object]]:
    """The calls of one side, run once before: what PyTorch loads late belongs to nobody."""
    torch.set_num_threads(1)
    comparison = next(each for each in comparisons() if each.name == name)
    found = sides(comparison, last == "True")[side]
    for call in found.values():
        call()
    return found


def largest_difference(comparison: Comparison, last: bool) -> float:
    """Largest difference of outputs and input gradients, relative where values are above one."""
    ours, peer, inputs = prepared(comparison, last)
    leaves = [value for value in inputs if value.requires_grad]
    outs = [ours(*inputs), peer(*inputs)]
    direction = torch.randn(outs[0].shape, generator=torch.Generator().manual_seed(0))
    pairs = [(outs[0].detach(), outs[1].detach())]
    if leaves:
        pairs += zip(*(torch.autograd.grad(out, leaves, direction) for out in outs), strict=True)
    return max(float(((one - other).abs() / other.abs().clamp(min=1)).max()) for one, other in pairs)


def compare(comparison: Comparison, rounds: int, last: bool = False) -> Iterator[Goal]:
    """Measures one comparison: equality, times, memory."""
    name = f"{comparison.name}{', channels_last' if last else ''}"
    difference = largest_difference(comparison, last)
    yield Goal(f"{name}: largest difference", difference, comparison.tolerance, unit="", at_least=False)
    if not difference <= comparison.tolerance:  # also where it is not a number
        return
    found = sides(comparison, last)
    memories = {
        side: extra_memories("benchmarks.attention", side_in_fresh_process.__name__, comparison.name, side, str(last))
        for side in found
    }
    bounds = comparison.bounds
    for kind, time_bound, memory_bound in (
        ("forward", bounds.forward, bounds.forward_memory),
        ("training", bounds.training, bounds.memory),
    ):
        if kind not in found["ours"]:
            continue
        seconds = time_in_turn({side: found[side][kind] for side in found}, rounds, at_least=SHORTEST)
        times = " / ".join(f"{1000 * statistics.median(seconds[side]):.1f}" for side in ("peer", "ours"))
        yield ratio_goal(
            f"{name}: {kind} time, peer / ours ({times} ms)",
            seconds["peer"],
            seconds["ours"],
            None if last else time_bound,
        )
        yield _memory_goal(f"{name}: {kind} memory", memories, kind, None if last else memory_bound)


def _memory_goal(name: str, memories: dict[str, dict[str, Memory]], kind: str, bound: float | None) -> Goal:
    ours, peer = (memories[side][kind].peak for side in ("ours", "peer"))
    value = ours / peer if peer > 0 else math.inf
    return Goal(f"{name}, ours / peer ({ours:.1f} / {peer:.1f} MB)", value, bound, at_least=False)


def compare_all(only: str | None = None, rounds: int = 5) -> list[Goal]:
    """Measures all comparisons.

    Args:
        only: Part of the name of those to measure, in any case.
        rounds: Counted runs of each side.
    """
    torch.set_num_threads(1)
    return [
        goal
        for comparison in comparisons()
        if only is None or only.lower() in comparison.name.lower()
        for last in ((False, True) if comparison.channels_last else (False,))
        for goal in compare(comparison, rounds, last)
    ]


def sized_calls(name: str, *sizes: str) -> dict[str, Callable[[], object]]:
    """`forward` and `training` of one operator at every size, as `48x64 forward`; run once before."""
    torch.set_num_threads(1)
    operator = make(name, CHANNELS)
    found: dict[str, Callable[[], object]] = {}
    for size in sizes:
        rows, columns = map(int, size.split("x"))
        for kind, call in calls(operator, Problem(CHANNELS, rows, columns, BATCH, "cpu")).items():
            found[f"{size} {kind}"] = call
    for kind in ("forward", "training"):
        found[f"{sizes[0]} {kind}"]()
    return found


def exponent(values: Sequence[float]) -> float | None:
    """Slope of log(value) over log(positions), by least squares over the first of `SIZES`; none for a single value."""
    if len(values) < 2:
        return None
    x = [math.log(rows * columns) for rows, columns in SIZES[: len(values)]]
    y = [math.log(max(value, 1e-9)) for value in values]
    return statistics.linear_regression(x, y).slope


def affordable(variants: dict[str, Callable[[], object]], sizes: Sequence[str]) -> list[str]:
    """The sizes up to the first at which training takes more than `PATIENCE` seconds."""
    found = []
    for size in sizes:
        found.append(size)
        begin = time.process_time()
        variants[f"{size} training"]()
        if time.process_time() - begin > PATIENCE:
            break
    return found


def resolution(only: str | None, rounds: int) -> list[dict[str, Any]]:
    """Time and peak memory of every operator at up to four sizes.

    Returns:
        One dictionary per operator: name; `forward_ms`, `training_ms`, `forward_MB`, `training_MB` per size, times
        being the fastest of the rounds; the exponents of the two times.
    """
    torch.set_num_threads(1)
    found = []
    for name in operator_classes():
        if only is not None and only.lower() not in name.lower():
            continue
        sizes = [f"{rows}x{columns}" for rows, columns in SIZES]
        try:
            variants = sized_calls(name, *sizes)
        except TaskError:
            continue  # cannot be made from channels alone
        sizes = affordable(variants, sizes)
        variants = {key: call for key, call in variants.items() if key.split()[0] in sizes}
        memories = extra_memories("benchmarks.attention", sized_calls.__name__, name, *sizes)
        seconds = time_in_turn(variants, rounds, at_least=SHORTEST)
        row: dict[str, Any] = {"name": name}
        for kind in ("forward", "training"):
            row[f"{kind}_ms"] = [1000 * min(seconds[f"{size} {kind}"]) for size in sizes]
            row[f"{kind}_MB"] = [memories[f"{size} {kind}"].peak for size in sizes]
            row[f"{kind}_exponent"] = exponent(row[f"{kind}_ms"])
        print(f"{name}: {', '.join(sizes)}", file=sys.stderr, flush=True)  # noqa: T201 - it takes a while
        found.append(row)
    return found


def exponent_goals(found: Sequence[dict[str, Any]]) -> list[Goal]:
    """The growth of every operator's time; goals for those that are linear."""
    goals = []
    for row in found:
        bound = LARGEST_EXPONENT if row["name"] in LINEAR else None
        for kind in ("forward", "training"):
            times = ", ".join(f"{value:.1f}" for value in row[f"{kind}_ms"])
            name = f"{row['name']}: {kind} time ({times} ms) grows like positions to the power of"
            if row[f"{kind}_exponent"] is None:
                name, bound = f"{row['name']}: {kind} time ({times} ms) is too long to be fitted, power", None
            goals.append(Goal(name, row[f"{kind}_exponent"] or math.nan, bound, unit="", at_least=False))
    return goals


def write_resolution(found: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes the numbers as JSON, and a picture of those with gradients as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "attention"  # equal numbers give an equal file
    from matplotlib import pyplot

    facts = {"channels": CHANNELS, "batch": BATCH, "sizes": [list(size) for size in SIZES], "torch": torch.__version__}
    (folder / "attention_resolution.json").write_text(
        json.dumps(facts | {"device": "CPU, one thread", "operators": found}, indent=2) + "\n"
    )
    positions = [rows * columns for rows, columns in SIZES]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 6), layout="constrained")
    for axis, key, unit in zip(axes, ("training_ms", "training_MB"), ("ms", "MB"), strict=True):
        for number, row in enumerate(sorted(found, key=lambda row: -row[key][0])):
            style = "-" if row["name"] in LINEAR else "--"
            axis.loglog(
                positions[: len(row[key])], row[key], style, marker="o", color=f"C{number % 10}", label=row["name"]
            )
        axis.set_xlabel("positions H x W")
        axis.set_ylabel(f"forward and backward, {unit}")
        axis.set_xticks(positions, [f"{rows}x{columns}" for rows, columns in SIZES])
        axis.minorticks_off()
        axis.legend(fontsize="small", title="dashed: not linear")
    figure.suptitle(f"Attention operators, {BATCH} x {CHANNELS} channels, float32, one CPU thread")
    figure.savefig(folder / "attention_resolution.svg", metadata={"Date": None})


def main() -> None:
    """Runs the command line."""

    def configure(parser: ArgumentParser) -> None:
        parser.add_argument("--only", metavar="NAME", help="only what has this in its name")
        parser.add_argument("--rounds", type=int, default=5, help="counted runs (5)")
        parser.add_argument("--resolution", action="store_true", help="cost of every operator at four sizes instead")

    options = parse_options((__doc__ or "").splitlines()[0], configure)
    keep_freed_memory()
    if not options.resolution:
        goals = compare_all(options.only, options.rounds)
    else:
        found = resolution(options.only, options.rounds)
        goals = exponent_goals(found)
        if options.only is None:
            write_resolution(found, RESULTS)
    if not goals:
        raise SystemExit(f"error: nothing has {options.only!r} in its name")
    finish(goals, options.json)


if __name__ == "__main__":
    main()
