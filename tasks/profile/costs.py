"""What is measured of one thing: parameters, multiply-accumulates, times and memory; and tables of them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tasks.errors import TaskError
from tasks.profile.fresh import extra_memories
from tasks.profile.timing import median_milliseconds

COUNTED = ("parameters", "MACs", "forward_ms", "training_ms", "forward_MB", "training_MB")
HEADINGS = ("parameters", "MACs", "forward ms", "fwd+bwd ms", "forward MB", "fwd+bwd MB")

Calls = Mapping[str, Callable[[], object]]
"""`forward` and `training` of something on its device, each a function without arguments."""


@dataclass(frozen=True)
class Row:
    """What one operator or backbone costs.

    Attributes:
        name: Name of the operator or backbone.
        parameters: Number of parameters.
        MACs: Multiply-accumulates of one forward pass of the whole batch; see `tasks.profile.counting.count_macs`.
        forward_ms: Milliseconds of a forward pass without gradients, in evaluation.
        training_ms: Milliseconds of a forward and backward pass in training.
        forward_MB: Peak memory of the forward pass in MB (2**20 bytes), its input not counted.
        training_MB: The same of forward and backward, gradients of input and parameters included.
    """

    name: str
    parameters: int
    MACs: int
    forward_ms: float
    training_ms: float
    forward_MB: float
    training_MB: float


def measure_calls(
    name: str, parameters: int, macs: int, calls: Calls, peaks: Mapping[str, float] | None, rounds: int
) -> Row:
    """Times the calls, on a GPU also their memory.

    Args:
        name: Name of what they belong to.
        parameters: Its parameters.
        macs: Multiply-accumulates of its forward pass.
        calls: Its calls.
        peaks: Peak memory of the calls on a CPU in MB, from `peaks_in_fresh_process`; none on a GPU.
        rounds: Runs of which the median counts.
    """
    device = "cuda" if peaks is None else "cpu"
    if peaks is None:
        peaks = {key: gpu_memory(call) for key, call in calls.items()}
    times = {key: median_milliseconds(call, device, rounds) for key, call in calls.items()}
    return Row(
        name=name,
        parameters=parameters,
        MACs=macs,
        forward_ms=times["forward"],
        training_ms=times["training"],
        forward_MB=peaks["forward"],
        training_MB=peaks["training"],
    )


def peaks_in_fresh_process(module: str, function: str, *arguments: str) -> dict[str, float]:
    """Peak memory of calls in MB; what needs too much memory ends only that process. See `extra_memories`."""
    return {name: memory.peak for name, memory in extra_memories(module, function, *arguments).items()}


def gpu_memory(call: Callable[[], object]) -> float:
    """Most memory that a call adds on the GPU, in MB."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def result_of(
    device: str, size: tuple[int, int], batch: int, rows: Sequence[Any], skipped: Sequence[Any]
) -> dict[str, Any]:
    """What every command prints as JSON: device, size, batch, torch, `rows`, and `skipped` with name and reason."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread",
        "size": f"{size[0]}x{size[1]}",
        "batch": batch,
        "torch": torch.__version__,
        "rows": list(rows),
        "skipped": list(skipped),
    }


def prepare(device: str, threads: int = 1) -> None:
    """So many threads on the CPU.

    Raises:
        TaskError: There is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TaskError("this PyTorch sees no GPU; leave --device cuda out")
    if device == "cpu":
        torch.set_num_threads(threads)


def announced(names: Sequence[str]) -> Iterator[str]:
    """The names, each said on stderr before its turn: some take a minute, and the table comes at the end."""
    for number, name in enumerate(names, start=1):
        print(f"{number}/{len(names)} {name}", file=sys.stderr)  # noqa: T201
        yield name


def last_line(error: Exception) -> str:
    """The line of a message that says most: an error from another process ends with it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def number(value: float) -> str:
    """A count with separators, a measurement with one decimal."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def table(lines: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, from cells with the headings first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], ["-" * width for width in widths], *lines[1:])
    ]


def notes(result: dict[str, Any]) -> list[str]:
    """One line for everything that was left out."""
    return [f"left out: {each['name']}: {each['reason']}" for each in result["skipped"]]
