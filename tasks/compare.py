"""`python -m tasks.compare RUNS...`: one table of what runs cost and what they reached, from their summaries."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import TaskError

SCORES = {"detect": "val/mAP", "segment": "val/mIoU"}
COLUMNS = ("task", "backbone", "attention", "model", "parameters", "MACs", "score", "seconds", "run")


def find_summaries(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads `summary.json` of every run at or below the folders, ordered by task and score.

    Raises:
        TaskError: There is none.
    """
    files = sorted({file for folder in folders for file in folder.rglob("summary.json")})
    if not files:
        raise TaskError(
            f"no summary.json below {', '.join(map(str, folders))}; expected run folders such as runs/detect/NAME"
        )
    summaries = [json.loads(file.read_text()) | {"run": str(file.parent)} for file in files]
    return sorted(summaries, key=lambda summary: (summary["task"], -(summary.get(SCORES[summary["task"]]) or 0.0)))


def table_row(summary: dict[str, Any]) -> list[str]:
    """The cells of one run, in the order of `COLUMNS`."""
    score = SCORES[summary["task"]]
    value = summary.get(score)
    cells = summary | {
        "parameters": f"{summary['parameters']:,}",
        "MACs": f"{summary['MACs']:,} @ {summary['image_size']}",
        "score": f"{score.split('/')[1]} {'not defined' if value is None else f'{value:.3f}'}",
        "seconds": f"{summary['seconds']:.0f}",
    }
    return [str(cells[column]) for column in COLUMNS]


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(COLUMNS), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = ArgumentParser(
        prog="python -m tasks.compare",
        description="Prints a table of runs: task, backbone, attention, cost, best mAP or mIoU, seconds, folder.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON instead")
    options = parser.parse_args(args)
    try:
        summaries = find_summaries(options.runs)
    except TaskError as error:
        sys.exit(f"error: {error}")
    rows = [table_row(summary) for summary in summaries]
    print(json.dumps(summaries, indent=2) if options.json else format_table(rows))  # noqa: T201


if __name__ == "__main__":
    main()
