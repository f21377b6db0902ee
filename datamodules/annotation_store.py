"""Packed columns of an annotation file, kept on disk and mapped into memory by every process that needs them.

One file per content: ``<digest of the annotation file>-<format>.columns`` in the cache folder. It is written beside its
place and renamed into it, so that no process ever sees half of it. Every start compares the checksum of the whole file
(`piece_checksum.py`), in 0.04 s for train2017. Processes that start at once each build it and the last rename wins:
that costs some seconds of one start, where a lock on a network drive could cost the run.

    magic | column | column | ... | table of contents (json) | length of the table | checksum of all before | magic
"""

import json
import mmap
import os
import struct
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.content_digest import content_digest, stamp
from datamodules.errors import DataError
from datamodules.piece_checksum import PieceChecksum, checksum

Column = NDArray[Any]
WriteBytes = Callable[[bytes], object]
Build = Callable[[Path, WriteBytes], Mapping[str, Column]]
"""Reads a file into columns. The bytes of the column `blob`, too large for memory, it hands over piece by piece."""

FORMAT = 4
"""Raised whenever the columns or their meaning change."""

_MAGIC = b"attndense table\n"
_LENGTH = struct.Struct("<Q")
_SEAL = struct.Struct(f"<Q{len(_MAGIC)}s")
_ALIGNMENT = 64
_BLOB = "blob"
_UNUSED_SECONDS = 60 * 24 * 3600.0
_ABANDONED_SECONDS = 24 * 3600.0


class Columns(NamedTuple):
    """Read-only arrays by name.

    Attributes:
        arrays: The columns, and `blob`, the bytes.
        path: The file they are mapped from; None where they lie in the memory of this process.
    """

    arrays: dict[str, Column]
    path: Path | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to a spawned worker as a path, so that it maps the same pages."""
        return (Columns, tuple(self)) if self.path is None else (reopen_columns, (self.path,))


def cache_folder() -> Path:
    """$ATTNDENSE_CACHE, or `attndense` in the user's cache folder."""
    if chosen := os.environ.get("ATTNDENSE_CACHE"):
        return Path(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The specification tells to ignore relative paths.
    return Path(xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")) / "attndense"


def load_columns(source: Path, build: Build, kind: str = "") -> Columns:
    """The columns of a file: mapped from the cache where it holds them, else built, stored and mapped.

    Args:
        source: The annotation file.
        build: Makes its columns.
        kind: Name of columns that not every run needs and that are stored by themselves.

    Raises:
        DataError: The file cannot be read, or changes while it is being read.
    """
    folder = cache_folder()
    before = stamp(source)
    digest = content_digest(source, folder / "sources")
    entry = folder / f"{digest}-{FORMAT}{kind}.columns"

    def unchanging(source: Path, write: WriteBytes) -> Mapping[str, Column]:
        """Builds, and raises before columns of other content are stored under this digest."""
        arrays = build(source, write)
        if stamp(source) != before:
            raise DataError(f"{source} changed while it was read; start again when it is complete")
        return arrays

    if columns := _open(entry, digest):
        return columns
    if entry.exists():
        warnings.warn(f"{entry} was changed or damaged: it is written anew from {source}", stacklevel=4)
    return _store(entry, digest, source, unchanging)


def reopen_columns(path: Path) -> Columns:
    """Maps a stored file again."""
    columns = _open(path, path.name.partition("-")[0])
    if columns is None:
        raise DataError(f"{path} was removed or damaged while a run used it; start the run again")
    return columns


def _store(entry: Path, digest: str, source: Path, build: Build) -> Columns:
    temporary = entry.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _sweep(entry.parent)
        with temporary.open("xb", buffering=1 << 20) as stream:
            _write(stream, digest, source, build)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(entry)
        if columns := _open(entry, digest):
            return columns
        reason: str | None = "what was written reads back differently"
    except OSError as error:
        reason = error.strerror
    finally:
        _remove(temporary)
    warnings.warn(
        f"no annotation cache in {entry.parent} ({reason}): every start reads the whole annotation file; set "
        "ATTNDENSE_CACHE to a folder that can be written",
        stacklevel=2,
    )
    stream = BytesIO()
    _write(stream, digest, source, build)
    arrays = _parse(stream.getbuffer().toreadonly(), digest)
    assert arrays is not None
    return Columns(arrays, None)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder has become read-only, or is no folder
        pass


def _sweep(folder: Path) -> None:
    """Removes what killed processes left behind and what no run has opened for two months."""
    now = time.time()
    for pattern, seconds in (("*.columns", _UNUSED_SECONDS), (".*.tmp", _ABANDONED_SECONDS)):
        for path in folder.glob(pattern):
            try:
                if now - path.stat().st_mtime > seconds:
                    path.unlink()
            except OSError:  # another process was faster, or it is another user's
                continue


def _write(stream: BinaryIO, digest: str, source: Path, build: Build) -> None:
    size, seal = 0, PieceChecksum()

    def append(piece: bytes) -> None:
        nonlocal size
        seal.update(piece)
        size += stream.write(piece)

    append(_MAGIC)
    table: dict[str, Any] = {}
    arrays = build(source, append)
    table[_BLOB] = {"dtype": "|u1", "shape": [size - len(_MAGIC)], "offset": len(_MAGIC)}
    for name, array in arrays.items():
        append(bytes(-size % _ALIGNMENT))
        table[name] = {"dtype": array.dtype.str, "shape": array.shape, "offset": size}
        append(array.tobytes())
    text = json.dumps({"format": FORMAT, "source": digest, "columns": table}).encode()
    append(text + _LENGTH.pack(len(text)))
    stream.write(_SEAL.pack(seal.intdigest(), _MAGIC))


def _open(entry: Path, digest: str) -> Columns | None:
    """Maps a stored file; None where there is none, or not what this release has written."""
    try:
        with entry.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None
    arrays = _parse(memoryview(content), digest)
    if arrays is None:
        return None
    try:
        os.utime(entry)  # in use: _sweep leaves it
    except OSError:
        pass
    return Columns(arrays, entry)


def _parse(content: memoryview, digest: str) -> dict[str, Column] | None:
    """Columns as views of the content, or None if anything is amiss."""
    if len(content) < _SEAL.size:
        return None
    sealed = content[: len(content) - _SEAL.size]
    if _SEAL.unpack(content[len(sealed) :]) != (checksum(sealed), _MAGIC):
        return None
    end = len(sealed) - _LENGTH.size
    (length,) = _LENGTH.unpack(sealed[end:])
    table = json.loads(bytes(sealed[end - length : end]))
    if table["format"] != FORMAT or table["source"] != digest:
        return None
    arrays = {}
    for name, entry in table["columns"].items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, dtype, count, entry["offset"]).reshape(shape)
    return arrays
