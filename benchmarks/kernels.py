"""Kernels of our own against plain PyTorch, in the networks that use them: the rule of docs/architecture.md.

    python -m benchmarks.kernels [--only NAME] [--rounds N] [--json]

A training step (forward and backward pass, float32) of a network of the zoo with the kernel and with the plain form of
the same function, of which features must agree first; interleaved, CPU time of one thread, ratio of medians with the
least and the largest ratio of a round; peak memory in processes of their own. A kernel stays where one network is at
least `FASTER` as fast or `SMALLER` as small with it.
"""

import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attention
import backbones
from attention.functional.neighbourhood import modulated
from attention.functional.neighbourhood import operators as neighbourhood
from attention.functional.relative import operators as relative
from backbones.gelu_linear import _GeluLinear
from benchmarks.attention_cases.quadratic import literal_content, literal_learned, literal_quadratic
from benchmarks.backbones import training
from benchmarks.measure import Goal, finish, keep_freed_memory, parse_options, peak_memory, ratio_goal, time_in_turn

FASTER, SMALLER = 1.05, 1.1
TOLERANCE = 1e-3
"""Largest difference of features, relative where values are above one."""
BATCH = 2
"""Images of a step."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of our own and where it works.

    Attributes:
        name: What it is.
        plain: Context in which networks compute the same in plain PyTorch.
        networks: Networks of `backbones.list_backbones()` that use it.
        size: Side of the images in pixels.
    """

    name: str
    plain: Callable[[], AbstractContextManager[Any]]
    networks: tuple[str, ...]
    size: int = 160


def stepping_back(*modules: ModuleType) -> AbstractContextManager[Any]:
    """Tells modules that only a plain expression will do."""
    stack = ExitStack()
    for module in modules:
        for question in {"is_plain", "in_standard_operators"} & vars(module).keys():
            stack.enter_context(patch.object(module, question, lambda: True))
    return stack


def literally(operator: type[nn.Module], forward: Callable[..., Tensor]) -> AbstractContextManager[Any]:
    """Gives an operator another forward pass."""
    return patch.object(operator, "forward", lambda module, x: forward(module, x))


def plain_gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`gelu_linear` with the activation kept."""
    return F.linear(F.gelu(x), weight, bias)


KERNELS = [
    Kernel(
        "neighbourhoods as matrix products",
        partial(stepping_back, neighbourhood),
        ("sasa_resnet26", "elsa_swin_t"),
    ),
    Kernel("modulated sums by rows", partial(stepping_back, modulated), ("elsa_volo_d1",)),
    Kernel(
        "relative attention in chunks",
        partial(stepping_back, relative),
        ("aa_resnet50",),
        640,  # whose 1600 positions are beyond `plain.STORED_WEIGHTS`
    ),
    Kernel(
        "Gaussians by rows and columns",
        partial(literally, attention.QuadraticSelfAttention, literal_quadratic),
        ("attention_cnn_quadratic",),
        32,
    ),
    Kernel(
        "learned offsets by rows and columns",
        partial(literally, attention.LearnedRelativeSelfAttention, literal_learned),
        ("attention_cnn_learned",),
        32,
    ),
    Kernel(
        "content and offsets in one product",
        partial(literally, attention.ContentRelativeSelfAttention, literal_content),
        ("attention_cnn_content",),
        76,  # whose 1444 positions are beyond `plain.STORED_WEIGHTS`
    ),
    Kernel(
        "GELU computed again",
        partial(patch.object, _GeluLinear, "apply", plain_gelu_linear),
        ("swin_t",),
    ),
]


def step(kernel: Kernel, network: nn.Module, side: str, size: int) -> Callable[[], object]:
    """A training step of a network, with the kernel or with its `plain` form."""
    ours = training(network, size, BATCH)

    def plain() -> object:
        with kernel.plain():
            return ours()

    return plain if side == "plain" else ours


def largest_difference(kernel: Kernel, network: nn.Module) -> float:
    """Largest difference of the features with and without the kernel."""
    image = torch.randn(BATCH, 3, kernel.size, kernel.size, generator=torch.Generator().manual_seed(0))
    network.eval()
    with torch.enable_grad():  # some forms are taken only where somebody learns
        ours = network(image)
        with kernel.plain():
            plain = network(image)
    pairs = [(one.detach(), other.detach()) for one, other in zip(ours, plain, strict=True)]
    return max(float(((one - other).abs() / other.abs().clamp(min=1)).max()) for one, other in pairs)


def side_in_fresh_process(kernel_name: str, name: str, side: str) -> Callable[[], object]:
    """One side's step, after one of a small image: what PyTorch loads late belongs to nobody."""
    torch.set_num_threads(1)
    kernel = next(each for each in KERNELS if each.name == kernel_name)
    network = backbones.build_backbone(name)
    step(kernel, network, side, min(kernel.size, 64))()
    return step(kernel, network, side, kernel.size)


def compare(kernel: Kernel, rounds: int) -> Iterator[Goal]:
    """Measures one kernel in all its networks, and ends with the verdict."""
    best = 0.0
    for name in kernel.networks:
        torch.manual_seed(0)
        network = backbones.build_backbone(name)
        title = f"{kernel.name}, {name} at {kernel.size} x {kernel.size}"
        difference = largest_difference(kernel, network)
        yield Goal(f"{title}: largest difference", difference, TOLERANCE, unit="", at_least=False)
        calls = {side: step(kernel, network, side, kernel.size) for side in ("plain", "ours")}
        seconds = time_in_turn(calls, rounds)
        times = " / ".join(f"{1000 * statistics.median(values):.0f}" for values in seconds.values())
        time = ratio_goal(f"{title}: time, plain / ours ({times} ms)", seconds["plain"], seconds["ours"], None)
        plain, ours = (
            peak_memory("benchmarks.kernels", side_in_fresh_process.__name__, kernel.name, name, side)
            for side in ("plain", "ours")
        )
        yield time
        yield Goal(f"{title}: memory, plain / ours ({plain:.0f} / {ours:.0f} MB)", plain / ours, None)
        best = max(best, time.value / FASTER, plain / ours / SMALLER)
    yield Goal(f"{kernel.name}: time / {FASTER} or memory / {SMALLER} where it counts most", best, 1.0)


def main() -> None:
    """Runs the command line."""

    def configure(parser: ArgumentParser) -> None:
        parser.add_argument("--only", metavar="NAME", help="only kernels or networks with this in their name")
        parser.add_argument("--rounds", type=int, default=5, help="counted runs (5)")

    options = parse_options((__doc__ or "").splitlines()[0], configure)
    keep_freed_memory()
    torch.set_num_threads(1)
    wanted = (options.only or "").lower()
    chosen = [each for each in KERNELS if wanted in f"{each.name} {each.networks}".lower()]
    if not chosen:
        raise SystemExit(f"error: nothing has {options.only!r} in its name")
    finish((goal for each in chosen for goal in compare(each, options.rounds)), options.json)


if __name__ == "__main__":
    main()
