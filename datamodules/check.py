"""`python -m datamodules.check --config FILE` or `--data COCO --data.root PATH`: looks through a data set.

It tells what falls away between the files and the loss, by its cause, and what is doubtful, and reads every file for
it: the pixels of all masks, the headers of all images. That is remembered for as long as the files stay as they are
($ATTNDENSE_CACHE), and a run tells the same before its first step.

Exit code: 0 where a run can start, 2 where none can (nothing is left to train on or to score, files are missing or
cannot be read, an option is wrong), 1 where `--data.strict true` is given and something is lost or doubtful.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

import datamodules
from configs.mistakes import end_with
from configs.version import add_version
from datamodules.base import VisionDataModule
from datamodules.command_parser import OneLineParser
from datamodules.errors import DataError
from datamodules.preflight.before_a_run import look_through
from datamodules.preflight.report import Split, SplitReport

SOUND, DOUBTFUL, WRONG = 0, 1, 2
"""Exit codes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: Default: those of the process.

    Raises:
        SystemExit: With the exit code, unless that is 0.
    """
    try:
        options = _parser().parse_args(with_data(sys.argv[1:] if arguments is None else arguments))
        data = _parser().instantiate(options).data
        reports = look_through(data, splits_of(data), whole=True)
    except DataError as error:
        end_with(error)
    if options.json:
        print(json.dumps({report.split: report.content() for report in reports}, indent=2))  # noqa: T201
    else:
        print(*(line for report in reports for line in report.lines({"error", "warning", "note"})), sep="\n")  # noqa: T201
    if code := exit_code(reports, data.strict):
        sys.exit(code)


def splits_of(data: VisionDataModule) -> list[Split]:
    """The splits of a data set: that of the test only where it has one."""
    splits: list[Split] = ["training", "validation"]
    return splits if data.test_dataset() is None else [*splits, "test"]


def exit_code(reports: Sequence[SplitReport], strict: bool) -> int:
    """What the command ends with."""
    severities = {finding.severity for report in reports for finding in report.findings}
    if "error" in severities:
        return WRONG
    return DOUBTFUL if strict and "warning" in severities else SOUND


def with_data(arguments: Sequence[str]) -> list[str]:
    """The arguments with the `data` of a recipe, or of a run's `config.yaml`, in the place of `--config FILE`.

    `--data NAME` is `configs/data/NAME.yaml` where there is such a file, as for `python -m tasks.detect`.

    Raises:
        DataError: The file cannot be read, or has no `data`.
    """
    rest, result = list(arguments), []
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name == "--config" and not (equals or rest):
            raise DataError("--config stands without a file; expected one such as configs/detect/quickstart.yaml")
        if name in ("--config", "--data") and (equals or rest):
            value = value if equals else rest.pop(0)
            part = Path("configs/data") / f"{value}.yaml"
            result += [
                "--data",
                _data_of(Path(value)) if name == "--config" else str(part if part.is_file() else value),
            ]
        else:
            result.append(argument)
    return result


def _data_of(recipe: Path) -> str:
    """What a recipe says of the data: a file, or the options themselves as json."""
    try:
        data = yaml.safe_load(recipe.read_text())["data"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{recipe} is no recipe with `data` ({type(error).__name__}); give --data COCO") from None
    return str(recipe.parent / data) if isinstance(data, str) else json.dumps(data)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m datamodules.check", description=__doc__.partition("\n\n")[2])
    add_version(parser)
    parser.add_subclass_arguments(datamodules.VisionDataModule, "data", required=True)
    parser.add_argument("--json", action="store_true", help="Print one json object: the facts and findings of splits.")
    return parser


if __name__ == "__main__":
    main()
