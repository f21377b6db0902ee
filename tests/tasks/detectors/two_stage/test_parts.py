"""Anchors, coding, assignment, sampling and pooling, against slow references and torchvision's parts."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_align

from datamodules.sampling import SampleKey
from tasks.detectors.two_stage.anchors import Anchors
from tasks.detectors.two_stage.assignment import IGNORED, NEGATIVE, Assignment
from tasks.detectors.two_stage.box_coding import BoxCoding
from tasks.detectors.two_stage.convention import MMDETECTION, TORCHVISION, find_convention
from tasks.detectors.two_stage.roi_pooling import RoIPooling, numbered
from tasks.detectors.two_stage.sampling import Sampling, draw, image_generators

RATIOS = (0.5, 1.0, 2.0)
STRIDES = [4, 8, 16, 32, 64]


def random_boxes(count: int, seed: int, side: int = 100) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * side], dim=1)


class TestAnchors:
    maps = tuple(torch.zeros(2, 1, *size) for size in ((56, 72), (28, 36), (14, 18), (7, 9), (4, 5)))

    def test_mmdetection(self) -> None:
        """Sides of 8 strides, not rounded, around multiples of the nominal stride."""
        found = Anchors(STRIDES, 8.0, RATIOS, MMDETECTION)(list(self.maps), (224, 288), torch.float32)
        for stride, of_level, boxes in zip(STRIDES, self.maps, found, strict=True):
            expected = []
            for row in range(of_level.shape[2]):
                for column in range(of_level.shape[3]):
                    for ratio in RATIOS:
                        width, height = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            torch.testing.assert_close(boxes, torch.tensor(expected))

    def test_torchvision(self) -> None:
        """Rounded, and as far apart as the map divides the batch: 56 and 57 pixels on the fifth level."""
        found = Anchors(STRIDES, 8.0, RATIOS, TORCHVISION)(list(self.maps), (224, 288), torch.float32)
        peer = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), (RATIOS,) * 5)
        (expected, _) = peer(ImageList(torch.zeros(2, 3, 224, 288), [(224, 288)] * 2), list(self.maps))
        assert torch.equal(torch.cat(found), expected)

    def test_beyond_the_own_padding(self) -> None:
        """An image of 100 x 130 is padded to 128 x 160 by itself: 32 x 40 cells of stride 4, 2 x 3 of stride 64."""
        beyond = Anchors(STRIDES, 8.0, RATIOS, MMDETECTION).beyond_padding(list(self.maps), (100, 130))
        levels = beyond.split([of_level.shape[2] * of_level.shape[3] * 3 for of_level in self.maps])
        kept = [(-(-128 // stride), -(-160 // stride)) for stride in STRIDES]
        assert kept[-1] == (2, 3)
        for of_level, cells, (rows, columns) in zip(self.maps, levels, kept, strict=True):
            expected = torch.ones(*of_level.shape[2:], 3, dtype=torch.bool)
            expected[:rows, :columns] = False
            assert torch.equal(cells, expected.flatten())


class TestCoding:
    boxes, references = random_boxes(50, 0), random_boxes(50, 1)

    def test_torchvision(self) -> None:
        coding, peer = BoxCoding((0.1, 0.1, 0.2, 0.2), clip_shrinking=False), BoxCoder((10.0, 10.0, 5.0, 5.0))
        offsets = coding.encode(self.boxes, self.references)
        torch.testing.assert_close(offsets, peer.encode_single(self.boxes, self.references))
        torch.testing.assert_close(coding.decode(offsets, self.references), self.boxes, rtol=1e-4, atol=1e-4)
        wild = 40 * torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
        expected = peer.decode_single(wild.flatten(1), self.references).view(50, 3, 4)
        torch.testing.assert_close(coding.decode(wild, self.references[:, None]), expected)

    def test_shrinking_is_clipped_in_one_convention(self) -> None:
        offsets, box = torch.tensor([[0.0, 0.0, -100.0, 100.0]]), torch.tensor([[10.0, 10.0, 26.0, 26.0]])
        for clip, width in ((True, 16 * 16 / 1000), (False, 0.0)):
            found = BoxCoding((1.0, 1.0, 1.0, 1.0), clip).decode(offsets, box)[0]
            assert (found[2] - found[0]).item() == pytest.approx(width, abs=1e-5)
            assert (found[3] - found[1]).item() == pytest.approx(1000, abs=0.1)


def slow_assignment(boxes: Tensor, objects: Tensor, ignored: Tensor, rule: Assignment) -> list[int]:
    """One box and one object after the other."""
    overlaps = box_iou(objects, boxes).tolist()
    taking_part = [place for place in range(len(boxes)) if not ignored[place]]
    found = [IGNORED] * len(boxes)
    for place in taking_part:
        own = [row[place] for row in overlaps]
        if max(own) >= rule.positive:
            found[place] = own.index(max(own))
        elif max(own) < rule.negative:
            found[place] = NEGATIVE
    if rule.low_quality != "none":
        for number, row in enumerate(overlaps):
            best = max(row[place] for place in taking_part)
            for place in taking_part:
                if row[place] == best >= rule.low_quality_minimum:
                    own = [other[place] for other in overlaps]
                    found[place] = number if rule.low_quality == "last_object" else own.index(max(own))
    return found


class TestAssignment:
    objects = torch.tensor([[10.0, 10, 50, 50], [12, 10, 52, 50], [60, 60, 64, 64], [5, 70, 95, 75], [30, 30, 60, 90]])

    @pytest.mark.parametrize("low_quality", ["none", "own_best", "last_object"])
    def test_slow_reference(self, low_quality: str) -> None:
        # Corners on a coarse grid, so that equal overlaps are common.
        boxes = torch.cat([(random_boxes(400, 2, 60) / 10).round() * 10, self.objects[:2]])
        ignored = torch.rand(len(boxes), generator=torch.Generator().manual_seed(0)) < 0.1
        for positive, negative, minimum in ((0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.4, 0.0)):
            rule = Assignment(positive, negative, low_quality, minimum)  # type: ignore[arg-type]
            found = rule(boxes, self.objects, ignored).tolist()
            assert found == slow_assignment(boxes, self.objects, ignored, rule)
            assert len({*found}) > 4

    def test_torchvision(self) -> None:
        boxes = random_boxes(300, 4, 60)
        found = Assignment(0.7, 0.3, "own_best", 0.0)(boxes, self.objects)
        assert torch.equal(found, Matcher(0.7, 0.3, True)(box_iou(self.objects, boxes)))

    def test_nothing_to_assign(self) -> None:
        rule = Assignment(0.5, 0.5)
        assert rule(random_boxes(3, 0), torch.zeros(0, 4)).tolist() == [NEGATIVE] * 3
        assert rule(torch.zeros(0, 4), self.objects).tolist() == []
        ignored = torch.tensor([True, False, True])
        assert rule(random_boxes(3, 0), torch.zeros(0, 4), ignored).tolist() == [IGNORED, NEGATIVE, IGNORED]


class TestSampling:
    @staticmethod
    def assigned(positives: int, negatives: int, ignored: int) -> Tensor:
        values = torch.cat([torch.arange(positives), torch.full((negatives,), -1), torch.full((ignored,), -2)])
        return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]

    @pytest.mark.parametrize(
        ("positives", "negatives", "expected"),
        [(3, 100, (3, 17)), (50, 100, (5, 15)), (50, 4, (5, 4)), (0, 30, (0, 20)), (2, 3, (2, 3)), (0, 0, (0, 0))],
    )
    def test_numbers(self, positives: int, negatives: int, expected: tuple[int, int]) -> None:
        assigned = self.assigned(positives, negatives, 7)
        chosen = Sampling(20, 0.25)(assigned, draw(len(assigned), torch.Generator().manual_seed(0), assigned.device))
        used = assigned[chosen.indices[chosen.used]]
        assert ((used >= 0).sum(), (used == NEGATIVE).sum()) == expected and len(used) == sum(expected)
        assert len(chosen.indices[chosen.used].unique()) == len(used)
        assert torch.equal(chosen.positive & chosen.used, chosen.positive)
        assert (assigned[chosen.indices[chosen.positive]] >= 0).all()

    def test_every_box_is_as_likely(self) -> None:
        assigned, counts = self.assigned(12, 24, 4), torch.zeros(40)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2000):
            chosen = Sampling(8, 0.5)(assigned, draw(40, generator, assigned.device))
            counts[chosen.indices[chosen.used]] += 1
        assert (counts[assigned >= 0] / 2000 - 4 / 12).abs().max() < 0.05
        assert (counts[assigned == NEGATIVE] / 2000 - 4 / 24).abs().max() < 0.05
        assert counts[assigned == IGNORED].sum() == 0

    def test_draws_follow_seed_and_key(self) -> None:
        keys = [SampleKey(0, 3, False), SampleKey(0, 4, True), SampleKey(1, 3, False)]
        assigned, rule, device = self.assigned(10, 90, 0), Sampling(20, 0.5), torch.device("cpu")

        def choose(seed: int, order: list[int]) -> list[list[int]]:
            found = image_generators([keys[place] for place in order], len(order), seed, device)
            return [rule(assigned, draw(100, generator, device)).indices.tolist() for generator in found]

        first = choose(0, [0, 1, 2])
        assert choose(0, [2, 0]) == [first[2], first[0]]
        assert len({str(row) for row in [*first, *choose(1, [0, 1, 2])]}) == 6


class TestPooling:
    rois = numbered([random_boxes(40, 5, 300), random_boxes(30, 6, 40)])
    maps = tuple(
        torch.randn(2, 3, 700 // stride, 600 // stride, generator=torch.Generator().manual_seed(stride))
        for stride in STRIDES
    )

    def test_torchvision(self) -> None:
        found = RoIPooling(STRIDES[:4], 7, TORCHVISION)(list(self.maps), self.rois)
        peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
        boxes = [self.rois[self.rois[:, 0] == image, 1:] for image in (0, 1)]
        expected = peer({str(level): feature for level, feature in enumerate(self.maps)}, boxes, [(700, 600)] * 2)
        torch.testing.assert_close(found, expected)

    def test_mmdetection(self) -> None:
        found = RoIPooling(STRIDES[:4], 5, MMDETECTION)(list(self.maps), self.rois)
        levels = set()
        for roi, pooled in zip(self.rois, found, strict=True):
            side = math.sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]))
            level = min(3, max(0, math.floor(math.log2(side / 56 + 1e-6))))
            levels.add(level)
            expected = roi_align(self.maps[level], roi[None], 5, 1 / STRIDES[level], 0, True)[0]
            torch.testing.assert_close(pooled, expected)
        assert levels == {0, 1, 2}

    def test_half_precision_and_no_boxes(self) -> None:
        pool = RoIPooling(STRIDES[:4], 7, MMDETECTION)
        halves = [feature.bfloat16() for feature in self.maps]
        found = pool(halves, self.rois)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), pool(list(self.maps), self.rois), rtol=0.02, atol=0.05)
        assert pool(list(self.maps), torch.zeros(0, 5)).shape == (0, 3, 7, 7)


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention='mmdet' is unknown"):
        find_convention("mmdet")  # type: ignore[arg-type]
