"""`python -m tasks.compare RUNS...`: what runs have reached, and what they cost, as a table or as a report."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.mistakes import CommandParser, end_with
from configs.numbers import at_least
from configs.version import add_version
from tasks.errors import TaskError
from tasks.printed import show
from tasks.report import tables
from tasks.report.baseline import Baseline
from tasks.report.runs import ranked_by
from tasks.report.sections import Section, in_sections
from tasks.report.wandb_runs import find_everywhere

MARKS = re.compile(r"(<!-- runs -->\n).*?(<!-- /runs -->)", re.DOTALL)


def replace_table(document: str, sections: Sequence[Section], baseline: Baseline | None = None) -> str:
    """Puts the table of some runs between the marks of a document.

    Args:
        document: Its text.
        sections: The runs.
        baseline: Row from which the differences of the others are shown.

    Raises:
        TaskError: The document has no marks.
    """
    if MARKS.search(document) is None:
        raise TaskError("the document has no <!-- runs --> and <!-- /runs --> around its table")
    return MARKS.sub(lambda marks: f"{marks[1]}{tables.markdown(sections, baseline=baseline)}\n{marks[2]}", document)


def as_json(sections: Sequence[Section]) -> str:
    """The summaries of all runs, each with its state, its starts and the section that it is ranked in."""
    content: list[dict[str, Any]] = [
        {**run.summary, "run": run.name, "state": run.state, "reason": run.reason, "section": section.title}
        | {"starts": [*run.starts], "measured": dict(run.measured)}
        for section in sections
        for run in section.runs
    ]
    return json.dumps(content, indent=2)


def read_about(file: Path) -> list[str]:
    """The paragraphs of a text, without the ends of its lines.

    Raises:
        TaskError: It cannot be read.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"--about {file} cannot be read as text: {error}") from error
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _parser() -> ArgumentParser:
    parser = CommandParser(
        prog="python -m tasks.compare",
        description="Compares runs: a table on the terminal, seeds folded into mean ± standard deviation, or a report "
        "in one HTML file. Runs on different data, or scored in different ways, are never ranked together.",
    )
    add_version(parser)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, folders above them, or offline runs of W&B")
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="the runs of a project in W&B, read through its API; W&B has no evaluation.npz, hence no intervals",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--output", type=Path, metavar="FOLDER", help="write the report into this folder, as index.html")
    shown.add_argument(
        "--serve",
        action="store_true",
        help="show the report on 127.0.0.1, for this machine alone, made anew while runs go on; Ctrl-C ends it",
    )
    shown.add_argument(
        "--wandb-report",
        metavar="ENTITY/PROJECT",
        help="make a report of it in the project of W&B that has the runs; needs the extra wandb-report. Nothing is "
        "uploaded without this option. Not tried against W&B's own server, only against a stand-in of it",
    )
    parser.add_argument("--port", type=int, default=8765, help="port of --serve, 8765 by default; 0: any free one")
    parser.add_argument(
        "--resamples",
        type=at_least(0),
        default=1000,
        help="resamples of the images for the report's intervals, half a second to minutes for each run; 0: none",
    )
    parser.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="text that stands above the numbers of the report, paragraphs with an empty line between them: what the "
        "runs are for, and what they cannot show",
    )
    parser.add_argument("--write", type=Path, help="put the table into this document, between <!-- runs --> marks")
    parser.add_argument(
        "--by",
        nargs="+",
        metavar="KEY",
        help="fold runs that agree in these, such as attention; default: all in which their configurations differ",
    )
    parser.add_argument(
        "--against",
        metavar="ROW",
        help="show in the table how much more each row scores than this one, with 95 %% interval, probability of being "
        "better and corrected p value; a row is called by the values of its keys, such as none, or none,FCOS. The page "
        "of --output has every row as a baseline",
    )
    parser.add_argument(
        "--score",
        metavar="NAME",
        help="compare by this score in place of the headline, such as mask_mAP; differences have an interval for mAP, "
        "mAP50, mAP75, the same of masks, and mIoU",
    )
    parser.add_argument(
        "--plan",
        nargs=2,
        type=float,
        metavar=("DEVIATION", "DIFFERENCE"),
        help="print how many seeds each of two methods needs so that this difference of their scores is found with a "
        "probability of 80 %% at a level of 5 %%, where runs of one method have this standard deviation",
    )
    _add_forms(parser)
    return parser


def _add_forms(parser: ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", const="json", dest="form", help="print the summaries as JSON")
    form.add_argument("--csv", action="store_const", const="csv", dest="form", help="print all scores of every group")
    form.add_argument("--markdown", action="store_const", const="markdown", dest="form", help="print the usual table")
    form.add_argument("--latex", action="store_const", const="latex", dest="form", help="print the table for booktabs")


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    options = _parser().parse_args(args)
    try:
        if options.plan:
            from tasks.comparison.plan import runs_needed  # takes seconds

            print(f"{runs_needed(*options.plan)} runs of each method")  # noqa: T201
            return
        about = read_about(options.about) if options.about else []
        if options.against and (options.serve or options.output or options.wandb_report):
            raise TaskError("--against is for tables; in a report every row can be the baseline")
        if options.serve:
            if options.wandb:
                raise TaskError("--serve shows run folders, whose files it can watch; --output shows those of --wandb")
            from tasks.report.serving import serve  # takes seconds

            serve(options.runs, options.port, options.resamples, options.score, about)
            return
        runs = find_everywhere(options.runs, options.wandb)
        sections = in_sections(ranked_by(runs, options.score) if options.score else runs)
        tables.require_keys(sections, options.by or ())
        baseline = Baseline(options.against, options.resamples) if options.against else None
        if baseline is not None:
            _check_baseline(baseline, sections, options)
        if options.write:
            _write_table(options.write, sections, baseline)
            return
        if options.output:
            from tasks.report.writing import write_report  # takes seconds

            try:
                print(write_report(sections, options.output, options.resamples, about))  # noqa: T201
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise TaskError(f"--output {options.output}: {error.strerror}; give a folder") from error
            return
        if options.wandb_report:
            from tasks.report.wandb_report import write_wandb_report  # takes seconds

            print(write_wandb_report(sections, options.wandb_report, options.resamples))  # noqa: T201
            return
        show(_table(sections, options.form, options.by, baseline))
    except TaskError as error:
        end_with(error)


def _write_table(document: Path, sections: Sequence[Section], baseline: Baseline | None) -> None:
    try:
        document.write_text(replace_table(document.read_text(), sections, baseline))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TaskError(f"--write {document}: {reason}; expected a text with <!-- runs --> marks") from error


def _check_baseline(baseline: Baseline, sections: Sequence[Section], options: Namespace) -> None:
    if options.form == "json":
        raise TaskError("--json prints single runs, which --against does not compare; --csv has rows and differences")
    if options.resamples < 1:
        raise TaskError(f"--against takes resamples of the images, and --resamples is {options.resamples}")
    baseline.require([tables.grouped(section, options.by)[1] for section in sections if section.finished])


def _table(sections: Sequence[Section], form: str | None, by: Sequence[str] | None, baseline: Baseline | None) -> str:
    if form == "json":
        return as_json(sections)
    return {"csv": tables.as_csv, "latex": tables.latex}.get(form or "", tables.markdown)(sections, by, baseline)


if __name__ == "__main__":
    main()
