"""Decoded images on the disk, mapped into memory: of a large image only the part that is looked at is read."""

import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from datamodules.annotation_store import cache_folder

FORMAT = 1
"""Raised whenever the same file and options decode to other pixels."""


_PARSES = threading.Lock()
"""A header of NumPy is parsed as Python, which fails now and then in two threads at once (CPython's gh-106905)."""


def decoded_folder() -> Path:
    """Where decoded images are."""
    return cache_folder() / "decoded"


class KeptDecoded:
    """A decoder that keeps what it has decoded, as an array in a file that is mapped, never read as a whole.

    A copy belongs to its file's path, size and time of modification, to the decoder's options and to what the
    annotations say. Processes that decode the same file at once each write it, and the last rename wins. Where the disk
    is full, pixels are handed on without a copy.

    Args:
        decode: Decodes a file into pixels; a `ReadImage` or another function of a path.
        about: All options that its result depends on, beside those of a call.
    """

    def __init__(self, decode: Callable[..., NDArray[Any]], about: str) -> None:
        self.decode, self.about = decode, about

    def __call__(self, path: Path, **options: Any) -> NDArray[Any]:
        """Pixels of a file, mapped read-only.

        Raises:
            DataError: Of the decoder.
        """
        copy = self._copy(path, options)
        if copy is not None and (pixels := _mapped(copy)) is not None:
            return pixels
        pixels = self.decode(path, **options)
        if copy is None or not _keep(copy, pixels):
            return pixels
        return pixels if (kept := _mapped(copy)) is None else kept

    def _copy(self, path: Path, options: dict[str, Any]) -> Path | None:
        """The copy of a file, which need not exist; None where there is no file, which the decoder then says."""
        try:
            status = path.stat()
        except OSError:
            return None
        parts = FORMAT, path.resolve(), status.st_size, status.st_mtime_ns, self.about, sorted(options.items())
        key = xxhash.xxh3_128_hexdigest("\0".join(map(str, parts)).encode(errors="surrogateescape"))
        return decoded_folder() / f"{key}.npy"


def _mapped(copy: Path) -> NDArray[Any] | None:
    try:
        with _PARSES:
            pixels: NDArray[Any] = np.load(copy, mmap_mode="r", allow_pickle=False)
        return pixels
    except (OSError, EOFError, ValueError):  # there is none, or it is damaged
        return None


def _keep(copy: Path, pixels: NDArray[Any]) -> bool:
    temporary = copy.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before what is renamed
        temporary.replace(copy)
        return True
    except OSError:  # no room: the next tile decodes again
        return False
    finally:
        temporary.unlink(missing_ok=True)  # there is none any more, unless something has come between
