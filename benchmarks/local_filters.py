"""Seven local filters in one Swin-T: `python -m benchmarks.local_filters --write docs/local-filters.md`.

The networks are those of `configs/sweeps/local_filters.yaml`, and ELSA-Swin-T beside them. Images a second are those of
the network alone in evaluation, at 224 x 224 pixels, all networks in turn.
"""

import re
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from attention import LocalFilter
from backbones import Backbone, Swin, elsa_swin_t
from benchmarks.measure import ROOT, processor, show_table, time_in_turn
from tasks.profile.counting import count_macs

SIDE, BATCH = 224, 4
SWEEP = ROOT / "configs" / "sweeps" / "local_filters.yaml"
_OPTION = re.compile(r"--model\.backbone\.mixer\.(\w+)=(.*)")


def options() -> dict[str, dict[str, Any]]:
    """The options of `LocalFilter` in each network of the sweep."""
    variants: dict[str, list[str]] = yaml.safe_load(SWEEP.read_text())["variants"]
    return {name: dict(_read(argument) for argument in given) for name, given in variants.items()}


def _read(argument: str) -> tuple[str, Any]:
    match = _OPTION.fullmatch(argument)
    assert match is not None, argument
    value = yaml.safe_load(match[2])
    return match[1], tuple(value) if isinstance(value, list) else value


def networks() -> dict[str, Callable[[], Backbone]]:
    """What builds each network, by its name in the table."""
    local = {
        name: partial(Swin, mixer=partial(LocalFilter, **chosen), mixer_stages=(1, 2, 3), drop_path=0.0)
        for name, chosen in options().items()
    }
    return local | {"elsa": partial(elsa_swin_t, drop_path=0.0)}


def sizes(build: Callable[[], Backbone]) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a network without a classifier, for one image."""
    with torch.device("meta"):
        network = build().eval()
        image = torch.zeros(1, 3, SIDE, SIDE)
        macs = count_macs(lambda: network(image))
    return sum(parameter.numel() for parameter in network.parameters()), macs


def throughputs(rounds: int) -> dict[str, float]:
    """Images a second of every network, medians of rounds in turn."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE)

    def runner(build: Callable[[], Backbone]) -> Callable[[], object]:
        network = build().eval()

        def run() -> object:
            with torch.inference_mode():
                return network(images)

        return run

    times = time_in_turn({name: runner(build) for name, build in networks().items()}, rounds)
    return {name: BATCH / sorted(seconds)[len(seconds) // 2] for name, seconds in times.items()}


def described(name: str) -> list[str]:
    """What a network's filter is, for the table."""
    if name == "elsa":
        return ["product of query and key, two layers", "C / 32", "softmax", "neighbourhood"]
    given = options()[name]
    terms = given.get("terms", ("content", "bias"))
    heads = "C" if given.get("head_channels") == 1 else "C / 32"
    return [
        " + ".join(terms),
        heads,
        given.get("normalization", "softmax"),
        given.get("application", "neighbourhood"),
    ]


def table(rounds: int) -> str:
    """The table in Markdown."""
    speeds = throughputs(rounds)
    head = ["network", "weights", "heads", "normalisation", "application", "parameters", "MACs", "images / s"]
    lines = [head, ["---"] * len(head)]
    for name, build in networks().items():
        parameters, macs = sizes(build)
        lines.append([name, *described(name), f"{parameters:,}", f"{macs:,}", f"{speeds[name]:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\nMeasured on {processor()}."


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = ArgumentParser(prog="python -m benchmarks.local_filters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the measurement")
    parser.add_argument("--write", type=Path, help="put the table into this document, between its marks")
    chosen = parser.parse_args(args)
    show_table("local filters", table(chosen.rounds), chosen.write)


if __name__ == "__main__":
    main()
