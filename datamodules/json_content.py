"""A json file of unknown origin as Python objects, or one line that says why not."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_RECORD_DEPTH = 3
"""Brackets around a record's entries: the file's, its list's and its own."""
_CONVERTIBLE_DIGITS = 640
"""Every Python converts integers of so many digits."""


def read_json(path: Path) -> Any:
    """Reads a file in UTF-8, with or without a byte order mark.

    An integer of very many digits becomes an infinite float: whoever expects an integer or a finite number there can
    then name the place.

    Raises:
        DataError: The file is not json, not UTF-8, or nested too deep for Python's stack.
    """
    _check_encoding(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            return _parse(text)
        except RecursionError:
            depth, where = max(_depths(_parse("".join(_shortened(text)))))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, or copy it again") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not a json file ({error}); it may be truncated, copy it again") from None
    raise DataError(f"{path}: {where} is nested {depth} deep, expected lists of numbers; correct it or take it out")


def _check_encoding(path: Path) -> None:
    with path.open("rb") as stream:
        encoding = json.detect_encoding(stream.read(4))
    if not encoding.startswith("utf-8"):
        raise DataError(
            f"{path} is {encoding.upper()} text, as Windows writes it, expected UTF-8; save it as UTF-8, with: "
            f"iconv -f {encoding.upper()} -t UTF-8"
        )


def _parse(text: str) -> Any:
    return json.loads(text, parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _CONVERTIBLE_DIGITS else float(digits)


def _shortened(text: str) -> Iterator[str]:
    """The same text, with every list and object inside a record replaced by a list of one number: how deep it is."""
    depth = deepest = kept = 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if depth == _RECORD_DEPTH + 1:
                yield text[kept : token.start()]
        elif token[0] in "]}":
            depth -= 1
            if depth == _RECORD_DEPTH:
                yield f"[{deepest - depth}]"
                deepest, kept = 0, token.end()
    if depth <= _RECORD_DEPTH:
        yield text[kept:]


def _depths(shortened: Any) -> Iterator[tuple[int, str]]:
    """How deep the entries of every record are, with its place and id."""
    for key, records in _entries(shortened):
        for place, record in _entries(records):
            number = f" (id {record.get('id')})" if isinstance(record, dict) else ""
            for _, value in _entries(record):
                if isinstance(value, list):
                    yield value[0], f"entry {place} of {key!r}{number}"


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()
