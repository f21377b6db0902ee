"""Backbones beside the nearest networks of torchvision and timm, and ELSA beside its formulation with `unfold`.

    python -m benchmarks.backbones [--only NAME] [--size 512] [--batch 2] [--rounds N] [--json]

Forward and backward pass in training mode, float32, CPU time of one thread, in turn in one process; peak memory in
processes of their own. Where a peer is the same network, outputs under the same weights must agree first; features are
averaged and squared where the peer has no more than a last map.
"""

import copy
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

import backbones
from attention import elsa
from benchmarks.measure import Goal, finish, parse_options, peak_memory, ratio_goal, time_in_turn

TOLERANCE = 1e-4
"""Largest relative difference between ELSA and its formulation with `unfold`, in float32."""


WARM_UP = 256
"""Side of a first image in pixels; the smallest that timm's halo networks take."""


@dataclass(frozen=True)
class Comparison:
    """One of our networks and its nearest peer.

    Attributes:
        name: Name of our network, one of `backbones.list_backbones()`.
        peer: What it is compared with.
        make_peer: Makes the peer's part without classifier, from our network.
        bound: Largest allowed share of the peer's time.
        memory_bound: The same of memory; none where it is only reported.
        equal: Whether both are the same function of the same weights.
    """

    name: str
    peer: str
    make_peer: Callable[[nn.Module], nn.Module]
    bound: float
    memory_bound: float | None = None
    equal: bool = False

    def __str__(self) -> str:
        """Both names."""
        return f"{self.name} / {self.peer}"


class LastMap(nn.Module):
    """A network of torchvision's up to its last feature map."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map in a list, as backbones give theirs."""
        return [self.parts(x)]


class Unfolded(elsa.ELSA):
    """ELSA as its equation reads: all k^2 neighbours of every position are laid out, then weighted and summed."""

    def _mix(self, weights: Tensor, value: Tensor) -> Tensor:
        size, stride, reach = self.kernel_size, self.stride, self.dilation * (self.kernel_size // 2)
        batch, channels = value.shape[:2]
        rows, columns = weights.shape[1:3]
        neighbours = F.unfold(value, size, self.dilation, reach, stride)  # (B, C k k, H' W')
        neighbours = neighbours.view(batch, self.heads, channels // self.heads, size**2, rows * columns)
        mul, add = self._ghost_kernels()
        weight = weights.permute(0, 3, 4, 1, 2).flatten(3).unsqueeze(2)  # (B, heads, 1, k k, H' W')
        if mul is not None:
            weight = weight * mul.view(1, self.heads, -1, size**2, 1)
        if add is not None:
            weight = weight + add.view(1, self.heads, -1, size**2, 1)
        return (weight * neighbours).sum(3).view(batch, channels, rows, columns).permute(0, 2, 3, 1)


def unfolded(network: nn.Module) -> nn.Module:
    """A copy of an ELSA network, with the same weights and the neighbours laid out."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, elsa.ELSA):
            module.__class__ = Unfolded
    return network


def of_timm(name: str) -> Callable[[nn.Module], nn.Module]:
    """A network of timm's without classifier: `forward` gives a list of its maps."""

    def make(_ours: nn.Module) -> nn.Module:
        size = {"img_size": None} if name.startswith("swin") else {}
        network: nn.Module = timm.create_model(name, features_only=True, **size)
        return network

    return make


def of_torchvision(name: str) -> Callable[[nn.Module], nn.Module]:
    """A network of torchvision's up to its last map."""

    def make(_ours: nn.Module) -> nn.Module:
        network = models.get_model(name, weights=None)
        if name.startswith("resnet"):
            return LastMap(*list(network.children())[:-2])
        if name.startswith("mobilenet"):
            return LastMap(*network.features[:-1])  # ours has no last convolution in dense prediction either
        return LastMap(network.features, network.norm, network.permute)

    return make


COMPARISONS = [
    Comparison("resnet50", "torchvision resnet50", of_torchvision("resnet50"), 1.05),
    Comparison("mobilenet_v2", "torchvision mobilenet_v2", of_torchvision("mobilenet_v2"), 1.05),
    Comparison("se_resnet50", "timm seresnet50", of_timm("seresnet50"), 1.05),
    Comparison("sknet50", "timm skresnext50_32x4d", of_timm("skresnext50_32x4d"), 1.05),
    Comparison("halonet50ts", "timm halonet50ts", of_timm("halonet50ts"), 1.05),
    Comparison("swin_t", "torchvision swin_t", of_torchvision("swin_t"), 1.05),
    Comparison("elsa_swin_t", "its formulation with unfold", unfolded, 1 / 2.5, 1 / 6, equal=True),
    Comparison("elsa_swin_t", "torchvision swin_t", of_torchvision("swin_t"), 1.1),
]


def training(network: nn.Module, size: int, batch: int) -> Callable[[], object]:
    """Forward and backward pass of a network on noise, as a function without arguments."""
    image = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    parameters = list(network.parameters())
    network.train()

    def call() -> tuple[Tensor, ...]:
        loss = torch.stack([feature.square().mean() for feature in network(image)]).sum()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    return call


def sides(comparison: Comparison) -> dict[str, nn.Module]:
    """`ours` and `peer`."""
    torch.manual_seed(0)
    ours = backbones.build_backbone(comparison.name)
    return {"ours": ours, "peer": comparison.make_peer(ours)}


def side_in_fresh_process(text: str, side: str, size: str, batch: str) -> Callable[[], object]:
    """The call of one side, after a pass over a small image: what PyTorch loads late belongs to nobody."""
    torch.set_num_threads(1)
    network = sides(next(each for each in COMPARISONS if str(each) == text))[side]
    training(network, WARM_UP, 2)()  # two images, as some normalisations have one value per channel and image
    return training(network, int(size), int(batch))


def largest_difference(found: dict[str, nn.Module]) -> float:
    """Largest difference of the features of both sides, relative where values are above one."""
    image = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (network.eval()(image) for network in found.values())
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in zip(one, other, strict=True))


def compare(comparison: Comparison, size: int, batch: int, rounds: int) -> Iterator[Goal]:
    """Measures one comparison: equality, time, memory."""
    found = sides(comparison)
    if comparison.equal:
        difference = largest_difference(found)
        yield Goal(f"{comparison}: largest difference", difference, TOLERANCE, unit="", at_least=False)
        if not difference <= TOLERANCE:  # also where it is not a number
            return
    calls = {side: training(network, size, batch) for side, network in found.items()}
    seconds = time_in_turn(calls, rounds)
    times = " / ".join(f"{1000 * statistics.median(seconds[side]):.0f}" for side in ("ours", "peer"))
    yield ratio_goal(
        f"{comparison}: time ({times} ms)", seconds["ours"], seconds["peer"], comparison.bound, at_least=False
    )
    function, sizes = side_in_fresh_process.__name__, (str(size), str(batch))
    ours, peer = (
        peak_memory("benchmarks.backbones", function, str(comparison), side, *sizes) for side in ("ours", "peer")
    )
    name = f"{comparison}: memory ({ours:.0f} / {peer:.0f} MB)"
    yield Goal(name, ours / peer, comparison.memory_bound, at_least=False)


def main() -> None:
    """Runs the command line."""

    def configure(parser: ArgumentParser) -> None:
        parser.add_argument("--only", metavar="NAME", help="only comparisons with this in their name")
        parser.add_argument("--size", type=int, default=512, help="side of the images in pixels (512)")
        parser.add_argument("--batch", type=int, default=2, help="images (2)")
        parser.add_argument("--rounds", type=int, default=5, help="counted runs (5)")

    options = parse_options((__doc__ or "").splitlines()[0], configure)
    torch.set_num_threads(1)
    chosen = [each for each in COMPARISONS if options.only is None or options.only.lower() in str(each).lower()]
    if not chosen:
        raise SystemExit(f"error: nothing has {options.only!r} in its name")
    finish((g for each in chosen for g in compare(each, options.size, options.batch, options.rounds)), options.json)


if __name__ == "__main__":
    main()
