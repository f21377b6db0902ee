"""Sliding and block attention on a CUDA GPU beside plain PyTorch, and beside what its memory allows.

    python -m benchmarks.attention_gpu [--only NAME] [--rounds N] [--json] [--save]
    python -m benchmarks.attention_gpu --dry

Every variant computes the same, which is checked before it is timed. The floor is the time in which the GPU copies as
many bytes as the operator's inputs and output have (forward), or these and all gradients (backward). `--save` writes
`docs/results/attention_gpu.json`. `--dry` runs everything on tiny maps on a CPU, where the numbers mean nothing.
"""

import json
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor

from attention import HaloAttention
from attention.functional.neighbourhood import neighbourhood_products, neighbourhood_sum, shifts
from benchmarks.measure import ROOT, Goal, finish, parse_options, ratio_goal

RESULTS = ROOT / "docs" / "results" / "attention_gpu.json"
KERNEL = 7
CALLS = 10
"""Calls that are timed together."""
FORWARD_FLOORS, BACKWARD_FLOORS = 2, 3
"""Goals of ELSA's sum, in multiples of the floor."""
PRECISIONS = {
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "autocast": (torch.float32, torch.bfloat16),  # softmax leaves weights in float32
    "float32": (torch.float32, torch.float32),
}
"""Dtypes of weights, and of everything else."""
TOLERANCES = {torch.bfloat16: 0.05, torch.float32: 1e-4}

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Core:
    """Variants of one computation and its inputs.

    Attributes:
        name: What is computed, and at which size.
        variants: Functions of the inputs by name; the first is ours.
        inputs: Tensors that require gradients.
        limited: Whether the bytes of inputs and output bound its time, so that the floor is of interest.
        goals: Whether it has to come near the floor.
    """

    name: str
    variants: Mapping[str, Function]
    inputs: tuple[Tensor, ...]
    limited: bool = True
    goals: bool = False


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention to the neighbourhood of every position, the core of stand-alone self-attention."""
    logits = neighbourhood_products(queries, keys, KERNEL)
    return neighbourhood_sum(logits.softmax(-1), values)


def attend_by_shifts(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    logits = shifts.inner_products(queries, keys, KERNEL, 1, 1)
    return shifts.weighted_sum(logits.softmax(-1), values, 1, 1)


def sum_by_shifts(weights: Tensor, values: Tensor) -> Tensor:
    """`neighbourhood_sum` in plain PyTorch."""
    return shifts.weighted_sum(weights.to(values.dtype), values, 1, 1)


def cores(device: torch.device, dry: bool) -> Iterator[Core]:
    """Everything that is measured: maps of Swin-T's first stages for an image of 800 x 1344, two images."""
    compiled: Any = torch.compile(backend="eager") if dry else torch.compile
    divisor = 40 if dry else 1

    def random(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype).requires_grad_()

    for precision, (of_weights, dtype) in PRECISIONS.items():
        height, width = 200 // divisor, 336 // divisor
        yield Core(
            f"ELSA sum, 2 x 96 x {height} x {width}, 3 heads, k = {KERNEL}, {precision}",
            {"ours": neighbourhood_sum, "shifts": sum_by_shifts, "compiled shifts": compiled(sum_by_shifts)},
            (
                random(2, height, width, 3, KERNEL**2, dtype=of_weights),
                random(2, height, width, 3, 32, dtype=dtype),
            ),
            goals=not dry,
        )
        if precision == "autocast":
            continue
        height, width = 100 // (divisor // 2 or 1), 168 // (divisor // 2 or 1)
        yield Core(
            f"local attention, 2 x 256 x {height} x {width}, 8 heads, k = {KERNEL}, {precision}",
            {"ours": attend, "shifts": attend_by_shifts, "compiled shifts": compiled(attend_by_shifts)},
            tuple(0.3 * random(2, height, width, 8, 32, dtype=dtype).detach() for _ in range(3)),
        )
        height, width = (8, 16) if dry else (104, 168)
        ours = HaloAttention(256, 256, layout="timm").to(device, dtype)
        timm: Any = HaloAttn(256, num_heads=8, block_size=8, halo_size=3).to(device, dtype)
        timm.load_state_dict(ours.state_dict())
        yield Core(
            f"halo attention, 2 x 256 x {height} x {width}, 8 heads, block 8, halo 3, {precision}",
            {"ours": ours, "timm": timm, "compiled timm": compiled(timm)},
            (random(2, 256, height, width, dtype=dtype),),
            limited=False,
        )


def passes(function: Function, inputs: tuple[Tensor, ...]) -> dict[str, Callable[[], object]]:
    """Forward without gradients, backward alone, and both."""
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    direction = torch.randn_like(function(*inputs))
    kept: list[Tensor] = []  # made at the first backward, not while another variant is timed

    def forward() -> object:
        with torch.no_grad():
            return function(*inputs)

    def backward() -> object:
        if not kept:
            kept.append(function(*inputs))
        return torch.autograd.grad(kept[0], inputs, direction, retain_graph=True)

    def training() -> object:
        return torch.autograd.grad(function(*inputs), inputs, direction)

    return {"forward": forward, "backward": backward, "forward and backward": training}


def check(core: Core) -> None:
    """Raises `AssertionError` where a variant's output or gradients differ from ours.

    Gradients sum more terms than the output and are compared to the scale of the largest.
    """
    found = []
    for function in core.variants.values():
        out = function(*core.inputs)
        inputs = [tensor.detach().requires_grad_() for tensor in core.inputs]
        torch.manual_seed(1)
        gradients = torch.autograd.grad(function(*inputs), inputs, torch.randn_like(out))
        found.append([out.detach(), *gradients])
    tolerance = TOLERANCES[core.inputs[-1].dtype]
    for (name, _), results in zip(core.variants.items(), found, strict=True):
        for result, ours in zip(results, found[0], strict=True):
            scale = float(ours.abs().max().clamp(min=1))
            torch.testing.assert_close(
                result, ours, rtol=tolerance, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
            )


class Stopwatch:
    """Seconds that a device works for a call, without what Python and the launches take.

    On a GPU the calls are queued behind a matrix product that takes longer than queueing them, so that nothing waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.filler = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)

    def __call__(self, call: Callable[[], object], calls: int) -> float:
        """Seconds per call."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        for _ in range(12):
            torch.matmul(self.filler, self.filler)  # about 2 ms each on an H100
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / calls


def bandwidth(stopwatch: Stopwatch, device: torch.device, dry: bool) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.ones(2**20 if dry else 2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(stopwatch(lambda: target.copy_(source), CALLS) for _ in range(5))


def traffic(core: Core) -> dict[str, int]:
    """Bytes that each pass has to read and write at least."""

    def size(*tensors: Tensor) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    with torch.no_grad():
        out = next(iter(core.variants.values()))(*core.inputs)
    forward = size(*core.inputs, out)
    backward = size(out, *core.inputs, *core.inputs)  # the output's gradient and the inputs, then their gradients
    return {"forward": forward, "backward": backward, "forward and backward": forward + backward}


def measure(core: Core, stopwatch: Stopwatch, speed: float, rounds: int, calls: int) -> Iterator[Goal]:
    """Goals of one core: ours beside the floor and beside every other variant, pass by pass."""
    check(core)
    of_variants = {name: passes(function, core.inputs) for name, function in core.variants.items()}
    floors = {name: count / speed for name, count in traffic(core).items()}
    bounds = {"forward": FORWARD_FLOORS, "backward": BACKWARD_FLOORS} if core.goals else {}
    for name, floor in floors.items():
        seconds: dict[str, list[float]] = {variant: [] for variant in of_variants}
        for counted in range(-1, rounds):
            for variant, calls_of in of_variants.items():
                spent = stopwatch(calls_of[name], calls)
                if counted >= 0:
                    seconds[variant].append(spent)
        ours = seconds.pop("ours")
        yield Goal(f"{core.name}: {name}", 1e6 * statistics.median(ours), None, "us", at_least=False)
        if core.limited:
            yield ratio_goal(f"{core.name}: {name}, time / floor", ours, [floor] * rounds, bounds.get(name), False)
        for variant, others in seconds.items():
            yield ratio_goal(f"{core.name}: {name}, {variant} / ours", others, ours, None)


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--dry", action="store_true", help="run everything on tiny maps on a CPU, without goals")
    parser.add_argument("--only", default="", metavar="NAME", help="measure only what has this in its name")
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each variant")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")


def main() -> None:
    """Command line."""
    options = parse_options((__doc__ or "").splitlines()[0], _configure)
    if options.dry and options.save:
        sys.exit("attention_gpu: --save keeps measurements of a GPU; leave --dry away")
    if not options.dry and not torch.cuda.is_available():
        sys.exit("attention_gpu: no CUDA device here; --dry runs the same code on tiny maps on a CPU")
    device = torch.device("cpu" if options.dry else "cuda")
    torch.backends.cudnn.allow_tf32 = False  # or projections of the same numbers would differ in the fourth digit
    torch.manual_seed(0)
    stopwatch = Stopwatch(device)
    speed = bandwidth(stopwatch, device, options.dry)
    goals = [Goal("bandwidth of a copy", speed / 1e9, None, "GB/s")]
    for core in cores(device, options.dry):
        if options.only in core.name:
            goals += measure(core, stopwatch, speed, 1 if options.dry else options.rounds, 1 if options.dry else CALLS)
    if options.save:
        facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
        results = [asdict(goal) | {"reached": goal.reached} for goal in goals]
        RESULTS.write_text(json.dumps(facts | {"goals": results}, indent=2) + "\n")
    finish(goals, options.json)


if __name__ == "__main__":
    main()
