"""The digest of a file's content, remembered for as long as the file stands untouched."""

import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import xxhash

from datamodules.errors import DataError

_BLOCK = 1 << 19
_TIMESTAMP_SECONDS = 2.0
"""Coarsest time stamp of a common file system; a younger file may change again without its time stamp changing."""


def content_digest(source: Path, notes: Path) -> str:
    """128 bits (XXH3) of a file's content, as hexadecimal digits.

    A file whose size, time of modification, time of status change and inode are as at its last hashing is not hashed
    again. A rewrite that restores size and modification time still changes the status time, which no program can set;
    files younger than 2 s at hashing, which could change within one tick of a coarse clock, are hashed again at the
    next start. What remains is a file system that keeps no status time, or whose clock lags seconds behind.

    Args:
        source: The file.
        notes: Folder of the remembered digests.

    Raises:
        DataError: The file cannot be read.
    """
    before, now = stamp(source), time.time()
    note = notes / f"{xxhash.xxh3_128_hexdigest(os.fsencode(source.resolve()))}.json"
    if known := _noted_digest(note, before):
        return known
    digest = _digest(source)
    at_rest = now - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > _TIMESTAMP_SECONDS
    if at_rest and stamp(source) == before:
        _write_note(note, {**before, "digest": digest})
    return digest


def stamp(source: Path) -> dict[str, int]:
    """What differs after a file has been written to."""
    status = source.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _digest(source: Path) -> str:
    digest, block = xxhash.xxh3_128(), bytearray(_BLOCK)
    try:
        with source.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                digest.update(memoryview(block)[:size])
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}; check the file") from None
    return digest.hexdigest()


def _noted_digest(note: Path, expected: Mapping[str, int]) -> str | None:
    try:
        noted = json.loads(note.read_bytes())
        return str(noted["digest"]) if {**expected, "digest": noted["digest"]} == noted else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_note(note: Path, content: Mapping[str, object]) -> None:
    temporary = note.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content))
        temporary.replace(note)
    except OSError:  # without the note, the next start hashes the file
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass
