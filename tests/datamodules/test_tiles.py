"""Large training images as tiles: which pixels, boxes and masks a sample has, and what falls away."""

import json
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import ADE20K, COCO, DataError, FixedSize, RandomRatioCrop, Tiles
from datamodules.decoded import KeptDecoded, decoded_folder
from datamodules.images import read_image
from datamodules.preflight.kept import each
from datamodules.rare_classes import RareClassDataset, RareClasses, class_pixels
from datamodules.sampling import SampleKey
from datamodules.tiles import TileGrid
from tasks.windows import spans

SIDES = [(150, 210), (70, 64), (33, 300)]
TILES = Tiles(size=(64, 80), overlap=(14, 24), least_visible=0.5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDENSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def boxes_of(random: np.random.Generator, height: int, width: int) -> list[list[int]]:
    corner = random.integers(0, (width - 12, height - 12), (9, 2))
    return [
        [int(x), int(y), *random.integers(4, (min(60, width - x), min(60, height - y))).tolist()] for x, y in corner
    ]


def star(box: list[int]) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y, x + width, y + height / 3, x + width / 2, y + height, x + width / 5, y + height * 0.8]]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three images of noise; polygons, run-length codes, a crowd region and a box as large as its image."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number, (height, width) in enumerate(SIDES, 1):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        for folder in ("train2017", "val2017"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for place, box in enumerate([*boxes_of(random, height, width), [0, 0, width, height]]):
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
            coded = coco_mask.encode(mask)
            runs = {"size": [height, width], "counts": coded["counts"].decode()}
            annotations.append(
                {
                    "id": 100 * number + place,
                    "image_id": number,
                    "category_id": 1 + place % 2,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(place == 7),
                    "segmentation": runs if place % 3 == 0 else star(box),
                }
            )
    categories = [{"id": number, "name": f"kind {number}"} for number in (1, 2)]
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def plain_coco(root: Path, workers: int = 0, tiles: Tiles | None = TILES, **options: object) -> COCO:
    """Tiles as they are: the frame is as large, nothing is flipped."""
    pipeline = FixedSize(64, 80, flip=0.0)
    return COCO(root, pipeline=pipeline, batch_size=4, num_workers=workers, tiles=tiles, **options)


@pytest.mark.parametrize(("size", "overlap"), [((64, 80), (14, 24)), (50, 0), ((31, 200), (30, 7)), (400, 10)])
def test_tiles_lie_as_the_windows_of_prediction(size: int | tuple[int, int], overlap: int | tuple[int, int]) -> None:
    tiles = Tiles(size, overlap)
    grid, expected = TileGrid(np.array(SIDES), tiles), []
    for image, sides in enumerate(SIDES):
        rows, columns = (
            spans(length, side, side - shared)
            for length, side, shared in zip(sides, tiles.sides, tiles.overlaps, strict=True)
        )
        expected += [(image, (row, column)) for row in rows for column in columns]
    found = [grid[index] for index in range(len(grid))]
    assert [(image, tile.part) for image, tile in found] == expected
    assert grid.sizes.tolist() == [[tile.height, tile.width] for _, tile in found]
    assert [tile for image in range(3) for tile in grid.of_image(image)] == [tile for _, tile in found]
    some = grid.only(np.array([0, len(grid) - 1]))
    assert [some[0], some[1]] == [found[0], found[-1]] and len(some) == len(some.sizes) == 2


def test_a_sample_is_what_the_tile_holds(coco: Path) -> None:
    """Pixels, boxes by the share that is left, masks, and crowd regions with what is left out; against whole images."""
    data = plain_coco(coco, masks=True)
    dataset, file = data.train_dataset(), data._training
    seen = 0
    for index in range(len(dataset)):
        image, tile = data.training_tiles[index]
        sample = dataset[SampleKey(0, index, False)]
        target = sample["target"]
        pixels = np.asarray(Image.open(coco / "train2017" / f"{image + 1}.png"))[tile.part]
        assert torch.equal(sample["image"], torch.from_numpy(pixels.copy()).movedim(-1, 0))
        assert target["original_size"].tolist() == list(pixels.shape[:2])
        expected, ignored = [], []
        for row in range(*file.first[image : image + 2].tolist()):
            x, y, width, height = file.boxes[row].tolist()
            clipped = np.clip(
                [x - tile.left, y - tile.top, x + width - tile.left, y + height - tile.top],
                0,
                [tile.width, tile.height] * 2,
            )
            share = max(0, clipped[2] - clipped[0]) * max(0, clipped[3] - clipped[1]) / (width * height)
            if share and (share < 0.5 or file.iscrowd[row]):
                ignored.append(clipped.tolist())
            mask = mask_in(file.segmentation(row), SIDES[image])[tile.part]
            if share >= 0.5 and not file.iscrowd[row] and mask.any():
                expected.append((clipped.tolist(), int(file.labels[row]), mask))
        assert target["boxes"].tolist() == [box for box, _, _ in expected]
        assert target["labels"].tolist() == [label for _, label, _ in expected]
        assert target["crowd"].tolist() == ignored
        for found, (_, _, mask) in zip(target["masks"], expected, strict=True):
            # A corner left of or above the frame is rounded towards it by pycocotools, by up to a fifth of a pixel.
            assert np.count_nonzero(found.numpy() != mask) <= 1
        seen += len(expected)
    assert seen > 40


def mask_in(segmentation: object, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, dict):
        return coco_mask.decode({**segmentation, "counts": segmentation["counts"].encode()})
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))


def test_masks_do_not_leave_the_tile_where_the_frame_does(coco: Path) -> None:
    """Augmentation that shrinks a tile pads around it: no object of the neighbour appears there."""
    pipeline = FixedSize(96, 110, scale=(0.4, 0.9), flip=0.5)
    data = COCO(coco, pipeline=pipeline, batch_size=4, num_workers=0, masks=True, tiles=TILES)
    dataset = data.train_dataset()
    for index in range(0, len(dataset), 3):
        sample = dataset[SampleKey(1, index, False)]
        for box, mask in zip(sample["target"]["boxes"], sample["target"]["masks"], strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            left, top, right, bottom = box.tolist()
            assert top - 1 <= rows.min() and rows.max() <= bottom and left - 1 <= columns.min()
            assert columns.max() <= right


def test_what_falls_away_is_counted(coco: Path) -> None:
    data = plain_coco(coco)
    (report,) = [data.look_through("training", whole=False)]
    found = {finding.kind: finding for finding in report.findings}
    file, kept, clipped, dropped, lost = data._training, 0, 0, 0, []
    for image in range(3):
        tiles = data._all_tiles.of_image(image)
        for row in range(*file.first[image : image + 2].tolist()):
            x, y, width, height = file.boxes[row].tolist()
            shares = []
            for left, top, right, bottom in (tile.corners for tile in tiles):
                across, down = min(x + width, right) - max(x, left), min(y + height, bottom) - max(y, top)
                shares.append(max(across, 0) * max(down, 0) / (width * height))
            if not file.iscrowd[row]:
                kept += sum(share >= 0.5 for share in shares)
                clipped += sum(0.5 <= share < 1 for share in shares)
                dropped += sum(0 < share < 0.5 for share in shares)
                lost += [int(file.annotation_ids[row])] * all(share < 0.5 for share in shares)
    assert lost and clipped and dropped
    assert (found["in_no_tile"].count, found["in_no_tile"].total) == (len(lost), 27)
    assert found["in_no_tile"].severity == "warning"
    assert list(found["in_no_tile"].examples) == [f"annotation {number}" for number in lost[:6]]
    assert (found["clipped_by_tiles"].count, found["clipped_by_tiles"].total) == (clipped, kept + dropped)
    assert found["left_out_of_tiles"].count == dropped
    assert report.facts["tiles"] == len(data.training_tiles)
    assert any("tiles of 64 x 80 pixels" in words for words in report.words)
    assert not {"in_no_tile", "clipped_by_tiles"} & {f.kind for f in data.look_through("validation", False).findings}


def test_tiles_without_objects_are_dropped_with_empty_images(coco: Path) -> None:
    every, some = plain_coco(coco).train_dataset(), plain_coco(coco, empty_images="drop").train_dataset()
    counts = [len(every[SampleKey(0, index, False)]["target"]["boxes"]) for index in range(len(every))]
    assert 0 < counts.count(0) < len(every)
    kept = [len(some[SampleKey(0, index, False)]["target"]["boxes"]) for index in range(len(some))]
    assert kept == [count for count in counts if count]


def test_loaders_are_equal_for_any_number_of_workers_and_after_a_resume(coco: Path) -> None:
    options = {"group_by_orientation": True}
    plain = list(plain_coco(coco, **options).train_dataloader())
    assert sum(len(batch["keys"]) for batch in plain) >= len(plain_coco(coco).training_tiles) - 3
    for workers in (1, 2):
        for batch, other in zip(plain, plain_coco(coco, workers, **options).train_dataloader(), strict=True):
            assert batch["keys"] == other["keys"] and torch.equal(batch["image"], other["image"])
    resumed = plain_coco(coco, **options)
    assert torch.equal(resumed.batch_of(plain[2]["keys"])["image"], plain[2]["image"])
    again = pickle.loads(pickle.dumps(resumed.train_dataset()))
    key = plain[1]["keys"][3]
    assert torch.equal(again[key]["image"], resumed.train_dataset()[key]["image"])


@pytest.fixture
def ade20k(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    for number, (height, width) in enumerate(SIDES, 1):
        for split in ("training", "validation"):
            for kind in ("images", "annotations"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{number}.png")
            labels = random.integers(0, 4, (height, width), np.uint8)
            labels[:, : width // 2] = 1
            Image.fromarray(labels).save(tmp_path / "annotations" / split / f"{number}.png")
    (tmp_path / "objectInfo3.csv").write_text("Idx,Name\n1,wall\n2,sky\n3,floor\n")
    return tmp_path


def plain_ade20k(root: Path, **options: object) -> ADE20K:
    pipeline = RandomRatioCrop(80, 64, (1.0, 1.0), (64, 80), max_share=1.0, flip=0.0, photometric=False)
    return ADE20K(root, pipeline=pipeline, batch_size=4, num_workers=0, tiles=TILES, **options)


def test_masks_are_cut_with_their_images(ade20k: Path) -> None:
    data = plain_ade20k(ade20k)
    dataset, compared = data.train_dataset(), 0
    for index in range(len(dataset)):
        image, tile = data.training_tiles[index]
        sample = dataset[SampleKey(0, index, False)]
        if (tile.height, tile.width) != (64, 80):
            continue  # resized by the pipeline
        stored = np.asarray(Image.open(ade20k / "annotations" / "training" / f"{image + 1}.png"))[tile.part]
        pixels = np.asarray(Image.open(ade20k / "images" / "training" / f"{image + 1}.png"))[tile.part]
        assert torch.equal(sample["mask"], torch.from_numpy(stored - np.uint8(1)))  # 0 becomes 255
        assert torch.equal(sample["image"], torch.from_numpy(pixels.copy()).movedim(-1, 0))
        compared += 1
    assert compared >= 9
    report = data.look_through("training", whole=False)
    assert report.facts["tiles"] == len(dataset) > 12
    assert len(data.val_dataset()) == 3  # evaluation sees whole images


def test_rare_classes_are_drawn_by_tile(ade20k: Path) -> None:
    data = plain_ade20k(ade20k, rare_classes=RareClasses(0.1, 500))
    dataset = data.train_dataset()
    assert isinstance(dataset, RareClassDataset) and len(dataset) == len(data.training_tiles)
    pixels = class_pixels(dataset.dataset, 3)
    for index in range(len(dataset)):
        image, tile = data.training_tiles[index]
        stored = np.asarray(Image.open(ade20k / "annotations" / "training" / f"{image + 1}.png"))[tile.part]
        assert pixels[index].tolist() == np.bincount(stored.ravel(), minlength=4)[1:].tolist()
    sample = dataset[SampleKey(2, 5, False)]
    assert sample["key"] == SampleKey(2, 5, False)


class TestKeptDecoded:
    def test_each_image_is_decoded_once(self, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded: list[Path] = []

        def counting(path: Path, **options: object) -> np.ndarray:
            decoded.append(path)
            return read_image(path, **options)

        data = plain_coco(coco)
        monkeypatch.setattr(data, "read_image", counting)
        dataset = data.train_dataset()
        for index in range(len(dataset)):
            dataset[SampleKey(0, index, False)]
        assert sorted(decoded) == [coco / "train2017" / f"{number}.png" for number in (1, 2, 3)]
        assert len(list(decoded_folder().glob("*.npy"))) == 3

    def test_without_copies_pixels_are_the_same(self, coco: Path) -> None:
        kept, not_kept = (
            plain_coco(coco, tiles=Tiles((64, 80), (14, 24), keep_decoded=keeps)).train_dataset()
            for keeps in (True, False)
        )
        for index in (0, 5, 9):
            key = SampleKey(0, index, False)
            assert torch.equal(kept[key]["image"], not_kept[key]["image"])

    def test_another_content_option_or_a_damaged_copy_is_decoded_again(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        first, second = (np.full((20, 30, 3), level, np.uint8) for level in (3, 9))
        Image.fromarray(first).save(path)
        read = KeptDecoded(read_image, "")
        assert np.array_equal(read(path), first)
        Image.fromarray(second).save(path)
        os.utime(path, ns=(1, 1))
        assert np.array_equal(read(path, size=(20, 30)), second)
        for copy in decoded_folder().glob("*.npy"):
            copy.write_bytes(copy.read_bytes()[:90])
        assert np.array_equal(read(path, size=(20, 30)), second)
        assert np.array_equal(KeptDecoded(lambda path: first, "other")(path), first)

    def test_a_full_disk_only_costs_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("datamodules.decoded.np.save", full)
        assert KeptDecoded(read_image, "")(path).max() == 7
        assert list(decoded_folder().iterdir()) == []

    def test_one_thread_at_a_time_parses_a_header(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inside, most, load = [], [], np.load

        def slow_load(*arguments: Any, **options: Any) -> np.ndarray:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            return load(*arguments, **options)

        monkeypatch.setattr(np, "load", slow_load)
        Image.fromarray(np.full((5, 4, 3), 3, np.uint8)).save(tmp_path / "image.png")
        read = KeptDecoded(read_image, "")
        assert all(pixels.max() == 3 for pixels in each(lambda _: read(tmp_path / "image.png"), range(16)))
        assert len(most) > 8 and max(most) == 1

    def test_a_broken_file_is_told_as_ever(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            KeptDecoded(read_image, "")(tmp_path / "absent.png")

    def test_images_that_do_not_fit_on_the_disk_are_told(self, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datamodules.preflight.tiles.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
        findings = plain_coco(coco).look_through("training", whole=False).findings
        (told,) = [finding for finding in findings if finding.kind == "decoded_images"]
        assert told.severity == "warning" and "set ATTNDENSE_CACHE to a larger disk" in str(told)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0, "overlap": 0}, "size of the tiles is 0"),
        ({"size": 64, "overlap": 64}, r"overlap of the tiles is 64, expected 0\.\.63"),
        ({"least_visible": 1.5}, "least_visible is 1.5"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Tiles(**options)
