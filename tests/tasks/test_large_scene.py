"""A large scene and its parts: the same predictions and the same scores, window by window."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from backbones import MobileNetV2
from datamodules import COCO, FixedSize
from datamodules.shapes_mosaic import main, write_mosaic
from datamodules.shapes_scene import KINDS, NAMES
from tasks.detectors import FCOS, MaskRCNN
from tasks.detectors.base import Detections, Detector
from tasks.detectors.two_stage.options import BoxHeadOptions
from tasks.detectors.windows import WindowedDetection, Windows
from tasks.metrics import COCODetectionMetric, SegmentationMetric
from tasks.segmentors import SlideInference, WholeInference

PART = 360, 480
"""Height and width of a part, three scenes each way; the whole has 3 x 2 of them."""
WHOLE = 1080, 960


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mosaic") / "scene"
    main([f"--root={root}", "--rows=9", "--columns=6", "--part_rows=3", "--part_columns=3"])
    return root


def split(root: Path, pipeline: FixedSize | None = None) -> list[dict[str, Any]]:
    """The batches of a split, at the images' own size."""
    own = pipeline or FixedSize(*PART, test_scale=1.0)
    return list(COCO(root / "coco", pipeline=own, num_workers=0).val_dataloader())


class ColourBlobs(Detector):
    """Finds shapes by their strong colours, as any window shows them: some it joins, some it takes for others."""

    def forward(self, batch: dict) -> Detections:
        found = [
            self.of_image(image[:, :height, :width].movedim(0, -1).numpy())
            for image, (height, width) in zip(batch["image"], batch["size"].tolist(), strict=True)
        ]
        return self.to_original(found, batch)

    def of_image(self, pixels: np.ndarray) -> dict[str, Tensor]:
        hue, saturation, value = (level.astype(int) for level in cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)))
        away = np.stack([np.abs((2 * hue - kind.hue + 180) % 360 - 180) for kind in KINDS])
        labels = np.where((saturation > 150) & (value > 80), away.argmin(axis=0), -1)
        rows = []
        for label in range(len(KINDS)):
            _, _, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=4)
            for left, top, width, height, area in stats[1:].tolist():
                if area >= 60:
                    rows.append((area / (width * height), [left, top, left + width, top + height], label))
        rows.sort(key=lambda row: -row[0])
        boxes = torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4)
        return {
            "boxes": boxes.clamp(min=0).minimum(boxes.new_tensor([*pixels.shape[1::-1]] * 2)),
            "scores": torch.tensor([row[0] for row in rows]),
            "labels": torch.tensor([row[2] for row in rows], dtype=torch.int64),
        }

    def loss_modules(self) -> list:
        return [self]

    def class_tensors(self) -> dict:
        return {}


def scores(batches: list[dict], found: list[Detections], detections: int = 1000) -> dict[str, float]:
    metric = COCODetectionMetric([kind.name for kind in KINDS], detections=detections)
    for batch, detections in zip(batches, found, strict=True):
        ids = [
            {**one, "image_id": target["image_id"]} for one, target in zip(detections, batch["targets"], strict=True)
        ]
        metric.update(ids, [target["ground_truth"] for target in batch["targets"]])
    return metric.compute()


def detect(detector: Detector, batches: list[dict], windows: Windows | None = None) -> list[Detections]:
    look = detector if windows is None else lambda batch: WindowedDetection(windows)(detector, batch)
    with torch.no_grad():
        return [look(batch) for batch in batches]


def put_together(parts: list[Detections]) -> dict[str, Tensor]:
    """What was found in parts, in the pixels of the whole, by falling scores."""
    moved = []
    for number, (found,) in enumerate(parts):
        top, left = number // 2 * PART[0], number % 2 * PART[1]
        moved.append({**found, "boxes": found["boxes"] + torch.tensor([left, top, left, top])})
    columns = {name: torch.cat([found[name] for found in moved]) for name in ("boxes", "scores", "labels")}
    order = columns["scores"].argsort(descending=True, stable=True)
    return {name: column[order] for name, column in columns.items()}


def test_whole_and_parts_are_the_same_scene(mosaic: Path) -> None:
    whole = np.asarray(Image.open(mosaic / "whole" / "coco" / "val2017" / "000000000001.png"))
    assert whole.shape == (*WHOLE, 3)
    truth = np.asarray(Image.open(mosaic / "whole" / "ade20k" / "annotations" / "validation" / "000000000001.png"))
    for number in range(6):
        top, left = number // 2 * PART[0], number % 2 * PART[1]
        inside = slice(top, top + PART[0]), slice(left, left + PART[1])
        for kind, expected in (("images", whole), ("annotations", truth)):
            path = mosaic / "parts" / "ade20k" / kind / "validation" / f"{number + 1:012d}.png"
            assert np.array_equal(np.asarray(Image.open(path)), expected[inside])
    files = [
        json.loads((mosaic / kind / "coco" / "annotations" / "instances_val2017.json").read_text())
        for kind in ("whole", "parts")
    ]
    of_parts = []
    for one in files[1]["annotations"]:
        top, left = (one["image_id"] - 1) // 2 * PART[0], (one["image_id"] - 1) % 2 * PART[1]
        x, y, *sides = one["bbox"]
        outline = np.add(np.reshape(one["segmentation"][0], (-1, 2)), (left, top)).ravel().tolist()
        of_parts.append((one["category_id"], one["iscrowd"], one["area"], [x + left, y + top, *sides], outline))
    of_whole = [
        (one["category_id"], one["iscrowd"], one["area"], one["bbox"], one["segmentation"][0])
        for one in files[0]["annotations"]
    ]
    assert sorted(of_parts) == sorted(of_whole) and len(of_whole) > 100


def test_a_folder_that_is_there_and_parts_that_do_not_fit_are_refused(
    mosaic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        ([f"--root={mosaic}"], "is there already"),
        ([f"--root={mosaic}2", "--rows=9", "--part_rows=2"], "parts of 2 x 5 scenes do not cover 9 x 50"),
    ):
        with pytest.raises(SystemExit):
            main(options)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("merging", ["nms", "wbf"])
def test_aligned_windows_find_what_is_found_in_the_parts(mosaic: Path, merging: str) -> None:
    """To the bit, where the network sees one window at a time; how many it sees at once moves the last digits."""
    torch.manual_seed(0)
    detector = FCOS(MobileNetV2(0.25), len(KINDS), channels=32, num_convs=1, score_threshold=0.0105).eval()
    nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=0.1)
    parts = detect(detector, split(mosaic / "parts", FixedSize(*PART)))
    expected = put_together(parts)
    assert len(expected["boxes"]) == 600 and len(expected["labels"].unique()) > 1
    ((found,),) = detect(detector, split(mosaic / "whole"), Windows(PART, 0, at_once=1, merge=merging))
    for name, column in expected.items():
        assert torch.equal(found[name], column), name
    ((together,),) = detect(detector, split(mosaic / "whole"), Windows(PART, 0, at_once=4, merge=merging))
    torch.testing.assert_close(together["scores"], expected["scores"], rtol=1e-5, atol=1e-6)


def test_masks_of_the_whole_are_those_of_its_parts(mosaic: Path) -> None:
    torch.manual_seed(0)
    detector = MaskRCNN(
        MobileNetV2(0.25),
        len(KINDS),
        channels=16,
        box_head=BoxHeadOptions(fc_channels=32),
        score_threshold=0.0,
        max_detections=12,
    ).eval()
    parts = detect(detector, split(mosaic / "parts", FixedSize(*PART)))
    ((found,),) = detect(detector, split(mosaic / "whole"), Windows(PART, 0, at_once=1))
    moved = {}
    for number, (of_part,) in enumerate(parts):
        top, left = number // 2 * PART[0], number % 2 * PART[1]
        corners = of_part["boxes"] + torch.tensor([left, top, left, top])
        for box, label, mask in zip(corners.tolist(), of_part["labels"].tolist(), of_part["masks"], strict=True):
            whole = np.zeros(WHOLE, np.uint8, order="F")
            whole[top : top + PART[0], left : left + PART[1]] = coco_mask.decode(dict(mask))
            moved[*box, label] = coco_mask.encode(whole)["counts"]
    assert len(found["masks"]) == 72 and sum(mask.area > 0 for mask in found["masks"]) > 5
    for box, label, mask in zip(found["boxes"].tolist(), found["labels"].tolist(), found["masks"], strict=True):
        assert mask["size"] == list(WHOLE) and mask["counts"] == moved[*box, label]


def test_scores_of_the_whole_are_those_of_its_parts(mosaic: Path) -> None:
    whole, parts = split(mosaic / "whole"), split(mosaic / "parts")
    expected = scores(parts, detect(ColourBlobs().eval(), parts))
    assert 0.2 < expected["mAP"] < 0.95
    aligned = scores(whole, detect(ColourBlobs().eval(), whole, Windows(PART, 0)))
    for name, value in expected.items():
        if name not in ("images", "AR1", "AR10"):  # which are of so many detections of an image
            assert aligned[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    at_once = scores(whole, detect(ColourBlobs().eval(), whole))
    for merging in ("nms", "wbf"):
        for windows in (Windows(300, 100, merge=merging), Windows((220, 250), (110, 97), merge=merging)):
            overlapping = scores(whole, detect(ColourBlobs().eval(), whole, windows))
            assert overlapping["mAP"] == pytest.approx(at_once["mAP"], abs=0.01)
    halves = scores(whole, detect(ColourBlobs().eval(), whole, Windows(220, 0)))
    assert halves["mAP"] < at_once["mAP"] - 0.05  # what the overlap is for


def test_label_maps_of_the_whole_are_those_of_its_parts(mosaic: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 7, padding=3), nn.ReLU(), nn.Conv2d(16, len(NAMES), 5, padding=2)).eval()

    def logits(image: Tensor) -> Tensor:
        return network(image / 255 - 0.5)

    def of(path: Path, inference: Any) -> Tensor:
        image = torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0)[None].float()
        with torch.no_grad():
            return inference.labels([image], logits, tuple(image.shape[-2:]))

    folder = mosaic / "parts" / "ade20k" / "images" / "validation"
    parts = [of(folder / f"{number:012d}.png", WholeInference()) for number in range(1, 7)]
    expected = torch.cat([torch.cat(parts[row : row + 2], dim=1) for row in (0, 2, 4)])
    path = mosaic / "whole" / "ade20k" / "images" / "validation" / "000000000001.png"
    found = of(path, SlideInference(PART, PART, windows_at_once=1))
    assert torch.equal(found, expected) and len(found.unique()) > 3
    truth = np.asarray(Image.open(mosaic / "whole" / "ade20k" / "annotations" / "validation" / "000000000001.png"))
    mask = torch.from_numpy(truth - np.uint8(1))  # 0 becomes 255, which is ignored

    def score(labels: Tensor) -> float:
        metric = SegmentationMetric(list(NAMES))
        metric.update([labels], [mask])
        return metric.compute()["mIoU"]

    blended = of(path, SlideInference(PART, (200, 300), blend=True))
    at_once = of(path, WholeInference())
    assert score(found) == score(expected)
    assert score(blended) == pytest.approx(score(at_once), abs=0.002)
    assert (blended != at_once).float().mean() < (found != at_once).float().mean()  # borders are seen least


@pytest.mark.slow
def test_the_full_size_scores_as_its_parts(tmp_path: Path) -> None:
    """8,000 x 6,000 pixels, 100 parts."""
    write_mosaic(tmp_path / "scene")
    whole, parts = split(tmp_path / "scene" / "whole"), split(tmp_path / "scene" / "parts")
    detector, every = ColourBlobs().eval(), 100_000  # of a class there are more than 1000 in the whole
    expected = scores(parts, detect(detector, parts), every)
    found = scores(whole, detect(detector, whole, Windows((600, 800), 0)), every)
    assert whole[0]["size"].tolist() == [[6000, 8000]]
    assert found["mAP"] == pytest.approx(expected["mAP"], abs=1e-12) and expected["mAP"] > 0.2
    overlapping = scores(whole, detect(detector, whole, Windows(640, 128)), every)
    assert overlapping["mAP"] == pytest.approx(expected["mAP"], abs=0.01)
