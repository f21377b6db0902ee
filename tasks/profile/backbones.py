"""Published networks on an image, without their classifiers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from backbones.zoo.registry import build_backbone, list_backbones
from tasks.profile import costs
from tasks.profile.counting import count_macs


def calls(network: nn.Module, rows: int, columns: int, batch: int) -> costs.Calls:
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


def calls_in_fresh_process(name: str, *sizes: str) -> costs.Calls:
    """The same from strings, after a first pass over a small image that loads what PyTorch loads late."""
    torch.set_num_threads(1)
    network = build_backbone(name)
    for call in calls(network, 64, 64, 2).values():
        call()
    rows, columns, batch = map(int, sizes)
    return calls(network, rows, columns, batch)


def count(name: str, rows: int, columns: int, batch: int) -> dict[str, Any]:
    """Name, parameters and multiply-accumulates of a backbone; no number is computed, so every size is quick."""
    return {"name": name} | count_network(lambda: build_backbone(name), rows, columns, batch)


def count_network(make: Callable[[], nn.Module], rows: int, columns: int, batch: int) -> dict[str, int]:
    """Parameters and multiply-accumulates of what a function makes."""
    with torch.device("meta"):
        network = make().eval()
        image = torch.zeros(batch, 3, rows, columns)
        macs = count_macs(lambda: network(image))
    return {"parameters": sum(value.numel() for value in network.parameters()), "MACs": macs}


def measure(name: str, size: tuple[int, int], batch: int, device: str, rounds: int) -> costs.Row:
    """Measures one backbone of the zoo, without a classifier.

    Raises:
        RuntimeError: It does not run; the last line says why.
    """
    counted = count(name, *size, batch)
    sizes = map(str, (*size, batch))
    peaks = costs.peaks_in_fresh_process(__name__, "calls_in_fresh_process", name, *sizes) if device == "cpu" else None
    found = calls(build_backbone(name).to(device), *size, batch)
    return costs.measure_calls(name, counted["parameters"], counted["MACs"], found, peaks, rounds)


def profile(names: Sequence[str], size: tuple[int, int], batch: int, device: str, rounds: int) -> dict[str, Any]:
    """Measures some backbones, or counts all of them where no names are given; the result is `costs.result_of`'s."""
    found: list[dict[str, Any]] = []
    skipped = []
    for name in costs.announced(names) if names else list_backbones():
        try:
            if names:
                found.append(asdict(measure(name, size, batch, device, rounds)))
            else:
                found.append(count(name, *size, batch))
        except (ValueError, RuntimeError, AssertionError) as error:
            skipped.append({"name": name, "reason": costs.last_line(error)})
    return costs.result_of(device, size, batch, found, skipped)


def format_table(result: dict[str, Any]) -> str:
    """A Markdown table of backbones, and what was left out."""
    timed = any("forward_ms" in row for row in result["rows"])
    keys, headings = (costs.COUNTED, costs.HEADINGS) if timed else (costs.COUNTED[:2], costs.HEADINGS[:2])
    lines = [["backbone", *headings]]
    lines += [[row["name"], *(costs.number(row[key]) for key in keys)] for row in result["rows"]]
    title = f"{result['batch']} x 3 x {result['size']}, without classifier"
    if timed:
        title += f", float32, {result['device']}, torch {result['torch']}"
    notes = costs.notes(result)
    if not timed and not notes:
        notes = ["times and memory: python -m tasks.profile backbones NAME ..."]
    return "\n".join([title, "", *costs.table(lines), *([""] if notes else []), *notes])
