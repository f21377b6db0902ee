"""The checksum does not depend on how the bytes come, and no change of them goes unseen."""

import mmap
from pathlib import Path

import pytest
import xxhash

from datamodules import piece_checksum
from datamodules.piece_checksum import PieceChecksum, checksum

BYTES = bytes(number * number % 251 for number in range(3 * 4096 + 17))


@pytest.mark.parametrize("length", [0, 1, 4096, 2 * 4096, len(BYTES)])
@pytest.mark.parametrize("parts", [1, 1000, 5000, 20000])
def test_it_is_the_checksum_of_the_checksums_of_pieces(
    length: int, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piece_checksum, "PIECE", 4096)
    content = BYTES[:length]
    digests = [xxhash.xxh3_64_digest(content[start : start + 4096]) for start in range(0, length, 4096)]
    expected = xxhash.xxh3_64_intdigest(b"".join(digests))
    written = PieceChecksum()
    for start in range(0, length, parts):
        written.update(content[start : start + parts])
    assert written.intdigest() == checksum(memoryview(content)) == expected
    if length:
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        assert checksum(memoryview(mapped)) == expected


def test_pieces_that_change_places_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_checksum, "PIECE", 4096)
    assert checksum(memoryview(BYTES[4096:8192] + BYTES[:4096])) != checksum(memoryview(BYTES[:8192]))
