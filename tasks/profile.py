"""What parts of a model cost on your machine: attention operators on a map, whole backbones on an image.

python -m tasks.profile attention --size 100x136 --names CBAM,CoordinateAttention
python -m tasks.profile backbones mobilenet_v2_ca elsa_swin_t --size 800x1333
"""

import inspect
import json
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import attention
from attention.base import Mixer, Operator, Refine
from backbones.zoo.registry import build_backbone, list_backbones
from tasks.errors import TaskError
from tasks.macs import count_macs
from tasks.profiling import extra_memories

REFERENCE = "3x3 convolution"
PATIENCE = 10.0
"""Seconds after which a slow call is not repeated."""
COUNTED = ("parameters", "MACs", "forward_ms", "training_ms", "forward_MB", "training_MB")
HEADINGS = ("parameters", "MACs", "forward ms", "fwd+bwd ms", "forward MB", "fwd+bwd MB")


@dataclass(frozen=True)
class Row:
    """What one operator or backbone costs.

    Attributes:
        name: Name of the class.
        parameters: Number of parameters.
        MACs: Multiply-accumulates of one forward pass of the whole batch; see `tasks.macs.count_macs`.
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


def make(name: str, channels: int) -> nn.Module:
    """An operator with its default options; `heads` is lowered to a divisor of the channels where it is none.

    Raises:
        TaskError: It cannot be made from channels alone.
        ValueError: Its defaults do not fit the channels.
    """
    if name == REFERENCE:
        return nn.Conv2d(channels, channels, 3, padding=1)
    operator = operator_classes()[name]
    if not issubclass(operator, Refine | Mixer):
        raise TaskError("takes more than one map")
    given = [channels] if issubclass(operator, Refine) else [channels, channels]
    options = list(inspect.signature(operator).parameters.values())[len(given) :]
    needed = [option.name for option in options if option.default is option.empty]
    if needed:
        raise TaskError(f"needs {', '.join(needed)}, which has no default")
    construct: Callable[..., nn.Module] = operator
    heads = next((option.default for option in options if option.name == "heads"), None)
    if isinstance(heads, int) and channels % heads:
        return construct(*given, heads=max(number for number in range(1, heads) if channels % number == 0))
    return construct(*given)


def calls(operator: nn.Module, problem: Problem) -> dict[str, Callable[[], object]]:
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


def calls_in_fresh_process(name: str, *sizes: str) -> dict[str, Callable[[], object]]:
    """The same from strings, after a first pass over a small map that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    channels, rows, columns, batch = map(int, sizes)
    operator = make(name, channels)
    for call in calls(operator, Problem(channels, 8, 8, 2, "cpu")).values():
        call()
    return calls(operator, Problem(channels, rows, columns, batch, "cpu"))


def measure(name: str, problem: Problem, rounds: int) -> Row:
    """Measures one operator.

    Raises:
        ValueError: It cannot be made.
        RuntimeError: It does not run; the last line says why.
    """
    operator = make(name, problem.channels).to(problem.device)
    if problem.device == "cpu":  # first, and in a process of its own: one that needs too much memory ends only that
        sizes = (problem.channels, problem.rows, problem.columns, problem.batch)
        memories = extra_memories("tasks.profile", "calls_in_fresh_process", name, *map(str, sizes))
        peaks = {key: memory.peak for key, memory in memories.items()}
    found = calls(operator, problem)
    if problem.device == "cuda":
        peaks = {key: _gpu_memory(call) for key, call in found.items()}
    milliseconds = {key: _milliseconds(call, problem.device, rounds) for key, call in found.items()}
    return Row(
        name=name,
        parameters=sum(value.numel() for value in operator.parameters()),
        MACs=count_macs(found["forward"]),
        forward_ms=milliseconds["forward"],
        training_ms=milliseconds["training"],
        forward_MB=peaks["forward"],
        training_MB=peaks["training"],
    )


def _milliseconds(call: Callable[[], object], device: str, rounds: int) -> float:
    """Median time of a call after a warm-up: CPU time of this process, or time on the GPU."""
    call()
    spent: list[float] = []
    begin = time.perf_counter()
    while len(spent) < rounds and (not spent or time.perf_counter() - begin < PATIENCE):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            spent.append(start.elapsed_time(end))
        else:
            seconds = time.process_time()
            call()
            spent.append(1000 * (time.process_time() - seconds))
    return statistics.median(spent)


def _gpu_memory(call: Callable[[], object]) -> float:
    """Most memory that a call adds on the GPU, in MB."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def profile(names: Sequence[str], problem: Problem, rounds: int) -> dict[str, Any]:
    """Measures the reference and some operators.

    Returns:
        device, size, channels, batch, torch; `rows` as dictionaries of `Row`; `skipped` with name and reason.
    """
    rows, skipped = [measure(REFERENCE, problem, rounds)], []
    for name in _announced(names):
        try:
            rows.append(measure(name, problem, rounds))
        except (TaskError, ValueError, RuntimeError, AssertionError) as error:
            skipped.append({"name": name, "reason": _last_line(error)})
    return {
        "device": _device_name(problem.device),
        "size": f"{problem.rows}x{problem.columns}",
        "channels": problem.channels,
        "batch": problem.batch,
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
        "skipped": skipped,
    }


def _announced(names: Sequence[str]) -> Iterator[str]:
    """The names, each said on stderr before its turn: some take a minute, and the table comes at the end."""
    for number, name in enumerate(names, start=1):
        print(f"{number}/{len(names)} {name}", file=sys.stderr)  # noqa: T201
        yield name


def _last_line(error: Exception) -> str:
    """The line of a message that says most: an error from another process ends with it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def backbone_calls(network: nn.Module, rows: int, columns: int, batch: int) -> dict[str, Callable[[], object]]:
    """`forward` and `training` of a backbone on its device, each a function without arguments."""
    device = next(network.parameters()).device
    image = torch.randn(batch, 3, rows, columns, device=device)

    def forward() -> list[Tensor]:
        network.eval()
        with torch.no_grad():
            features: list[Tensor] = network(image)
        return features

    def training() -> tuple[Tensor, ...]:
        network.train()
        features = network(image)
        directions = [torch.ones_like(feature) for feature in features]
        return torch.autograd.grad(features, [*network.parameters()], directions, allow_unused=True)

    return {"forward": forward, "training": training}


def backbone_calls_in_fresh_process(name: str, *sizes: str) -> dict[str, Callable[[], object]]:
    """The same from strings, after a first pass over a small image that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    network = build_backbone(name)
    for call in backbone_calls(network, 64, 64, 2).values():
        call()
    rows, columns, batch = map(int, sizes)
    return backbone_calls(network, rows, columns, batch)


def count_backbone(name: str, rows: int, columns: int, batch: int) -> dict[str, Any]:
    """Name, parameters and multiply-accumulates of a backbone; no number is computed, so every size is quick."""
    with torch.device("meta"):
        network = build_backbone(name).eval()
        image = torch.zeros(batch, 3, rows, columns)
        macs = count_macs(lambda: network(image))
    return {"name": name, "parameters": sum(value.numel() for value in network.parameters()), "MACs": macs}


def measure_backbone(name: str, rows: int, columns: int, batch: int, device: str, rounds: int) -> Row:
    """Measures one backbone of the zoo, without a classifier.

    Raises:
        RuntimeError: It does not run; the last line says why.
    """
    counted = count_backbone(name, rows, columns, batch)
    if device == "cpu":  # first, and in a process of its own: one that needs too much memory ends only that
        sizes = map(str, (rows, columns, batch))
        memories = extra_memories("tasks.profile", "backbone_calls_in_fresh_process", name, *sizes)
        peaks = {key: memory.peak for key, memory in memories.items()}
    found = backbone_calls(build_backbone(name).to(device), rows, columns, batch)
    if device == "cuda":
        peaks = {key: _gpu_memory(call) for key, call in found.items()}
    milliseconds = {key: _milliseconds(call, device, rounds) for key, call in found.items()}
    return Row(
        **counted,
        forward_ms=milliseconds["forward"],
        training_ms=milliseconds["training"],
        forward_MB=peaks["forward"],
        training_MB=peaks["training"],
    )


def format_backbones(result: dict[str, Any]) -> str:
    """A Markdown table of backbones, and what was left out."""
    timed = any("forward_ms" in row for row in result["rows"])
    keys, headings = (COUNTED, HEADINGS) if timed else (COUNTED[:2], HEADINGS[:2])
    lines = [["backbone", *headings]]
    lines += [[row["name"], *(_number(row[key]) for key in keys)] for row in result["rows"]]
    title = f"{result['batch']} x 3 x {result['size']}, without classifier"
    if timed:
        title += f", float32, {result['device']}, torch {result['torch']}"
    notes = [f"left out: {each['name']}: {each['reason']}" for each in result["skipped"]]
    if not timed and not notes:
        notes = ["times and memory: python -m tasks.profile backbones NAME ..."]
    return "\n".join([title, "", *_table(lines), *([""] if notes else []), *notes])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _table(lines: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, from cells with the headings first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], ["-" * width for width in widths], *lines[1:])
    ]


def format_table(result: dict[str, Any]) -> str:
    """A Markdown table, with ratios to the convolution in brackets, and what was left out."""
    reference = result["rows"][0]
    lines = [["operator", *HEADINGS]]
    for row in result["rows"]:
        cells = [_number(row[key]) for key in COUNTED]
        ratios = [f" ({row[key] / reference[key]:.2f})" if reference[key] > 0 else "" for key in COUNTED]
        lines.append([row["name"], *(cell + ratio for cell, ratio in zip(cells, ratios, strict=True))])
    title = (
        f"{result['batch']} x {result['channels']} x {result['size']}, float32, {result['device']}, torch "
        f"{result['torch']}; in brackets: ratio to the {REFERENCE}"
    )
    left_out = [f"left out: {each['name']}: {each['reason']}" for each in result["skipped"]]
    return "\n".join([title, "", *_table(lines), *([""] if left_out else []), *left_out])


def run_attention(options: Namespace) -> None:
    """Runs `python -m tasks.profile attention`."""
    known = operator_classes()
    names = options.names.split(",") if options.names else list(known)
    for name in names:
        if name not in known:
            raise TaskError(f"there is no operator {name!r}; choose from {', '.join(known)}")
    _prepare(options.device)
    rows, columns = options.size
    result = profile(names, Problem(options.channels, rows, columns, options.batch, options.device), options.rounds)
    if options.peers:
        result["peers"] = _peers(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))  # noqa: T201
    else:
        print(format_table(result))  # noqa: T201
        print("".join(f"\n{line}" for line in result.get("peers", [])), end="")  # noqa: T201


def run_backbones(options: Namespace) -> None:
    """Runs `python -m tasks.profile backbones`."""
    names = [name for text in options.names for name in text.split(",") if name]
    for name in names:
        if name not in list_backbones():
            raise TaskError(f"there is no backbone {name!r}; choose from {', '.join(list_backbones())}")
    _prepare(options.device)
    rows, columns = options.size
    found: list[dict[str, Any]] = []
    skipped = []
    for name in _announced(names) if names else list_backbones():
        try:
            if names:
                row = measure_backbone(name, rows, columns, options.batch, options.device, options.rounds)
                found.append(asdict(row))
            else:
                found.append(count_backbone(name, rows, columns, options.batch))
        except (ValueError, RuntimeError, AssertionError) as error:
            skipped.append({"name": name, "reason": _last_line(error)})
    result = {
        "device": _device_name(options.device),
        "size": f"{rows}x{columns}",
        "batch": options.batch,
        "torch": torch.__version__,
        "rows": found,
        "skipped": skipped,
    }
    print(json.dumps(result, indent=2) if options.json else format_backbones(result))  # noqa: T201


def _prepare(device: str) -> None:
    """One thread on the CPU.

    Raises:
        TaskError: There is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TaskError("this PyTorch sees no GPU; leave --device cuda out")
    if device == "cpu":
        torch.set_num_threads(1)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"


def _peers(rounds: int) -> list[str]:
    """One line per comparison with another implementation; those stand in the repository, not in the package."""
    try:
        benchmark = import_module("benchmarks.attention")
    except ModuleNotFoundError as error:
        raise TaskError(
            f"--peers needs the benchmarks of a checkout, from its root, with '.[test]': {error}"
        ) from error
    goals: list[object] = benchmark.compare_all(rounds=rounds)
    return [str(goal) for goal in goals]


def _size(text: str) -> tuple[int, int]:
    """Height and width from a text such as 100x136."""
    rows, separator, columns = text.partition("x")
    if not (separator and rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        raise ValueError(text)
    return int(rows), int(columns)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


_size.__name__, _positive.__name__ = "HEIGHTxWIDTH", "positive integer"  # argparse names them in its errors


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = ArgumentParser(prog="python -m tasks.profile", description="Measures what parts of a model cost.")
    commands = parser.add_subparsers(required=True, metavar="PART")
    part = commands.add_parser(
        "attention",
        help="attention operators on one map, beside a 3x3 convolution",
        description="Parameters, MACs (convolutions and matrix products), time and peak memory of attention operators.",
    )
    part.add_argument("--size", type=_size, default=(50, 68), help="cells of the map, HEIGHTxWIDTH (50x68)")
    part.add_argument("--channels", type=_positive, default=256, help="channels of the map (256)")
    part.add_argument("--batch", type=_positive, default=2, help="samples (2)")
    part.add_argument("--names", help="operators, separated by commas (all)")
    part.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (cpu, one thread)")
    part.add_argument("--rounds", type=_positive, default=5, help="runs of which the median counts (5)")
    part.add_argument("--peers", action="store_true", help="also compare with other implementations, on their sizes")
    part.add_argument("--json", action="store_true", help="print JSON instead of a table")
    part.set_defaults(run=run_attention)
    part = commands.add_parser(
        "backbones",
        help="published networks on images",
        description="Parameters, MACs (convolutions and matrix products), time and peak memory of backbones; without "
        "names, parameters and MACs of all.",
    )
    part.add_argument("names", nargs="*", metavar="NAME", help="networks of backbones.list_backbones()")
    part.add_argument("--size", type=_size, default=(800, 1333), help="pixels of the images, HEIGHTxWIDTH (800x1333)")
    part.add_argument("--batch", type=_positive, default=1, help="images (1)")
    part.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (cpu, one thread)")
    part.add_argument("--rounds", type=_positive, default=3, help="runs of which the median counts (3)")
    part.add_argument("--json", action="store_true", help="print JSON instead of a table")
    part.set_defaults(run=run_backbones)
    options = parser.parse_args(args)
    try:
        options.run(options)
    except TaskError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
