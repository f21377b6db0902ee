"""Looks into files, all or some of them: what was found is remembered for as long as they stay as they are."""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TypeVar

import xxhash

from datamodules.annotation_store import cache_folder
from datamodules.findings import Finding
from datamodules.preflight.report import Looked

FORMAT = 1
"""Raised whenever what a look finds, or how it says it, changes."""
SAMPLE = 100
"""Files that are looked into before a run where nothing is remembered."""
_THREADS = 8
"""Most of a look is waiting for the disk, or decoding, which other threads do not wait for."""

Result = TypeVar("Result")
Files = Callable[[int], Sequence[Path]]


def look_into(
    kind: str,
    about: Sequence[object],
    files: Files,
    count: int,
    whole: bool,
    look: Callable[[Sequence[int]], Looked],
) -> Looked:
    """Looks into all files of a split, takes what is remembered of that, or else looks into some of them.

    Args:
        kind: What is looked for.
        about: All that the findings depend on, apart from the files' content.
        files: The files at each place.
        count: Number of places.
        whole: Look into all files.
        look: Looks into the files at some places.
    """
    key = xxhash.xxh3_128_hexdigest("\0".join(map(str, (FORMAT, kind, *about))).encode(errors="surrogateescape"))
    entry = cache_folder() / "looks" / f"{key}.json"
    everything = range(count)
    if whole:
        return _look_once(entry, files, everything, look)
    if entry.exists() and (remembered := _recall(entry, stamps(files, everything))):
        return remembered
    some, entry = sorted(Random(0).sample(everything, min(count, SAMPLE))), entry.with_suffix(".some.json")
    return _look_once(entry, files, some, look)


def each(function: Callable[[int], Result], places: Sequence[int]) -> Iterator[Result]:
    """Calls a function that reads files for each place; the results come in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(function, places, chunksize=1)


def _look_once(entry: Path, files: Files, places: Sequence[int], look: Callable[[Sequence[int]], Looked]) -> Looked:
    """Looks, or takes what is remembered where the files are as they were."""
    now = stamps(files, places)
    if remembered := _recall(entry, now):
        return remembered
    looked = look(places)
    _remember(entry, now, looked)
    return looked


def stamps(files: Files, places: Sequence[int]) -> str:
    """A hash of places, and of size and time of modification of their files."""
    digest = xxhash.xxh3_128(f"{len(places)};".encode())
    for path in (path for place in places for path in files(place)):
        try:
            status = os.stat(path)
            digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
        except OSError:
            digest.update(b"-;")
    return digest.hexdigest()


def _recall(entry: Path, now: str) -> Looked | None:
    try:
        content = json.loads(entry.read_bytes())
        if content["stamps"] != now:
            return None
        return Looked(content["facts"], [Finding(**finding) for finding in content["findings"]], content["words"])
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is damaged
        return None


def _remember(entry: Path, now: str, looked: Looked) -> None:
    temporary = entry.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"stamps": now, **asdict(looked)}))
        temporary.replace(entry)
    except OSError:  # without a cache, the next check looks again
        temporary.unlink(missing_ok=True)
