"""Lists of class names and colours: in text files, and those of MMSegmentation's data sets."""

import csv
import re
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

LIBRARY = "mmseg."
"""What the name of a data set of MMSegmentation's begins with, where a list of classes or colours is asked for."""

OBJECT_INFO = "objectInfo"
"""What the name of ADE20K's list of classes begins with."""

Colour = tuple[int, int, int]


def read_names(root: Path, source: str) -> list[str]:
    """Reads class names.

    Args:
        root: Folder that files are meant from.
        source: `mmseg.CityscapesDataset` and the like; or a text file: ADE20K's `objectInfo*`, a table with a column
            `name` (separated by commas or tabs; upper or lower case), or one name on each line.

    Raises:
        DataError: There is no such file or data set, a name is missing, or two classes have the same.
    """
    if source.startswith(LIBRARY):
        return list(_library(source)["classes"])
    if Path(source).name.startswith(OBJECT_INFO):
        return read_object_info(root / source)
    lines = read_lines(root / source)
    rows = _table(lines)
    named = [row["name"] or "" for row in rows] if rows and "name" in rows[0] else lines
    names = list(map(str.strip, named))
    if not names or not all(names):
        raise DataError(f"{root / source} has a class without a name; expected one name on each line, or a column name")
    return _distinct(names, root / source)


def read_object_info(path: Path) -> list[str]:
    """Reads the class names of ADE20K's `objectInfo*.txt` (tabs) or `objectInfo*.csv` (commas).

    Of several synonyms ("building, edifice") the first is kept, or all where two classes share the first.

    Raises:
        DataError: There is no column Name, or labels and names are not one to one.
    """
    rows = list(csv.DictReader(read_lines(path), delimiter="\t" if path.suffix == ".txt" else ","))
    synonyms = [[part.strip() for part in re.split("[;,]", row.get("Name") or "")] for row in rows]
    firsts = Counter(first for first, *_ in synonyms)
    names = [first if firsts[first] == 1 else ", ".join([first, *others]) for first, *others in synonyms]
    if not names or not all(names):
        raise DataError(f"{path} has no column Name, or an empty one; expected the columns Idx,...,Name")
    if any((row.get("Idx", str(number)) or "").strip() != str(number) for number, row in enumerate(rows, start=1)):
        raise DataError(f"{path}: the column Idx does not count 1, 2, ..., {len(rows)}; sort the lines by label")
    return _distinct(names, path)


def _distinct(names: list[str], path: Path) -> list[str]:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path} names several classes {repeated[:5]}; give every class a name of its own")
    return names


def read_colours(root: Path, source: str) -> list[Colour]:
    """Reads the colours of classes, in the order of the classes.

    Args:
        root: Folder that files are meant from.
        source: `mmseg.CityscapesDataset` and the like; or a table with columns `r`, `g` and `b`.

    Raises:
        DataError: There is no such file or data set, or it has no colours.
    """
    if source.startswith(LIBRARY):
        return [(red, green, blue) for red, green, blue in _library(source)["palette"]]
    try:
        rows = _table(read_lines(root / source))
        return [(int(row["r"]), int(row["g"]), int(row["b"])) for row in rows]
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{root / source} has no colours; expected columns r, g and b with numbers 0..255") from None


@cache
def published_colours(class_names: tuple[str, ...]) -> list[Colour] | None:
    """The colours in which MMSegmentation draws these classes: those of its data set with the same names.

    One name in ten may be another one, for lists are spelt differently ("television", "television receiver").
    """
    datasets = _data_sets()
    for data_set in datasets.__all__:
        facts = getattr(getattr(datasets, data_set), "METAINFO", {})
        classes, palette = facts.get("classes", ()), facts.get("palette", ())
        if len(classes) == len(palette) == len(class_names):
            equal = sum(one.strip() == other for one, other in zip(classes, class_names, strict=True))
            if equal >= 0.9 * len(class_names):
                return [(red, green, blue) for red, green, blue in palette]
    return None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: There is no such file, or it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a text file below the root") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    return [line for line in text.splitlines() if line.strip()]


def _table(lines: list[str]) -> list[dict[str, Any]]:
    """Rows by the names of their columns, which are in lower case."""
    if not lines:
        return []
    heading = lines[0].lower()
    separator = "\t" if "\t" in heading else ","
    columns = [column.strip() for column in heading.split(separator)]
    return list(csv.DictReader(lines[1:], columns, delimiter=separator))


def _library(source: str) -> dict[str, Any]:
    """What MMSegmentation says of a data set."""
    datasets = _data_sets()
    found = getattr(datasets, source.removeprefix(LIBRARY), None)
    facts = getattr(found, "METAINFO", {})
    if "classes" not in facts:
        known = [name for name in datasets.__all__ if "classes" in getattr(getattr(datasets, name), "METAINFO", {})]
        raise DataError(f"MMSegmentation has no data set {source!r}; it has {', '.join(sorted(known))}")
    return dict(facts)


def _data_sets() -> Any:
    """MMSegmentation's; imported here, because that takes seconds, and without what it prints of a reader it lacks."""
    with redirect_stdout(StringIO()):
        from mmseg import datasets
    return datasets
