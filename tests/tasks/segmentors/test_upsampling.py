"""Labels at the original size: equal to resizing all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.segmentors import upsampling
from tasks.segmentors.upsampling import argmax_at

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def assert_plain(logits: Tensor, size: tuple[int, int], align_corners: bool) -> None:
    """Equal to the plain form wherever the two best classes differ by more than rounding."""
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)[0]
    found = argmax_at(logits, size, align_corners)
    assert found.shape == size and found.dtype == torch.int64
    chosen = resized.gather(0, found[None])[0]
    assert (resized.amax(dim=0) - chosen).max() <= 1e-5 * logits.abs().max()
    assert (found != resized.argmax(dim=0)).float().mean() <= 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_classes", [1, 2, 19, 150])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((32, 43), (128, 171)),
        ((37, 53), (101, 47)),
        ((64, 64), (31, 17)),
        ((64, 64), (64, 64)),
        ((64, 30), (64, 97)),
        ((1, 1), (5, 7)),
        ((9, 1), (1, 9)),
        ((200, 3), (1, 1)),
    ],
)
def test_equal_to_the_plain_form(device: str, num_classes: int, source: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    noise = torch.randn(1, num_classes, *source, generator=generator).to(device)
    coarse = torch.randn(1, num_classes, 5, 6, generator=generator).to(device) * 4
    smooth = F.interpolate(coarse, size=source, mode="bicubic") + noise / 10
    for logits in (noise, smooth, noise.contiguous(memory_format=torch.channels_last)):
        for align_corners in (False, True):
            assert_plain(logits, size, align_corners)


@pytest.mark.parametrize("band", [1, 700, 5000])
def test_bands_do_not_matter(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 7, 40, 33)
    sizes = [(90, 71), (13, 80), (41, 33)]
    whole = [argmax_at(logits, size) for size in sizes]
    monkeypatch.setitem(upsampling.BAND, "cpu", band)
    assert all(torch.equal(argmax_at(logits, size), labels) for size, labels in zip(sizes, whole, strict=True))


def test_first_of_equal_classes_wins() -> None:
    for size in [(8, 9), (20, 31), (3, 4)]:
        assert not argmax_at(torch.ones(1, 150, 8, 9), size).any()


def test_half_precision_is_resized_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 19, 24, 32).bfloat16()
    assert torch.equal(argmax_at(logits, (70, 90)), argmax_at(logits.float(), (70, 90)))


def test_input_is_left_alone() -> None:
    logits = torch.randn(1, 5, 12, 12)
    before = logits.clone()
    argmax_at(logits, (24, 24))
    argmax_at(logits, (12, 12))
    assert torch.equal(logits, before)
