"""`python -m tasks.find {lr,batch_size} RECIPE`: learning rate and batch size for a recipe, by Lightning's finders."""

from argparse import Namespace, _SubParsersAction
from functools import partial
from pathlib import Path

from configs.mistakes import CommandParser, end_with
from configs.numbers import at_least
from configs.version import add_version
from tasks.errors import TaskError

LEAST_STEPS = 13
"""Steps of a curve with two points to choose from."""


def find_rate(options: Namespace) -> None:
    """Runs `python -m tasks.find lr`."""
    from tasks.find.rates import range_test, report  # loads Lightning and both command lines; --help needs neither

    if not 0 < options.least < options.most:
        raise TaskError(f"--least is {options.least:g} and --most {options.most:g}, expected 0 < least < most")
    if options.write is not None and not (options.write.suffix == ".csv" and options.write.parent.is_dir()):
        raise TaskError(f"--write {options.write}: expected a file NAME.csv in a folder that exists")
    curve = range_test(options.built, options.steps, options.least, options.most)
    if options.write is not None:
        picture = curve.write(options.write)
        print(f"the curve: {options.write}, {picture}")  # noqa: T201
    print(report(curve, options.built))  # noqa: T201


def find_batch_size(options: Namespace) -> None:
    """Runs `python -m tasks.find batch_size`."""
    from tasks.find.batches import report, search  # loads Lightning and both command lines; --help needs neither

    trials = search(options.built, options.mode, options.first, options.most, options.steps, options.memory)
    print(report(trials, options.mode, options.built, options.recipe_batch))  # noqa: T201


def _gigabytes(text: str) -> float:
    if not float(text) > 0:
        raise ValueError(text)
    return float(text)


_gigabytes.__name__ = "a number of GB"  # for the parser's errors


def _add_rate(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "lr",
        help="the learning rate at which the loss falls fastest",
        description="Trains for some steps with a learning rate that rises exponentially, without the schedule, and "
        "suggests the rate at which the loss falls fastest. All parameter groups keep their share of it. Options of "
        "the recipe may follow, as at `fit`: --model.backbone.attention CBAM.",
        allow_abbrev=False,
    )
    part.add_argument(
        "--steps", type=at_least(LEAST_STEPS), default=100, help="optimiser steps, each with a rate of its own (100)"
    )
    part.add_argument("--least", type=float, default=1e-6, help="the first rate (1e-6)")
    part.add_argument("--most", type=float, default=1.0, help="the last rate (1)")
    part.add_argument("--write", type=Path, metavar="FILE.csv", help="write the curve, and FILE.png beside it")
    part.set_defaults(find=find_rate)


def _add_batch_size(commands: "_SubParsersAction[CommandParser]") -> None:
    part = commands.add_parser(
        "batch_size",
        help="the largest batch that fits into memory",
        description="Trains for a few steps with larger and larger batches until one does not fit into memory: a "
        "GPU's own, or on a CPU as much as --memory says. Validation is not tried (--data.val_batch_size). Options of "
        "the recipe may follow, as at `fit`: --trainer.precision bf16-mixed.",
        allow_abbrev=False,
    )
    part.add_argument(
        "--mode",
        choices=("power", "binsearch"),
        default="power",
        help="double the batch, or then search between the last that fits and the first that does not, and take 5 %% "
        "less (power)",
    )
    part.add_argument("--first", type=at_least(1), default=2, help="the first batch (2)")
    part.add_argument("--most", type=at_least(1), help="the largest batch to try (the images of the training split)")
    part.add_argument("--steps", type=at_least(1), default=3, help="optimiser steps of a trial (3)")
    part.add_argument(
        "--memory",
        type=_gigabytes,
        metavar="GB",
        help="on a CPU, memory that trials may take besides what the model takes before (80 %% of what is free)",
    )
    part.set_defaults(find=find_batch_size)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m tasks.find", description=__doc__.partition(": ")[2])
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    _add_rate(commands)
    _add_batch_size(commands)
    for part in commands.choices.values():
        part.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe, or the folder of a run")
    return parser


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    options, more = _parser().parse_known_args(args)
    from tasks.built import behind_recipe, build, read_source
    from tasks.command_line import run

    try:
        config, _, kind = read_source(options.recipe)
        if any(word.partition("=")[0] == "--ckpt_path" for word in more):
            raise TaskError("--ckpt_path continues a run; --model.weights begins with the weights of a checkpoint")
    except TaskError as error:
        end_with(error)
    options.built = build(kind, ["fit", f"--config={config}", *behind_recipe(more)])
    options.recipe_batch = options.built.data.batch_size
    run(partial(options.find, options))


if __name__ == "__main__":
    main()
