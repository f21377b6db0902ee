"""Sums over many windows: in a file, and the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks import room
from tasks.segmentors import SlideInference


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files of temporary numbers lie: few numbers are many here."""
    monkeypatch.setattr(room, "LARGE", 40_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> int:
    """Files of a folder that are mapped into this process."""
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_many_zeros_are_a_file_that_goes_with_them(kind: torch.dtype, folder: Path) -> None:
    like = torch.ones(1, dtype=kind)
    few, many = (room.zeros((rows, 5, 4), like) for rows in (20, 2001))
    assert files(folder) == 1 and not list(folder.iterdir())
    for zeros in (few, many):
        assert zeros.dtype == kind and not zeros.any()
        zeros += 1
        assert int(zeros.sum(dtype=torch.float64)) == zeros.numel()
    del many, zeros
    assert files(folder) == 0


def test_where_the_disk_is_full_memory_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert room.zeros((2001, 5, 4), torch.ones(1)).shape == (2001, 5, 4) and files(folder) == 0


@pytest.mark.parametrize("options", [{"blend": True}, {"flip": True}, {}], ids=str)
@pytest.mark.parametrize("size", [(150, 230), (190, 201)])
def test_labels_are_those_in_memory(
    options: dict[str, bool], size: tuple[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.randn(7, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    image = torch.randint(0, 256, (1, 3, 150, 230), generator=torch.Generator().manual_seed(1))
    mapped: list[int] = []

    def logits(windows: Tensor) -> Tensor:
        mapped.append(files(folder))
        return functional.conv2d(windows.float(), weights, padding=1)

    inference = SlideInference((60, 50), (35, 40), **options)
    found = inference.labels([image], logits, size)
    assert max(mapped) > 0 and files(folder) == 0
    monkeypatch.setattr(room, "LARGE", 10**9)
    mapped.clear()
    assert torch.equal(found, inference.labels([image], logits, size)) and max(mapped) == 0
