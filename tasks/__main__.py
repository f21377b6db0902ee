"""`python -m tasks [KIND...]`: the commands, and what can be chosen in them, with a line about each."""

import ast
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from configs.mistakes import CommandParser, end_with, near
from configs.parts import recipe_names
from configs.version import add_version
from tasks.printed import show

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "tasks.detect",
    "tasks.segment",
    "tasks.compare",
    "tasks.sweep",
    "tasks.analyse",
    "tasks.profile",
    "tasks.find",
    "tasks.repeat",
    "datamodules.check",
    "datamodules.convert",
    "datamodules.shapes",
    "configs",
)
WIDTH = 100
Rows = list[tuple[str, str]]


def commands() -> Rows:
    """Commands; --help behind one shows its options."""
    return [(f"python -m {module}", _about(module)) for module in COMMANDS]


def backbones() -> Rows:
    """--model.backbone NAME: hosts with places for attention, and published networks."""
    from backbones import Backbone

    return _choices(Backbone)


def attention() -> Rows:
    """--model.backbone.attention NAME, and in heads: refinements behind a convolution."""
    from attention import Refine

    return _choices(Refine)


def mixers() -> Rows:
    """--model.backbone.mixer NAME: operators in place of spatial convolutions."""
    from attention import Mixer

    return _choices(Mixer)


def detectors() -> Rows:
    """--model.detector NAME, of tasks.detect."""
    from tasks.detectors import Detector

    return _choices(Detector)


def heads() -> Rows:
    """--model.segmentor.decode_head.type NAME: MMSegmentation's, and ours."""
    from tasks.choices import first_sentence

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmcv-lite's, about what no head of this list needs
        from tasks.segmentors.overview import head_names
        from tasks.segmentors.parts import find_class

        return [(name, first_sentence(find_class(name).__doc__)) for name in head_names()]


def schedules() -> Rows:
    """--model.lr_schedule NAME."""
    from tasks.schedules import Schedule

    return _choices(Schedule)


def pipelines() -> Rows:
    """--data.pipeline NAME: what training draws, and what validation sees."""
    from datamodules import DetectionPipeline, SegmentationPipeline

    return [*_choices(DetectionPipeline), *_choices(SegmentationPipeline)]


def recipes() -> Rows:
    """--config configs/NAME.yaml: data, model, optimiser, schedule and length of a paper."""
    return recipe_names()


KINDS: tuple[Callable[[], Rows], ...] = (
    commands,
    backbones,
    attention,
    mixers,
    detectors,
    heads,
    schedules,
    pipelines,
    recipes,
)


def page(names: Sequence[str]) -> str:
    """The lists of these kinds; without a name, the commands with a line each, of all else the names."""
    lines: list[str] = []
    if names:
        for kind in KINDS:
            if {kind.__name__, "all"} & {*names}:
                lines += [*_heading(kind), *_table(kind()), ""]
        return "\n".join(lines).rstrip()
    lines = [*_heading(commands), *_table(commands()), ""]
    for kind in KINDS[1:]:
        shown = ", ".join(name.removeprefix("backbones.") for name, _ in kind())
        lines += [*_heading(kind), *textwrap.wrap(shown, WIDTH, initial_indent="  ", subsequent_indent="  "), ""]
    return "\n".join([*lines, "python -m tasks KIND shows a line about each: python -m tasks attention"])


def _heading(kind: Callable[[], Rows]) -> list[str]:
    return [f"{kind.__name__}: {kind.__doc__}"]


def _choices(owner: type) -> Rows:
    from tasks.choices import choices

    return [(choice.name, choice.summary) for choice in choices(owner)]


def _about(module: str) -> str:
    """What the docstring of a command says behind the colon of its first line; nothing is imported for it."""
    path = ROOT / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    line = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
    before, _, after = line.partition(f"python -m {module}")
    return (after.partition(": ")[2] or before.rstrip(" `:") or line).rstrip("`.")


def _table(rows: Rows) -> Iterator[str]:
    column = max(len(name) for name, _ in rows) + 4
    for name, text in rows:
        yield f"  {name:<{column - 2}}{textwrap.shorten(text, WIDTH - column, placeholder=' ...')}".rstrip()


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = CommandParser(prog="python -m tasks", description="Shows the commands, and what can be chosen in them.")
    kinds = [kind.__name__ for kind in KINDS]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(kinds)} or all: a line about each")
    add_version(parser)
    names = parser.parse_args(args).kinds
    for name in names:
        if name not in (*kinds, "all"):
            end_with(f"{name} is no kind{near(name, [*kinds, 'all'])}")
    show(page(names))


if __name__ == "__main__":
    main()
