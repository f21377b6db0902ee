"""One checksum of a large file whose pieces are looked at by several threads: that halves a start."""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import xxhash

PIECE = 1 << 24
"""Bytes; what is smaller costs more calls."""
_THREADS = min(4, os.cpu_count() or 1)


class PieceChecksum:
    """The checksum of the checksums of all pieces of `PIECE` bytes, of bytes that come in parts of any length."""

    def __init__(self) -> None:
        self._pieces, self._piece, self._room = xxhash.xxh3_64(), xxhash.xxh3_64(), PIECE

    def update(self, part: bytes) -> None:
        """Goes on with some bytes."""
        rest = memoryview(part)
        while rest:
            now, rest = rest[: self._room], rest[self._room :]
            self._piece.update(now)
            self._room -= len(now)
            if not self._room:
                self._close()

    def intdigest(self) -> int:
        """The checksum, once all bytes were seen."""
        if self._room < PIECE:
            self._close()
        return self._pieces.intdigest()

    def _close(self) -> None:
        self._pieces.update(self._piece.digest())
        self._piece, self._room = xxhash.xxh3_64(), PIECE


def checksum(content: memoryview) -> int:
    """What `PieceChecksum` gives for these bytes. Pages of a mapped file count as memory until they are given back."""

    def of_piece(start: int) -> bytes:
        piece = content[start : start + PIECE]
        digest = xxhash.xxh3_64_digest(piece)
        if isinstance(content.obj, mmap.mmap):
            content.obj.madvise(mmap.MADV_DONTNEED, start, len(piece))
        return digest

    with ThreadPoolExecutor(_THREADS) as threads:
        return xxhash.xxh3_64_intdigest(b"".join(threads.map(of_piece, range(0, len(content), PIECE))))
