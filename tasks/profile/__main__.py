"""`python -m tasks.profile`: what operators, networks, recipes and finished runs cost, measured on this machine."""

import json
import sys
from argparse import Namespace, _SubParsersAction
from pathlib import Path
from typing import Any, get_args

from backbones.zoo.registry import list_backbones
from configs.mistakes import CommandParser, end_with
from configs.numbers import at_least
from configs.version import add_version
from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.profile import backbones, costs, match, operators

LISTED_BY = "python -m tasks backbones"


def run_attention(options: Namespace) -> dict[str, Any]:
    """Runs `python -m tasks.profile attention`."""
    names = options.names.split(",") if options.names else list(operators.operator_classes())
    for name in names:
        operators.operator_class(name)
    costs.prepare(options.device)
    rows, columns = options.size
    problem = operators.Problem(options.channels, rows, columns, options.batch, options.device)
    return operators.profile(names, problem, options.rounds)


def run_backbones(options: Namespace) -> dict[str, Any]:
    """Runs `python -m tasks.profile backbones`."""
    names = [name for text in options.names for name in text.split(",") if name]
    for name in names:
        if name not in list_backbones():
            raise TaskError(f"there is no backbone {name!r}{instead(name, list_backbones(), LISTED_BY)}")
    costs.prepare(options.device)
    return backbones.profile(names, options.size, options.batch, options.device, options.rounds)


def run_recipe(options: Namespace) -> dict[str, Any]:
    """Runs `python -m tasks.profile recipe`."""
    from tasks.profile import recipes  # loads Lightning and both command lines, which the others do not need

    costs.prepare(options.device)
    options.format = recipes.format_table
    sizes = (options.classes, options.size, options.batch)
    return recipes.profile(options.source, options.more, *sizes, options.device, options.rounds)


def run_match(options: Namespace) -> dict[str, Any]:
    """Runs `python -m tasks.profile match`."""
    costs.prepare(options.device)
    setup = match.Setup(options.size, options.batch, options.device, options.rounds)
    return match.match(options.source, options.step, options.tolerance, setup)


def end_match(result: dict[str, Any], file: Path | None) -> None:
    """Writes the match to a file, if there is one and a file is wanted; an error where there is none."""
    if (reason := match.verdict(result)) is not None:
        sys.exit(f"error: {reason}")
    if file is not None:
        try:
            file.write_text(match.backbone_file(result))
        except OSError as error:
            end_with(f"cannot write {file}: {error.strerror}; the options above make the same network")


def run_runs(options: Namespace) -> dict[str, Any]:
    """Runs `python -m tasks.profile runs`, which is also called `--runs`."""
    from tasks.profile import runs  # loads Lightning

    costs.prepare(options.device, options.threads)
    options.format = runs.format_table
    setup = runs.Setup(options.size, options.batch, options.device, options.threads, options.rounds)
    return runs.profile(options.folders, setup)


def _size(text: str) -> tuple[int, int]:
    """Height and width from a text such as 100x136."""
    rows, separator, columns = text.partition("x")
    if not (separator and rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        raise ValueError(text)
    return int(rows), int(columns)


def _share(text: str) -> float:
    if not 0 < float(text) < 1:
        raise ValueError(text)
    return float(text)


_size.__name__, _share.__name__ = "HEIGHTxWIDTH", "a share between 0 and 1"  # for the parser's errors


def _add_attention(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "attention",
        help="attention operators on one map, beside a 3x3 convolution",
        description="Parameters, MACs (convolutions and matrix products), time and peak memory of attention operators.",
    )
    part.add_argument("--size", type=_size, default=(50, 68), help="cells of the map, HEIGHTxWIDTH (50x68)")
    part.add_argument("--channels", type=at_least(1), default=256, help="channels of the map (256)")
    part.add_argument("--batch", type=at_least(1), default=2, help="samples (2)")
    part.add_argument(
        "--names", help="operators, or your own classes as MODULE.CLASS, separated by commas (all operators)"
    )
    part.set_defaults(run=run_attention, format=operators.format_table)


def _add_backbones(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "backbones",
        help="published networks on images",
        description="Parameters, MACs (convolutions and matrix products), time and peak memory of backbones; without "
        "names, parameters and MACs of all.",
    )
    part.add_argument("names", nargs="*", metavar="NAME", help="networks of backbones.list_backbones()")
    part.add_argument("--size", type=_size, default=(800, 1333), help="pixels of the images, HEIGHTxWIDTH (800x1333)")
    part.add_argument("--batch", type=at_least(1), default=1, help="images (1)")
    part.set_defaults(run=run_backbones, format=backbones.format_table)


def _add_recipe(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "recipe",
        help="the model of a recipe or a run, by part",
        description="Parameters, MACs, time and memory of the parts of a model: backbone, neck, head. Options of the "
        "recipe may follow, as at `fit`: --model.backbone.attention CBAM.",
        allow_abbrev=False,
    )
    part.add_argument("source", type=Path, metavar="RECIPE", help="a recipe, or a run folder such as runs/detect/NAME")
    part.add_argument(
        "--classes", type=at_least(1), help="number of classes (the data set's, which is read; a run's own)"
    )
    part.add_argument("--size", type=_size, help="pixels of the images, HEIGHTxWIDTH (those of the recipe)")
    part.add_argument("--batch", type=at_least(1), default=2, help="images (2)")
    part.set_defaults(run=run_recipe)


def _add_match(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "match",
        help="a backbone without attention that takes as long as one with it",
        description="Looks for the plain host, narrower to wider or shallower to deeper, that takes as long as a "
        "backbone with attention: the control that spends the same time otherwise. Both are timed in turn. "
        "Exit code 1 where none is near enough.",
    )
    part.add_argument(
        "source", type=Path, metavar="BACKBONE", help="a file such as configs/backbones/resnet50_cbam.yaml"
    )
    part.add_argument("--step", choices=get_args(match.Step), default="forward", help="what is timed (forward)")
    part.add_argument("--size", type=_size, default=(800, 1333), help="pixels of the images, HEIGHTxWIDTH (800x1333)")
    part.add_argument("--batch", type=at_least(1), default=1, help="images (1)")
    part.add_argument(
        "--tolerance", type=_share, default=0.05, help="difference of times, as a share, that counts as equal (0.05)"
    )
    part.add_argument("--write", type=Path, metavar="FILE", help="write the match as a file for configs/backbones")
    part.set_defaults(run=run_match, format=match.format_table)


def _add_runs(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "runs",
        help="the networks of trained runs, each configuration once, in turn",
        description="Latency of one image, time of a training step and memory of the networks of runs, measured in "
        "turn, to be called when nothing else runs. tasks.compare finds them as costs.json in every run folder.",
    )
    part.add_argument("folders", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders above them")
    part.add_argument("--size", type=_size, help="pixels of the images, HEIGHTxWIDTH (those of each run)")
    part.add_argument("--batch", type=at_least(1), help="images of a training step (those of a process of each run)")
    part.add_argument("--threads", type=at_least(1), default=1, help="threads of the processor (1)")
    part.set_defaults(run=run_runs)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m tasks.profile", description="Measures what parts of a model cost.")
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="PART")
    for add in (_add_attention, _add_backbones, _add_recipe, _add_match, _add_runs):
        add(commands)
    for part, rounds in (
        (commands.choices["attention"], 5),
        (commands.choices["backbones"], 3),
        (commands.choices["recipe"], 3),
        (commands.choices["match"], 5),
        (commands.choices["runs"], 10),
    ):
        part.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (cpu, one thread)")
        part.add_argument(
            "--rounds", type=at_least(1), default=rounds, help=f"runs of which the median counts ({rounds})"
        )
        part.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = _parser()
    args = sys.argv[1:] if args is None else args
    if args[:1] in (["--match"], ["--runs"]):  # so are they called elsewhere
        args = [args[0].removeprefix("--"), *args[1:]]
    options, more = parser.parse_known_args(args)
    if more and options.run is not run_recipe:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.more = more
    try:
        result = options.run(options)
    except TaskError as error:
        end_with(error)
    print(json.dumps(result, indent=2) if options.json else options.format(result))  # noqa: T201
    if options.run is run_match:
        end_match(result, options.write)


if __name__ == "__main__":
    main()
