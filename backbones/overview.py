"""`python -m backbones.overview`: one table of all published networks, from `zoo.csv`."""

import re
import sys
from pathlib import Path

from attention.page_command import run_page_command
from backbones.zoo.registry import Figures, backbone_function, list_backbones, published_figures

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "backbones.md"
COLUMNS = ("network", "parameters", "MACs", "size", "top-1", "box AP", "mIoU", "source", "reading", "notes")


def page() -> str:
    """The page about all published networks, in Markdown."""
    figures = published_figures()
    by_file: dict[str, list[str]] = {}
    for name in list_backbones():
        by_file.setdefault(backbone_function(name).__module__, []).append(name)
    lines = [
        "# Backbones",
        "",
        "Written by `python -m backbones.overview --write docs/backbones.md` from `backbones/zoo/zoo.csv`; change",
        "that.",
        "",
        "Every network is a function: `backbones.NAME()` gives its features, `backbones.classifier(NAME)` puts the",
        "paper's classification head on it, and a configuration names it as `class_path: backbones.NAME`.",
        "",
        "- Parameters are those of the classifier, with 1000 classes where notes name no others.",
        "- MACs are multiply-accumulates of one image of the given size in convolutions and matrix products, counted",
        "  with PyTorch's counter (`tasks.profile.counting`).",
        "- Accuracies are published ones, of the networks named in the source: ImageNet top-1, COCO box AP, ADE20K",
        "  mIoU, in percent.",
        "- Reading: `verified` where a published number or the authors' code agrees with ours; `reconstruction` where",
        "  the network had to be read from text or numbers, so that its accuracy is not known to be the published one.",
        "",
        "Times on your machine: `python -m tasks.profile backbones NAME --size 800x1333`.",
    ]
    for module, names in sorted(by_file.items()):
        title = (sys.modules[module].__doc__ or "").strip().splitlines()[0].rstrip(".")
        rows = [_row(name, module, figures[name]) for name in names]
        lines += ["", f"## {title}", "", *map(_joined, [list(COLUMNS), ["---"] * len(COLUMNS), *rows])]
    return "\n".join(lines) + "\n"


def _row(name: str, module: str, figures: Figures) -> list[str]:
    """The cells of one network."""
    classes = "" if figures.classes == 1000 else f"{figures.classes} classes"
    return [
        f"[`{name}`](../{module.replace('.', '/')}.py)",
        f"{figures.parameters:,}",
        f"{figures.macs:,}",
        str(figures.size),
        *("" if value is None else f"{value:g}" for value in (figures.top1, figures.box_ap, figures.miou)),
        _linked(figures.source),
        figures.reading,
        "; ".join(filter(None, (classes, figures.notes))),
    ]


def _joined(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _linked(source: str) -> str:
    """A source with its arXiv number as a link."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    description = "Prints the table of all published networks: parameters, cost, accuracy, source."
    run_page_command("backbones.overview", description, page(), PAGE, ROOT, args)


if __name__ == "__main__":
    main()
