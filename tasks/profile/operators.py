"""Attention operators on a map, beside a 3x3 convolution."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import attention
from attention.base import Mixer, Operator, Refine
from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.profile import costs
from tasks.profile.counting import count_macs

REFERENCE = "3x3 convolution"
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Problem:
    """The map that operators are measured on.

    Attributes:
        channels: Channels of input and output.
        rows: Height in cells.
        columns: Width in cells.
        batch: Samples.
        device: `cpu` or `cuda`.
    """

    channels: int
    rows: int
    columns: int
    batch: int
    device: str

    def tensor(self) -> Tensor:
        """A map with random content."""
        return torch.randn(self.batch, self.channels, self.rows, self.columns, device=self.device)


def operator_classes() -> dict[str, type[Operator]]:
    """Operators that `attention` exports, by name."""
    found = {name: getattr(attention, name) for name in sorted(attention.__all__)}
    return {
        name: value
        for name, value in found.items()
        if inspect.isclass(value) and issubclass(value, Operator) and value not in (Operator, Refine, Mixer)
    }


def operator_class(name: str) -> type[nn.Module]:
    """The class of an operator of `attention`, by its name, or any class by its import path, `my_package.MyGate`.

    Raises:
        TaskError: There is none.
    """
    module, _, last = name.rpartition(".")
    if not module:
        known = operator_classes()
        if name not in known:
            near = instead(name, list(known), "python -m tasks attention mixers")
            raise TaskError(f"there is no operator {name!r}, and a class of your own is named as MODULE.CLASS{near}")
        return known[name]
    try:
        found = getattr(import_module(module), last, None)
    except ImportError as error:
        raise TaskError(f"{name}: {error}; run this from the folder in which {module} lies, or install it") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise TaskError(f"{name} is {found!r}, expected a class derived from torch.nn.Module")
    return found


def make(name: str, channels: int) -> nn.Module:
    """An operator with its default options; `heads` is lowered to a divisor of the channels where it is none.

    A class that is no operator of `attention` is made from the channels alone, like a `Refine`.

    Raises:
        TaskError: It cannot be made from channels alone.
        ValueError: Its defaults do not fit the channels.
    """
    if name == REFERENCE:
        return nn.Conv2d(channels, channels, 3, padding=1)
    operator = operator_class(name)
    if issubclass(operator, Operator) and not issubclass(operator, Refine | Mixer):
        raise TaskError("takes more than one map")
    given = [channels, channels] if issubclass(operator, Mixer) else [channels]
    options = list(inspect.signature(operator).parameters.values())[len(given) :]
    needed = [option.name for option in options if option.default is option.empty and option.kind not in _ANY]
    if needed:
        raise TaskError(f"needs {', '.join(needed)}, which has no default")
    construct: Callable[..., nn.Module] = operator
    heads = next((option.default for option in options if option.name == "heads"), None)
    if isinstance(heads, int) and channels % heads:
        return construct(*given, heads=max(number for number in range(1, heads) if channels % number == 0))
    return construct(*given)


def calls(operator: nn.Module, problem: Problem) -> costs.Calls:
    """`forward` and `training` of an operator on its device, each a function without arguments."""
    x = problem.tensor()
    with torch.no_grad():
        direction = torch.randn_like(operator(x))

    def forward() -> Tensor:
        operator.eval()
        with torch.no_grad():
            out: Tensor = operator(x)
        return out

    def training() -> tuple[Tensor, ...]:
        operator.train()
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(operator(leaf), [leaf, *operator.parameters()], direction, allow_unused=True)

    return {"forward": forward, "training": training}


def calls_in_fresh_process(name: str, *sizes: str) -> costs.Calls:
    """The same from strings, after a first pass over a small map that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    channels, rows, columns, batch = map(int, sizes)
    operator = make(name, channels)
    for call in calls(operator, Problem(channels, 8, 8, 2, "cpu")).values():
        call()
    return calls(operator, Problem(channels, rows, columns, batch, "cpu"))


def measure(name: str, problem: Problem, rounds: int) -> costs.Row:
    """Measures one operator.

    Raises:
        ValueError: It cannot be made.
        RuntimeError: It does not run; the last line says why.
    """
    operator = make(name, problem.channels).to(problem.device)
    sizes = map(str, (problem.channels, problem.rows, problem.columns, problem.batch))
    peaks = (
        costs.peaks_in_fresh_process(__name__, "calls_in_fresh_process", name, *sizes)
        if problem.device == "cpu"
        else None
    )
    found = calls(operator, problem)
    parameters = sum(value.numel() for value in operator.parameters())
    return costs.measure_calls(name, parameters, count_macs(found["forward"]), found, peaks, rounds)


def profile(names: Sequence[str], problem: Problem, rounds: int) -> dict[str, Any]:
    """Measures the reference and some operators.

    Returns:
        What `costs.result_of` names, and `channels`.
    """
    found, skipped = [measure(REFERENCE, problem, rounds)], []
    for name in costs.announced(names):
        try:
            found.append(measure(name, problem, rounds))
        except (TaskError, ValueError, RuntimeError, AssertionError) as error:
            skipped.append({"name": name, "reason": costs.last_line(error)})
    size = (problem.rows, problem.columns)
    return costs.result_of(problem.device, size, problem.batch, [asdict(row) for row in found], skipped) | {
        "channels": problem.channels
    }


def format_table(result: dict[str, Any]) -> str:
    """A Markdown table, with ratios to the convolution in brackets, and what was left out."""
    reference = result["rows"][0]
    lines = [["operator", *costs.HEADINGS]]
    for row in result["rows"]:
        cells = [costs.number(row[key]) for key in costs.COUNTED]
        ratios = [f" ({row[key] / reference[key]:.2f})" if reference[key] > 0 else "" for key in costs.COUNTED]
        lines.append([row["name"], *(cell + ratio for cell, ratio in zip(cells, ratios, strict=True))])
    title = (
        f"{result['batch']} x {result['channels']} x {result['size']}, float32, {result['device']}, torch "
        f"{result['torch']}; in brackets: ratio to the {REFERENCE}"
    )
    left_out = costs.notes(result)
    return "\n".join([title, "", *costs.table(lines), *([""] if left_out else []), *left_out])
