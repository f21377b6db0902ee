"""What of the papers' ablations is an option: `python -m tasks.coverage --write docs/coverage.md`.

`docs/coverage.yaml` lists the rows; each is built as the command line builds it, without memory for its weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from torch import nn

from attention.page_command import run_page_command
from backbones import Backbone, list_backbones
from configs.mistakes import CommandParser
from tasks.detectors.base import Detector

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "docs" / "coverage.yaml", ROOT / "docs" / "coverage.md"
CLASSES = 80


@dataclass(frozen=True)
class Row:
    """A row of a table of a paper.

    Attributes:
        paper: The paper.
        row: What it compares.
        backbones: Name and options of a backbone for each of the values that the row compares, most often one; none
            where there is no such option.
        detector: Name and options of a detector on it.
        classifier: Name and options of a classification network on it, of 100 classes.
        published: Parameters where they are known to the digit, of a row with one backbone: with a classifier of 1000
            classes, or of the classification network.
        why: Why there is no such option.
    """

    paper: str
    row: str
    backbones: tuple[str, ...] = ()
    detector: str = ""
    classifier: str = ""
    published: int | None = None
    why: str = ""

    @property
    def options(self) -> list[str]:
        """The options of the command line for each of the backbones; of a classification network, a call in Python."""
        if self.classifier:
            return [_call(self.classifier, _call(backbone)) for backbone in self.backbones]
        on_it = _arguments("--model.detector", self.detector) if self.detector else []
        return [" ".join(_arguments("--model.backbone", backbone) + on_it) for backbone in self.backbones]

    def build(self) -> list[nn.Module]:
        """Each backbone, or the detector or classification network on it, on PyTorch's device `meta`.

        Raises:
            SystemExit: The options are none.
        """
        return [self._build(backbone) for backbone in self.backbones]

    def _build(self, spec: str) -> nn.Module:
        with torch.device("meta"):
            backbone = _built(Backbone, spec)
            if self.classifier:
                return _built(Callable[[Backbone], nn.Module], f"backbones.{self.classifier}")(backbone)
            if self.detector:
                return _built(Callable[[Backbone, int], Detector], self.detector)(backbone, CLASSES)
            return backbone


def read_rows(path: Path = ROWS) -> list[Row]:
    """All rows of all papers."""
    papers: Sequence[dict[str, Any]] = yaml.safe_load(path.read_text())
    return [_read(paper["paper"], **row) for paper in papers for row in paper["rows"]]


def _read(paper: str, row: str, backbone: str | list[str] = "", **rest: Any) -> Row:
    specs = [backbone] if isinstance(backbone, str) else backbone
    return Row(paper, row, tuple(spec for spec in specs if spec), **rest)


def parameters(network: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def classifier_parameters(backbone: Backbone) -> int:
    """Parameters of a network with a linear classifier of 1000 classes on its last map."""
    return parameters(backbone) + (backbone.channels[-1] + 1) * 1000


def page() -> str:
    """`docs/coverage.md`."""
    rows = read_rows()
    built = [row for row in rows if not row.why]
    lines = [
        "# The papers' ablations as options",
        "",
        "Written by `python -m tasks.coverage --write docs/coverage.md` from `docs/coverage.yaml`.",
        f"Of {len(rows)} rows of ablations that concern architecture, {len(built)} are options of the library and",
        f"{len(rows) - len(built)} are not, with the reason. A test builds each, in every value that it names.",
        "Parameters are those of the backbone, of the detector with 80 classes, or of the classification network with",
        "100. What the sources leave open is in [assumptions.md](assumptions.md).",
    ]
    for paper in dict.fromkeys(row.paper for row in rows):
        lines += ["", f"## {paper}", "", "| row | options | parameters |", "| --- | --- | --- |"]
        for row in (row for row in rows if row.paper == paper):
            if row.why:
                lines.append(f"| {row.row} | not here: {row.why} | |")
                continue
            counts = [f"{parameters(network):,}" for network in row.build()]
            lines.append(f"| {row.row} | {cell(row.options)} | {'<br>'.join(counts)} |")
    return "\n".join(lines) + "\n"


def cell(options: Sequence[str]) -> str:
    """Options in a cell of the page's tables, a line for each of the values that a row compares."""
    return "<br>".join(f"`{each}`" for each in options)


def _arguments(option: str, spec: str) -> list[str]:
    """A name and its options, `ResNet depth=18`, as parts of a command line."""
    name, *options = _words(spec)
    return [f"{option} {name}", *(f"{option}.{word}" for word in options)]


def _call(spec: str, *positional: str) -> str:
    """A name and its options as a call in Python."""
    name, *options = _words(spec)
    pairs = (option.split("=", 1) for option in options)
    return f"{name}({', '.join([*positional, *(f'{option}={yaml.safe_load(value)!r}' for option, value in pairs)])})"


def _words(spec: str) -> list[str]:
    """Splits at spaces outside brackets; published networks get the name that the command line knows them by."""
    words, depth = [""], 0
    for character in spec:
        depth += (character in "[{") - (character in "]}")
        if character == " " and depth == 0:
            words.append("")
        else:
            words[-1] += character
    if words[0] in list_backbones():
        words[0] = f"backbones.{words[0]}"
    return words


def _built(kind: Any, spec: str) -> Any:
    parser = jsonargparse.ArgumentParser(exit_on_error=True)
    parser.add_argument("--it", type=kind)
    name, *options = _words(spec)
    parsed = parser.parse_args(["--it", name, *(f"--it.{word}" for word in options)])
    return parser.instantiate(parsed).it


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    run_page_command("tasks.coverage", "the papers' ablations as options", page(), PAGE, ROOT, args, CommandParser)


if __name__ == "__main__":
    main()
