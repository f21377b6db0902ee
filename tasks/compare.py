"""`python -m tasks.compare RUNS...`: one table of what runs cost and what they reached, from their summaries."""

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.comparison.plan import runs_needed
from tasks.errors import TaskError
from tasks.run.summary_file import SUMMARY, read_summary, shown_scores

MARKS = re.compile(r"(<!-- runs -->\n).*?(<!-- /runs -->)", re.DOTALL)
COLUMNS = ("task", "backbone", "attention", "model", "parameters", "MACs", "score", "seconds", "run")


def find_summaries(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads `summary.json` of every run at or below the folders, ordered by task and from best to worst.

    Raises:
        TaskError: There is none, or one that cannot be compared.
    """
    files = sorted({file for folder in folders for file in folder.rglob(SUMMARY)})
    if not files:
        places = ", ".join(map(str, folders)) or "nothing"
        raise TaskError(f"no {SUMMARY} below {places}; expected run folders such as runs/detect/NAME")
    return sorted(map(read_summary, files), key=_rank)


def _rank(summary: dict[str, Any]) -> tuple[Any, ...]:
    value = summary.get(summary["headline"])
    if value is None:  # not defined, or nothing was scored
        return summary["task"], summary["headline"], 1, 0.0
    return summary["task"], summary["headline"], 0, value if summary["direction"] == "min" else -value


def table_row(summary: dict[str, Any]) -> list[str]:
    """The cells of one run, in the order of `COLUMNS`."""
    cells = summary | {
        "model": summary["head"],
        "parameters": f"{summary['parameters']:,}",
        "MACs": f"{summary['MACs']:,} @ {summary['image_size']}",
        "score": shown_scores(summary),
        "seconds": f"{summary['seconds']:.0f}",
    }
    return [str(cells[column]) for column in COLUMNS]


def format_table(summaries: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with aligned columns, one row per run."""
    lines = [list(COLUMNS), *map(table_row, summaries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def replace_table(document: str, summaries: Sequence[dict[str, Any]]) -> str:
    """Puts the table of some runs between the marks of a document.

    Raises:
        TaskError: The document has no marks.
    """
    if MARKS.search(document) is None:
        raise TaskError("the document has no <!-- runs --> and <!-- /runs --> around its table")
    return MARKS.sub(lambda marks: f"{marks[1]}{format_table(summaries)}\n{marks[2]}", document)


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = ArgumentParser(
        prog="python -m tasks.compare",
        description="Prints a table of runs: task, backbone, attention, cost, best score, seconds, folder.",
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above them")
    parser.add_argument("--write", type=Path, help="put the table into this document, between <!-- runs --> marks")
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON instead")
    parser.add_argument(
        "--plan",
        nargs=2,
        type=float,
        metavar=("DEVIATION", "DIFFERENCE"),
        help="print how many seeds each of two methods needs so that this difference of their scores is found with a "
        "probability of 80 %% at a level of 5 %%, where runs of one method have this standard deviation",
    )
    options = parser.parse_args(args)
    try:
        if options.plan:
            print(f"{runs_needed(*options.plan)} runs of each method")  # noqa: T201
            return
        summaries = find_summaries(options.runs)
    except TaskError as error:
        sys.exit(f"error: {error}")
    if options.write:
        options.write.write_text(replace_table(options.write.read_text(), summaries))
        return
    print(json.dumps(summaries, indent=2) if options.json else format_table(summaries))  # noqa: T201


if __name__ == "__main__":
    main()
