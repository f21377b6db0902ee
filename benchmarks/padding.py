"""How much the padding of a batch moves global gates: `python -m benchmarks.padding --write docs/pitfalls.md`."""

from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention import CBAM, CoordinateAttention, SqueezeExcitation
from backbones import ResNet
from benchmarks.measure import show_table

SIDE, PADDED_SIDE = 224, 320
OPERATORS = (None, SqueezeExcitation, CoordinateAttention, CBAM)
SEEDS = (0, 1)


def changes(operator: type[nn.Module] | None) -> list[float]:
    """Relative change of the four maps of a ResNet-18 with random weights, in the half that is far from the padding."""
    moved = torch.zeros(4)
    for seed in SEEDS:
        torch.manual_seed(seed)
        backbone = ResNet(18, operator).eval()
        image = torch.randn(1, 3, SIDE, SIDE)
        gap = PADDED_SIDE - SIDE
        with torch.inference_mode():
            pairs = zip(backbone(image), backbone(F.pad(image, (0, gap, 0, gap))), strict=True)
        moved += torch.stack([_change(alone, padded) for alone, padded in pairs]) / len(SEEDS)
    return moved.tolist()


def _change(alone: Tensor, padded: Tensor) -> Tensor:
    half = alone.shape[-1] // 2
    alone, padded = alone[..., :half, :half], padded[..., :half, :half]
    return (alone - padded).abs().mean() / alone.abs().mean()


def table() -> str:
    """The table in Markdown, in percent."""
    lines = [["attention", *(f"stride {stride}" for stride in (4, 8, 16, 32))], ["---"] * 5]
    for operator in OPERATORS:
        name = "none" if operator is None else operator.__name__
        lines.append([name, *(f"{100 * change:.1f} %" for change in changes(operator))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = ArgumentParser(prog="python -m benchmarks.padding", description=__doc__)
    parser.add_argument("--write", type=Path, help="put the table into this document, between <!-- padding --> marks")
    options = parser.parse_args(args)
    show_table("padding", table(), options.write)


if __name__ == "__main__":
    main()
