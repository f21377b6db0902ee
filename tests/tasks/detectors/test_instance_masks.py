"""Masks of boxes, against pasting into whole images and pycocotools' encoder."""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, paste_masks_in_image

from tasks.detectors import instance_masks
from tasks.detectors.instance_masks import encode_masks
from tasks.detectors.two_stage.convention import ConventionName
from tasks.metrics.rle import EncodedMask

CONVENTIONS: tuple[ConventionName, ConventionName] = ("mmdetection", "torchvision")


def paste_slowly(maps: Tensor, boxes: Tensor, size: tuple[int, int], convention: ConventionName) -> Tensor:
    """All masks (N, H, W) at full size."""
    if convention == "torchvision":
        masks = torch.zeros(len(maps), *size, dtype=torch.bool)
        whole = expand_boxes(boxes, (maps.shape[-1] + 2) / maps.shape[-1]).long()
        meets = ((whole[:, 2:] >= 0) & (whole[:, :2] < torch.tensor(size[::-1]))).all(dim=1)  # it fails on the others
        masks[meets] = paste_masks_in_image(maps[meets, None], boxes[meets], size)[:, 0] > 0.5
        return masks
    start, stop = boxes[:, None, :2], boxes[:, None, 2:]
    grids = []
    for axis in (0, 1):
        centres = torch.arange(size[1 - axis]) + 0.5
        grids.append((centres - start[..., axis]) / (stop - start)[..., axis] * 2 - 1)
    across, down = torch.broadcast_tensors(grids[0][:, None, :], grids[1][:, :, None])
    pasted = F.grid_sample(maps[:, None], torch.stack([across, down], dim=-1), align_corners=False)[:, 0]
    return (pasted >= 0.5) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)[:, None, None]


def some_boxes(seed: int, count: int, cells: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maps from smooth to noise; boxes within, across, beyond and around the image, thin ones, one without height."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    scale = torch.tensor([width, height])
    corners = torch.rand(count, 2, generator=random) * 1.4 * scale - 0.2 * scale
    sides = torch.rand(count, 2, generator=random) ** 2 * scale
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[0] = torch.tensor([-3.0, -2.0, width + 4.0, height + 9.0])
    boxes[1] = torch.tensor([0.0, 0.0, width, height])
    boxes[2] = torch.tensor([7.25, 0.0, 7.75, height])
    boxes[3] = torch.tensor([3.0, 10.5, 20.0, 10.5])
    boxes[4] = torch.tensor([4.0, -30.0, 9.0, -6.0])
    boxes[5] = torch.tensor([10.0, 12.0, width, height])
    maps = torch.rand(count, 1, cells, cells, generator=random)
    smooth = F.interpolate(F.avg_pool2d(maps, 4, 3), (cells, cells), mode="bicubic").clamp(0, 1)
    maps = torch.where(torch.arange(count)[:, None, None, None] % 2 == 0, maps, smooth)[:, 0]
    maps[:2] = maps[:2] * 0.02 + 0.98  # nearly the whole image: a column goes on in the next
    return maps, boxes


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("size", "cells"), [((61, 83), 14), ((120, 47), 28)])
def test_masks_are_those_of_whole_images(
    convention: ConventionName, size: tuple[int, int], cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, boxes = some_boxes(cells, 60, cells, size)
    masks = paste_slowly(maps, boxes, size, convention)
    assert masks[0].all() and masks[1].float().mean() > 0.9 and not masks[4].any()
    assert masks[3].any() == (convention == "torchvision") and masks[6:].any(2).any(1).sum() > 20
    wanted = [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks]
    found = encode_masks(maps, boxes, size, convention)
    assert found == wanted
    assert [mask.area for mask in found] == masks.sum(dim=(1, 2)).tolist()
    monkeypatch.setattr(instance_masks, "PIXELS_AT_ONCE", 400)
    assert encode_masks(maps, boxes, size, convention) == wanted
    assert encode_masks(maps[7:8], boxes[7:8], size, convention) == wanted[7:8]


@pytest.mark.parametrize(("convention", "belongs"), zip(CONVENTIONS, (True, False), strict=True))
def test_one_half_is_decided_by_the_convention(convention: ConventionName, belongs: bool) -> None:
    box = torch.tensor([[2.0, 3.0, 8.0, 7.0]])
    (mask,) = encode_masks(torch.full((1, 4, 4), 0.5), box, (9, 12), convention)
    assert bool(coco_mask.decode(mask)[5, 5]) is belongs


def test_what_is_handed_in() -> None:
    """Any precision; nothing at all; boxes that are no numbers are left to the metric, which names the image."""
    maps, boxes = torch.ones(2, 6, 6), torch.tensor([[1.0, 2.0, 5.0, 8.0], [0.0, float("nan"), float("inf"), 3.0]])
    full, empty = encode_masks(maps.bfloat16(), boxes, (10, 12))
    assert isinstance(full, EncodedMask) and full.area == 24 and coco_mask.decode(full)[2:8, 1:5].all()
    assert coco_mask.area(empty) == 0
    for again in (pickle.loads(pickle.dumps(full)), move_data_to_device([full], "cpu")[0]):
        assert again == full and type(again) is EncodedMask and again.area == 24
    with pytest.raises(ValueError, match="do not add up to height x width = 9 x 12 pixels"):
        EncodedMask({**full, "size": [9, 12]})
    assert encode_masks(maps[:0], boxes[:0], (10, 12)) == []
    with pytest.raises(ValueError, match="convention must be 'mmdetection' or 'torchvision', got 'detectron2'"):
        encode_masks(maps, boxes, (10, 12), "detectron2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shapes \(N, M, M\) and \(N, 4\), got \(2, 6, 5\) and \(2, 4\)"):
        encode_masks(maps[..., :5], boxes, (10, 12))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_memory_is_not_that_of_n_images(convention: ConventionName) -> None:
    """60 boxes of 540,000 pixels would be 130 MB of probabilities and 32 MB of masks."""
    maps, boxes = torch.ones(60, 28, 28), torch.tensor([[0.0, 0.0, 900.0, 600.0]]).repeat(60, 1)
    encode_masks(maps[:2], boxes[:2], (600, 900), convention)
    tracemalloc.start()
    encode_masks(maps, boxes, (600, 900), convention)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    weights = 60 * (900 + 600) * 28 * 4
    assert peak < 2 * instance_masks.PIXELS_AT_ONCE + 2 * 4 * 540_000 + 4 * weights
