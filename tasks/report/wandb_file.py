"""What a file of W&B's, `run-ID.wandb`, says of a run; read with W&B's own description of its records.

The file is a log in LevelDB's format: blocks of 32 KiB, cut into chunks with a checksum, of which one or several make a
record. W&B itself reads it only in its program `wandb-core`, to upload it.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<4sHB")
START = (b":W&B", 0xBEE1, 0)
BLOCK = 32_768
CHUNK = struct.Struct("<IHB")
"""Checksum, length and kind of a chunk."""
WHOLE, FIRST, LAST = 1, 2, 4
"""Kinds of chunks; 3 lies between a first and a last one, 0 fills up."""


@dataclass
class Logged:
    """A run as W&B has it.

    Attributes:
        name: Its name.
        id: Its id.
        state: `finished`, `failed`, `crashed`, `killed` or `running`, as W&B says.
        exit_code: What its process ended with; None where that is not known.
        config: Its options by their names.
        summary: Its summary.
        rows: Its history.
    """

    name: str
    id: str
    state: str = "running"
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def read_file(path: Path) -> Logged:
    """Reads the file of a run that is over or goes on; a record that is cut at its end is left out.

    Raises:
        ValueError: It is no file of W&B's, or is damaged; the message is one line.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    run = Logged(path.stem, path.stem.removeprefix("run-"))
    try:
        for data in records(path.read_bytes()):
            _add(run, Record.FromString(data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return run


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log, as far as they are whole.

    Raises:
        ValueError: It is no log of W&B's, or a checksum is wrong.
    """
    if len(data) < HEADER.size or HEADER.unpack_from(data) != START:
        raise ValueError("it does not begin as a file of W&B's")
    place, record = HEADER.size, b""
    while True:
        if BLOCK - place % BLOCK < CHUNK.size:
            place += BLOCK - place % BLOCK  # no room for a chunk: filled up
        if place + CHUNK.size > len(data):
            return
        checksum, length, kind = CHUNK.unpack_from(data, place)
        place += CHUNK.size
        content = data[place : place + length]
        if len(content) < length or (checksum, length, kind) == (0, 0, 0):
            return
        if zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"it is damaged at byte {place}")
        place += length
        record = content if kind in (WHOLE, FIRST) else record + content
        if kind in (WHOLE, LAST):
            yield record


def _add(run: Logged, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.name = record.run.display_name or run.name
        _update(run.config, record.run.config.update)
    elif kind == "config":
        _update(run.config, record.config.update)
    elif kind == "summary":
        _update(run.summary, record.summary.update)
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, record.history.item)
        run.rows.append(row)
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
        run.state = "failed" if run.exit_code else "finished"


def _update(content: dict[str, Any], items: Iterable[Any]) -> None:
    for item in items:
        *above, name = item.nested_key or [item.key]
        place: dict[str, Any] = content
        for part in above:
            inner = place.setdefault(part, {})
            place = inner if isinstance(inner, dict) else place
        place[name] = json.loads(item.value_json)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of the history; W&B writes what is not finite as text."""
    return {name: value for name, value in row.items() if type(value) in (int, float)}
