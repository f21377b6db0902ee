"""Names that a user may have meant."""

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

NEAR = 0.7
"""Similarity from which a name is offered: two letters of seven may be wrong."""
LISTED = 20
"""Names that are listed where none is near."""


def instead(typed: str, known: Sequence[str], where: str = "--help all") -> str:
    """What to write instead of a name.

    Args:
        typed: The name that is unknown; with dots, its last part counts most. Of options, those of its group are
            offered before all others.
        known: All names.
        where: What lists all of them.

    Returns:
        `; did you mean X or Y?`, or all names where none is near and they fit in a line.
    """
    scores = {name: similarity(typed, name) for name in known}
    if typed.startswith("--"):
        beside = {name: score for name, score in scores.items() if _group(name) == _group(typed) and score >= NEAR}
        scores = beside or scores
    best = max(scores.values(), default=0.0)
    near = sorted((name for name in scores if scores[name] >= max(NEAR, best - 0.1)), key=lambda name: -scores[name])
    if near:
        return f"; did you mean {listed(near[:3])}?"
    short = [name.rpartition(".")[2] if name.startswith("--") else name for name in known]
    return f"; known: {', '.join(short)}" if 0 < len(short) <= LISTED else f"; {where} lists all"


def similarity(typed: str, name: str) -> float:
    """How near a name is to a typed one, in 0..1.

    In one group (`--data.`) the last part decides; it also counts alone: `--batch_size` for `--data.batch_size`.
    """
    (group, _, end), (own_group, _, own_end) = (text.lower().lstrip("-").rpartition(".") for text in (typed, name))
    ends = SequenceMatcher(None, end, own_end).ratio()
    if end == "".join(letter for letter in name.rpartition(".")[2] if letter.isupper()).lower():
        return 1.0  # se for SqueezeExcitation
    return ends if group == own_group else max(0.99 * ends, SequenceMatcher(None, typed, name).ratio())


def _group(name: str) -> str:
    return name.rpartition(".")[0].lower()


def missing_file(path: Path) -> str:
    """Says that a file is missing, with files of nearly that name beside it.

    Args:
        path: The file.
    """
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if "*" in path.name:
        return f"no file {shown}; expected the name of one file"
    beside = {file.name: str(shown.parent / file.name) for file in sorted(path.parent.glob(f"*{path.suffix}"))}
    near = [beside[name] for name in get_close_matches(path.name, beside, cutoff=NEAR)]
    if not near:
        near = [str(file) for file in sorted(Path("configs").glob(f"*/{path.stem}.yaml"))]
    return f"no file {shown}" + (f"; did you mean {listed(near[:3])}?" if near else "")


def listed(names: Sequence[str], conjunction: str = "or") -> str:
    """`a, b or c`."""
    return f" {conjunction} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
