"""`python -m attention.overview`: one table of all operators, read from their docstrings.

What the table shows is what the code says: the paper stands in the first sentence of an operator's file, equation, cost
and place in the docstring of its class. `describe` names whatever is missing.
"""

import inspect
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attention
from attention.base import Mixer, Operator, Refine
from attention.page_command import run_page_command

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "attention.md"
GPU_TIMES = ROOT / "docs" / "results" / "attention_profile_gpu.json"
"""What `python -m tasks.profile attention --device cuda --json` printed, where somebody had a GPU."""
LOCAL_FILTERS = ROOT / "docs" / "local-filters.md"
"""Has the table that `python -m benchmarks.local_filters` measures."""

KINDS = {
    "Refinements": "`Refine(channels, ...)`: (B, C, H, W) -> (B, C, H, W), behind any convolution.",
    "Mixers": "`Mixer(in_channels, out_channels, stride, ...)`: in place of a spatial convolution.",
    "Others": "With inputs of their own.",
}
COLUMNS = ("operator", "paper", "equation", "parameters", "cost", "where it plugs in")


@dataclass(frozen=True)
class Description:
    """What the docstrings say about an operator.

    Attributes:
        name: Name of the class.
        kind: A key of `KINDS`.
        file: Its file below `attention/`.
        mechanism: What the file calls it.
        paper: Authors, venue, year and arXiv number.
        summary: First sentence of the class docstring.
        equation: Lines of the equation block, without indentation.
        parameters: Number of parameters.
        cost: Multiply-accumulates, passes, memory.
        place: Where a host puts it.
        arguments: Names under `Args:`.
    """

    name: str
    kind: str
    file: str
    mechanism: str
    paper: str
    summary: str
    equation: tuple[str, ...]
    parameters: str
    cost: str
    place: str
    arguments: tuple[str, ...]


def operators() -> list[type[Operator]]:
    """Every operator that `attention` exports, by name."""
    found = (getattr(attention, name) for name in sorted(attention.__all__))
    return [each for each in found if inspect.isclass(each) and issubclass(each, Operator) and not is_contract(each)]


def is_contract(operator: type[Operator]) -> bool:
    """Whether a class is only the base of operators."""
    return operator in (Operator, Refine, Mixer) or inspect.isabstract(operator)


def describe(operator: type[Operator]) -> Description:
    """Reads the docstrings of an operator and its file.

    Raises:
        ValueError: Something is missing.
    """
    module = sys.modules[operator.__module__]
    title = re.match(r"([^()]+?) \(([^()]* \d{4}[^()]*)\)", _in_one_line(module.__doc__ or ""))
    paragraphs = inspect.cleandoc(operator.__doc__ or "").split("\n\n")
    equation = [line for paragraph in paragraphs for line in _equation_lines(paragraph)]
    parameters, _, cost = _labelled("Parameters", paragraphs).partition(" Cost: ")
    place = _labelled("Place", paragraphs)
    arguments = re.findall(r"^    (\w+): ", _section("Args", paragraphs), re.MULTILINE)
    missing = {
        f"a first sentence 'Name (Authors, VENUE YEAR, arXiv NNNN.NNNNN)' in {module.__name__}": title,
        "a summary line": paragraphs[0].endswith("."),
        "an equation block, indented by 4 spaces": any("=" in line for line in equation),
        "a paragraph 'Parameters: ... Cost: ...'": parameters and cost,
        "a paragraph 'Place: ...'": place,
        "a section 'Args:'": arguments,
    }
    for what, value in missing.items():
        if not value:
            raise ValueError(f"the docstring of {operator.__name__} lacks {what}")
    assert title is not None  # checked above
    return Description(
        name=operator.__name__,
        kind="Refinements" if issubclass(operator, Refine) else "Mixers" if issubclass(operator, Mixer) else "Others",
        file=f"{'/'.join(operator.__module__.split('.')[1:])}.py",
        mechanism=title[1],
        paper=title[2],
        summary=_in_one_line(paragraphs[0]),
        equation=tuple(equation),
        parameters=parameters,
        cost=cost,
        place=place,
        arguments=tuple(arguments),
    )


def page(times: dict[str, Any] | None = None) -> str:
    """The page about all operators, in Markdown.

    Args:
        times: Content of `GPU_TIMES`, where there is one.
    """
    lines = [
        "# Attention operators",
        "",
        "Written by `python -m attention.overview --write docs/attention.md` from the docstrings; change those.",
        "Parameters and costs are for one map with C channels (C_in, C_out), H rows and W columns; costs are",
        "multiply-accumulates. How to add one: [adding-a-mechanism.md](adding-a-mechanism.md).",
        "",
        "Times on your machine: `python -m tasks.profile attention --size 100x136 --channels 256`. "
        + (f"On {times['device']}, {times['size']}: last column." if times else "They were not measured on GPU."),
        "",
        "Cost against the size of the map (`python -m benchmarks.attention --resolution`):",
        "[times and memory](results/attention_resolution.svg), [numbers](results/attention_resolution.json).",
    ]
    described = [describe(operator) for operator in operators()]
    columns = [*COLUMNS, *(["forward, training"] if times else [])]
    for kind, meaning in KINDS.items():
        rows = [_row(each, times) for each in described if each.kind == kind]
        if rows:
            lines += ["", f"## {kind}", "", meaning, "", *map(_joined, [columns, ["---"] * len(columns), *rows])]
    return "\n".join([*lines, *_local_filters()]) + "\n"


def _local_filters() -> list[str]:
    """The section on sizes and speed of all forms of a local filter, whose table another page has; else nothing."""
    if not LOCAL_FILTERS.is_file():
        return []
    table = LOCAL_FILTERS.read_text().partition("<!-- local filters -->")[2].partition("<!-- /local filters -->")[0]
    meaning = [
        "Convolution, dynamic filters and local attention as one operator, `LocalFilter`, in Swin-T:",
        "[local-filters.md](local-filters.md) says what the columns are, and how they were measured.",
    ]
    return ["", "## Local filters", "", *meaning, "", table.strip()]


def _row(each: Description, times: dict[str, Any] | None) -> list[str]:
    """The cells of one operator."""
    cells = [
        f"[`{each.name}`](../attention/{each.file})",
        f"{each.mechanism} ({_linked(each.paper)})",
        "<br>".join(map(_code, each.equation)),
        each.parameters.rstrip("."),
        each.cost.rstrip("."),
        each.place.rstrip("."),
    ]
    if times:
        measured = {row["name"]: row for row in times["rows"]}.get(each.name, {})
        numbers = [measured.get(key) for key in ("forward_ms", "training_ms")]
        cells.append("not measured on GPU" if None in numbers else "{:.2f} ms, {:.2f} ms".format(*numbers))
    return cells


def _code(line: str) -> str:
    """A line of an equation as code, with two spaces where the docstring aligns by many."""
    text = re.sub(" {2,}", "  ", line.strip())
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _joined(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _linked(paper: str) -> str:
    """The paper with its arXiv number as a link."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _equation_lines(paragraph: str) -> list[str]:
    """The lines of a paragraph that is indented throughout."""
    lines = paragraph.splitlines()
    return [line[4:] for line in lines] if all(line.startswith("    ") for line in lines) else []


def _labelled(label: str, paragraphs: list[str]) -> str:
    """The paragraph that starts with a label, without the label and in one line."""
    return next((_in_one_line(text)[len(label) + 2 :] for text in paragraphs if text.startswith(f"{label}: ")), "")


def _section(label: str, paragraphs: list[str]) -> str:
    """A section of a Google docstring, such as `Args`."""
    return next((text for text in paragraphs if text.startswith(f"{label}:\n")), "")


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    description = "Prints the table of all attention operators: paper, equation, cost, place."
    run_page_command(
        "attention.overview",
        description,
        page(json.loads(GPU_TIMES.read_text()) if GPU_TIMES.is_file() else None),
        PAGE,
        ROOT,
        args,
    )


if __name__ == "__main__":
    main()
