"""Detection in windows: every object once, wherever borders cut it, in original pixels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_iou

from tasks.detectors.base import Detector
from tasks.detectors.moved_masks import move_masks
from tasks.detectors.window_merging import Found, merge
from tasks.detectors.windows import WindowedDetection, Windows
from tasks.metrics.rle import EncodedMask, mask_areas

HEIGHT, WIDTH = 310, 427


class Oracle(Detector):
    """Finds what is left in its image of rectangles that are painted in grey levels of their own.

    The less it sees of one, the higher it scores that: what no merge of boxes by scores alone gets right.
    """

    with_masks = True

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch: dict) -> list[dict]:
        assert not self.training
        self.shapes.append(tuple(batch["image"].shape))
        found = [
            self.of_image(image[0, :height, :width])
            for image, (height, width) in zip(batch["image"], batch["size"].tolist(), strict=True)
        ]
        found = self.to_original(found, batch)
        for detections, target in zip(found, batch["targets"], strict=True):
            height, width = target["original_size"].tolist()
            masks = np.zeros((height, width, len(detections["boxes"])), np.uint8, order="F")
            for number, box in enumerate(detections["boxes"].round().int().tolist()):
                masks[box[1] : box[3], box[0] : box[2], number] = 1
            detections["masks"] = coco_mask.encode(masks) if len(detections["boxes"]) else []
        return found

    def of_image(self, levels: Tensor) -> dict[str, Tensor]:
        boxes, scores, labels = [], [], []
        for level in levels.unique().tolist():
            if level:
                rows, columns = torch.nonzero(levels == level, as_tuple=True)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                scores.append(1 - len(rows) / levels.numel())
                labels.append(level % 3)
        order = np.argsort([-score for score in scores], kind="stable").tolist()
        return {
            "boxes": torch.tensor([boxes[place] for place in order], dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor([scores[place] for place in order], dtype=torch.float32),
            "labels": torch.tensor([labels[place] for place in order], dtype=torch.int64),
        }

    def loss_modules(self) -> list:
        return [self]

    def class_tensors(self) -> dict:
        return {}


def painted(boxes: list[list[int]], height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    for level, (left, top, right, bottom) in enumerate(boxes, 1):
        image[..., top:bottom, left:right] = level
    return image


def batch_of(image: Tensor, original: tuple[int, int] | None = None) -> dict:
    size = torch.tensor([image.shape[-2:]])
    return {"image": image, "size": size, "targets": [{"original_size": torch.tensor(original or image.shape[-2:])}]}


def detect(windows: Windows, image: Tensor, original: tuple[int, int] | None = None) -> dict[str, Tensor]:
    (found,) = WindowedDetection(windows)(Oracle().eval(), batch_of(image, original))
    assert all(first >= second for first, second in pairwise(found["scores"].tolist()))
    return found


def scattered(side: int, seed: int) -> list[list[int]]:
    """Rectangles of up to a side, one in each cell of a grid, so that they do not touch."""
    random = np.random.default_rng(seed)
    boxes = []
    for top in range(0, HEIGHT - side, side + 2):
        for left in range(0, WIDTH - side, side + 2):
            height, width = random.integers(5, side + 1, 2).tolist()
            boxes.append([left, top, left + width, top + height])
    return boxes


@pytest.mark.parametrize("merging", ["nms", "wbf"])
@pytest.mark.parametrize(
    ("size", "overlap"), [(96, 40), ((90, 130), (36, 50)), (128, 72), ((310, 100), (300, 45)), (500, 40)]
)
def test_every_object_is_found_once_and_whole(
    size: int | tuple[int, int], overlap: int | tuple[int, int], merging: str
) -> None:
    """Objects up to the overlap less 8 pixels, in windows that cut them at sides and corners."""
    windows = Windows(size, overlap, at_once=3, merge=merging)
    boxes = scattered(min(windows.overlaps) - 8, seed=1)
    found = detect(windows, painted(boxes))
    assert sorted(found["boxes"].tolist()) == sorted(boxes)
    of_box = {tuple(box): level % 3 for level, box in enumerate(boxes, 1)}
    for box, label, mask in zip(found["boxes"].int().tolist(), found["labels"].tolist(), found["masks"], strict=True):
        assert of_box[tuple(box)] == label
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[box[1] : box[3], box[0] : box[2]] = 1
        assert type(mask) is EncodedMask and mask.area == expected.sum()
        assert np.array_equal(coco_mask.decode(dict(mask)), expected)


def test_half_an_object_larger_than_the_overlap_does_not_remain_beside_the_whole_one() -> None:
    """Windows at 0, 60, 120, ...: the box is cut by those at 0 and at 120, seen whole by that at 60."""
    box = [80, 20, 148, 60]
    windows = Windows(100, 40)
    assert detect(windows, painted([box]))["boxes"].tolist() == [box]


def test_an_object_that_no_window_sees_whole_remains_in_parts() -> None:
    """No part lies in another: nothing that was seen is lost."""
    box = [10, 20, 210, 60]
    found = detect(Windows(100, 40), painted([box]))["boxes"]
    assert len(found) == 3
    assert found[:, 0].min() == 10 and found[:, 2].max() == 210


def test_boxes_of_one_window_are_never_merged() -> None:
    boxes = [[20, 20, 60, 60], [21, 20, 60, 60]]  # the second lies in the first
    nested = [[20, 20, 60, 60], [22, 22, 60, 60]]

    class Twice(Oracle):
        def of_image(self, levels: Tensor) -> dict[str, Tensor]:
            return {
                "boxes": torch.tensor(nested, dtype=torch.float32),
                "scores": torch.tensor([0.9, 0.8]),
                "labels": torch.zeros(2, dtype=torch.int64),
            }

    (found,) = WindowedDetection(Windows(500, 100))(Twice().eval(), batch_of(painted(boxes)))
    assert found["boxes"].tolist() == nested


@pytest.mark.parametrize(("down", "across"), [(2.0, 2.0), (0.5, 0.5), (1.5, 2.0)])
def test_boxes_are_in_original_pixels(down: float, across: float) -> None:
    original = round(HEIGHT * down), round(WIDTH * across)
    boxes = scattered(24, seed=2)
    found = detect(Windows(96, 32), painted(boxes), original)
    expected = np.array(sorted(boxes)) * ([original[1] / WIDTH, original[0] / HEIGHT] * 2)
    np.testing.assert_allclose(np.array(sorted(found["boxes"].tolist())), expected, atol=1e-3)
    assert all(mask["size"] == list(original) for mask in found["masks"])


def test_a_small_image_is_padded_to_the_window() -> None:
    detector = Oracle().eval()
    image = painted([[3, 5, 20, 30]], 60, 90)
    (found,) = WindowedDetection(Windows((96, 64), 16))(detector, batch_of(image))
    assert detector.shapes == [(2, 3, 96, 64)]
    assert found["boxes"].tolist() == [[3, 5, 20, 30]]


def test_an_image_without_objects() -> None:
    found = detect(Windows(96, 32), painted([]))
    assert found["boxes"].shape == (0, 4) and found["masks"] == [] and found["labels"].dtype == torch.int64


def test_progress_counts_the_windows_of_each_image() -> None:
    told: list[tuple[int, int]] = []
    windowed = WindowedDetection(Windows(200, 0, at_once=4))
    windowed.progress = lambda *windows: told.append(windows)
    windowed(Oracle().eval(), batch_of(painted([])))
    assert told == [(4, 6), (6, 6)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0, "overlap": 0}, "size of the windows is 0"),
        ({"size": 64, "overlap": 64}, "overlap of the windows is 64, expected 0..63"),
        ({"size": (640, 100), "overlap": (0, -1)}, "overlap of the windows is -1"),
        ({"at_once": 0}, "at_once is 0"),
        ({"merge": "soft"}, "merge"),
        ({"merge_iou": 1.0}, "merge_iou is 1.0"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Windows(**options)


def random_found(seed: int, count: int = 150) -> Found:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 120, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 60, (count, 2))], axis=1).astype(np.float32)
    scores = (random.integers(1, 60, count) / 60).astype(np.float32)  # some are equal
    windows = np.sort(random.integers(0, 5, count))
    masks = [{"size": [1, 1], "counts": str(number).encode()} for number in range(count)]
    return Found(boxes, scores, random.integers(0, 3, count), windows, random.random(count) < 0.2, masks)


def merge_slowly(found: Found, least: float, fuse: bool) -> list[tuple]:
    """(score, box, label, mask) of each group, one box after the other."""
    boxes, scores = torch.from_numpy(found.boxes).double(), found.scores.tolist()
    order = sorted(range(len(boxes)), key=lambda place: (found.cut[place], -scores[place], place))
    groups: list[dict] = []
    for place in order:
        best, most = None, least
        for group in groups:
            if group["label"] != found.labels[place] or found.windows[place] in group["windows"]:
                continue
            if found.cut[place]:
                low = torch.maximum(boxes[place, :2], group["box"][:2])
                high = torch.minimum(boxes[place, 2:], group["box"][2:])
                overlap = float((high - low).clamp(min=0).prod() / (boxes[place, 2:] - boxes[place, :2]).prod())
            else:
                overlap = float(box_iou(boxes[place][None], group["box"][None]))
            if overlap > most:
                best, most = group, overlap
        if best is None:
            own = {"box": boxes[place], "members": [place], "windows": {found.windows[place]}}
            groups.append(own | {"label": found.labels[place], "first": place})
        elif fuse and not found.cut[place]:
            best["members"].append(place)
            best["windows"].add(found.windows[place])
            weights = torch.tensor([scores[member] for member in best["members"]], dtype=torch.float64)
            best["box"] = (boxes[best["members"]] * weights[:, None]).sum(0) / weights.sum()
    rows = []
    for group in groups:
        score = sum(scores[member] for member in group["members"]) / len(group["members"])
        mask = int(found.masks[group["first"]]["counts"])
        rows.append((score, group["first"], group["box"].tolist(), int(group["label"]), mask))
    return sorted(rows, key=lambda row: (-np.float32(row[0]), row[1]))


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_merging_equals_the_slow_one(seed: int, fuse: bool) -> None:
    found = random_found(seed)
    merged, expected = merge(found, 0.4, fuse), merge_slowly(found, 0.4, fuse)
    assert 20 < len(expected) < 140
    assert [int(mask["counts"]) for mask in merged.masks] == [row[4] for row in expected]
    np.testing.assert_allclose(merged.boxes, [row[2] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(merged.scores, [row[0] for row in expected], rtol=1e-6)
    assert merged.labels.tolist() == [row[3] for row in expected]


def test_whoever_is_alone_stays_as_it_is() -> None:
    """To the bit: the sum of a box, weighted by its score and divided by that, would not."""
    found = random_found(3, count=40)
    apart = (np.arange(40) * 200).astype(np.float32)
    found.boxes[:, [0, 2]] += apart[:, None]
    merged = merge(found, 0.4, fuse=True)
    order = np.argsort(-found.scores, kind="stable")
    assert np.array_equal(merged.boxes, found.boxes[order]) and np.array_equal(merged.scores, found.scores[order])


@pytest.mark.parametrize("corner", [(0, 0), (13, 29), (30, 0), (0, 44), (30, 44)])
def test_masks_are_moved_into_the_image(corner: tuple[int, int]) -> None:
    """Masks that touch the borders of window and image, full columns and full windows among them."""
    random = np.random.default_rng(0)
    masks = [random.random((40, 56)) < share for share in (0.0, 0.1, 0.5, 0.95, 1.0)]
    stripes = np.zeros((40, 56), bool)
    stripes[:, 3:9], stripes[35:, 20:30], stripes[:4, 31:] = True, True, True
    size = 70, 100
    coded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in [*masks, stripes]]
    coded[0] = {**coded[0], "counts": coded[0]["counts"].decode()}
    moved = move_masks(coded, corner, size)
    for mask, found in zip([*masks, stripes], moved, strict=True):
        expected = np.zeros(size, np.uint8)
        expected[corner[0] : corner[0] + 40, corner[1] : corner[1] + 56] = mask
        assert found["counts"] == coco_mask.encode(np.asfortranarray(expected))["counts"]
        assert found["size"] == list(size) and found.area == expected.sum()
    assert mask_areas([mask["counts"] for mask in moved], 70 * 100) is not None


def test_masks_of_a_window_as_high_as_the_image() -> None:
    """Where a run goes on from one column to the next."""
    mask = np.zeros((40, 10), np.uint8, order="F")
    mask[30:, 2], mask[:, 3:5], mask[:7, 5] = 1, 1, 1
    (moved,) = move_masks([coco_mask.encode(mask)], (0, 5), (40, 19))
    expected = np.zeros((40, 19), np.uint8, order="F")
    expected[:, 5:15] = mask
    assert moved["counts"] == coco_mask.encode(expected)["counts"]


def test_no_masks() -> None:
    assert move_masks([], (3, 4), (40, 50)) == []
