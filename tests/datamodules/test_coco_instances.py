"""The COCO data module with masks: what a batch holds, which files are refused, and which images are left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO as Pycocotools

from datamodules import COCO, DataError, DetectionPipeline, FixedSize, ShorterSide, coco_annotations
from datamodules.sampling import SampleKey

SIZE = (30, 40)  # height, width
BLOCK = [10, 5, 30, 5, 30, 15, 10, 15]
RUNS = {"size": [30, 40], "counts": [30 * 20 + 3, 4, 30 * 20 - 7]}
SLIVER = [5.02, 5.1, 5.08, 20, 5.05, 5.1]  # between the centres of two columns, also at twice the size
OBJECTS: list[tuple[int, list[float], int, Any]] = [  # image, box, crowd, segmentation
    (1, [10, 5, 20, 10], 0, [BLOCK]),
    (1, [2, 3, 20, 20], 1, RUNS),
    (1, [20, 3, 1, 4], 0, RUNS),
    (1, [5.1, 5.1, 3, 15], 0, [SLIVER]),
    (1, [5, 5, 0, 9], 0, [BLOCK]),  # a box without area
    (3, [5, 5, 9, 9], 1, [BLOCK]),
    (4, [0, 0, 40, 30], 0, [[0, 0, 40, 0, 40, 30, 0, 30]]),
]


def content(segmentation: Any = None) -> dict[str, Any]:
    """Image 1 has objects of all kinds, 2 has nothing, 3 only a crowd, 4 one object; another mask for annotation 2."""
    annotations = [
        {"id": number, "image_id": image, "category_id": 3, "bbox": box, "area": 1.5 * number, "iscrowd": crowd}
        | {"segmentation": of_one}
        for number, (image, box, crowd, of_one) in enumerate(OBJECTS)
    ]
    if segmentation is not None:
        annotations[2]["segmentation"] = segmentation
    images = [{"id": number, "file_name": f"{number}.png", "height": 30, "width": 40} for number in range(1, 5)]
    return {"images": images, "categories": [{"id": 3, "name": "car"}], "annotations": annotations}


def write(root: Path, train: Any = None, val: Any = None) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    for split, value in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(value or content()))
        for number in range(1, 5):
            Image.new("RGB", SIZE[::-1]).save(root / split / f"{number}.png")
    return root


def module(root: Path, **options: Any) -> COCO:
    doubled = ShorterSide((60,), 1000, flip=0.0)
    return COCO(root, **{"pipeline": doubled, "num_workers": 0, "batch_size": 2, "masks": True, **options})


def key(index: int) -> SampleKey:
    return SampleKey(0, index, False)


def test_training_target(tmp_path: Path) -> None:
    root = write(tmp_path)
    target = module(root).train_dataset()[key(0)]["target"]
    common = {"image_id", "file_name", "original_size", "boxes", "labels", "area", "iscrowd", "crowd"}
    assert set(target) == common | {"masks"}
    expected = np.zeros((2, 60, 80), np.uint8)
    expected[0, 10:30, 20:60] = 1
    expected[1, 6:14, 40:42] = 1  # the runs: 4 pixels of column 20
    assert target["masks"].dtype == torch.uint8 and (target["masks"].numpy() == expected).all()
    assert target["boxes"].numpy() == pytest.approx(np.array([[20, 10, 60, 30], [40, 6, 42, 14]]), abs=1e-4)
    assert target["labels"].tolist() == [0, 0] and target["area"].tolist() == [0, 3]
    assert target["crowd"].dtype == torch.float32 and target["crowd"].tolist() == [[4, 6, 44, 46]]

    plain = module(root, masks=False).train_dataset()[key(0)]["target"]
    assert set(plain) == common and plain["crowd"].tolist() == [[4, 6, 44, 46]]
    assert plain["area"].tolist() == [0, 3, 4.5], "only a mask without a pixel costs a box"


def test_images_without_objects_have_empty_masks(tmp_path: Path) -> None:
    for index, crowds in ((1, 0), (2, 1)):
        target = module(write(tmp_path)).train_dataset()[key(index)]["target"]
        assert target["masks"].shape == (0, 60, 80) and target["masks"].dtype == torch.uint8
        assert target["boxes"].shape == (0, 4) and target["crowd"].shape == (crowds, 4)


def test_mirrored_crowds_and_masks(tmp_path: Path) -> None:
    mirrored = module(write(tmp_path), pipeline=ShorterSide((60,), 1000, flip=1.0)).train_dataset()[key(0)]["target"]
    plain = module(tmp_path).train_dataset()[key(0)]["target"]
    assert torch.equal(mirrored["masks"][1], plain["masks"][1].flip(1)), "run-length codes are looked up"
    assert mirrored["crowd"].tolist() == [[36, 6, 76, 46]]
    assert (mirrored["masks"][0] != plain["masks"][0].flip(1)).sum() <= 20, "COCO fills polygons from the left"


def test_ground_truth_is_pycocotools(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco-free")
    truth = Pycocotools(root / "annotations" / "instances_val2017.json")
    dataset = module(root, pipeline=FixedSize(64, 64)).val_dataset()
    crowds = 0
    for index in range(0, len(dataset), 3):  # type: ignore[arg-type]
        target = dataset[key(index)]["target"]
        assert "masks" not in target and "crowd" not in target
        found = target["ground_truth"]
        annotations = truth.imgToAnns[found["image_id"]]
        assert found["masks"] == [truth.annToRLE(annotation) for annotation in annotations]
        assert all(isinstance(mask["counts"], bytes) for mask in found["masks"])
        crowds += int(found["iscrowd"].sum())
    assert crowds > 0
    assert "masks" not in module(root, masks=False).val_dataset()[key(0)]["target"]["ground_truth"]


@pytest.mark.parametrize(
    ("segmentation", "found"),
    [
        ([], "[]"),
        ([[1, 2, 3, 4]], "[[1, 2, 3, 4]]"),
        ({"size": [40, 30], "counts": [1200]}, '{"size": [40, 30], "counts": [1200]}'),
        ({"size": [30, 40], "counts": "0" * 200}, '{"size": [30, 40], "counts": "' + 67 * "0" + "..."),
    ],
)
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_a_missing_mask_is_named_at_the_start(split: str, segmentation: Any, found: str, tmp_path: Path) -> None:
    root = write(tmp_path, **{split[:-4]: content(segmentation)})
    with pytest.raises(DataError) as error:
        module(root).setup("fit")
    assert str(error.value) == (
        f"{root}/annotations/instances_{split}.json: 1 of 7 annotations have no mask; annotation 2 has segmentation "
        f"{found}, expected polygons of three corners or more, or a run-length code of 30 x 40 pixels; correct them or "
        "take them out, or train a detector without masks"
    )
    module(root, masks=False).setup("fit")


def test_a_crowd_needs_a_mask_and_images_that_are_not_used_do_not(tmp_path: Path) -> None:
    value = content()
    del value["annotations"][5]["segmentation"], value["annotations"][6]["segmentation"]
    root = write(tmp_path, value)
    with pytest.raises(DataError, match="2 of 7 annotations have no mask; annotation 5 has segmentation null, "):
        module(root).train_dataset()
    module(root, max_images=2).train_dataset()
    with pytest.raises(DataError, match="1 of 6 annotations have no mask; annotation 5 has"):
        module(root, max_images=3).train_dataset()


def test_masks_are_looked_through_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(write(tmp_path)).setup("fit")
    monkeypatch.setattr(coco_annotations, "is_usable", None)
    module(tmp_path).setup("fit")


def test_real_photographs_have_masks(shared_data: Callable[[str], Path]) -> None:
    module(shared_data("coco-free")).setup("fit")


def test_images_without_objects_are_dropped(tmp_path: Path) -> None:
    data = module(write(tmp_path), empty_images="drop", group_by_orientation=True)
    dataset = data.train_dataset()
    assert [dataset[key(index)]["target"]["image_id"] for index in range(len(dataset))] == [1, 4]  # type: ignore[arg-type]
    assert data.sample_groups() == [0, 0]
    (batch,) = data.train_dataloader()
    assert sorted(target["image_id"] for target in batch["targets"]) == [1, 4]
    again = data.batch_of(batch["keys"])
    assert [target["image_id"] for target in again["targets"]] == [target["image_id"] for target in batch["targets"]]
    assert data.look_through("training", whole=False).words[-2] == "2 images without objects, left out"
    assert len(data.val_dataset()) == 4  # type: ignore[arg-type]
    assert len(module(tmp_path).train_dataset()) == 4  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"train2017\.json: 0 of 0 annotations are left as objects to train on"):
        module(write(tmp_path, {**content(), "annotations": []}), empty_images="drop").setup("fit")


def test_dropped_images_of_a_real_data_set(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco-free")
    raw = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    expected = sorted({record["image_id"] for record in raw["annotations"] if not record["iscrowd"]})
    data = module(root, empty_images="drop", masks=False, group_by_orientation=True)
    dataset: Any = data.train_dataset()
    assert [int(path.stem) for path in dataset.paths] == expected and len(expected) == 79
    groups = data.sample_groups()
    assert groups is not None and len(groups) == 79
    seen = [key.index for keys in data.train_dataloader().batch_sampler for key in keys]  # type: ignore[union-attr]
    assert len(seen) == len(set(seen)) == 78 and max(seen) <= 78


class Tilted(DetectionPipeline):
    """A pipeline that moves pixels by a transform whose window nobody knows."""

    image_size = (30, 40)

    def training(self) -> list[A.BasicTransform]:
        return [A.HueSaturationValue(), *ShorterSide((60,)).training(), A.Rotate(10)]

    def evaluation(self) -> list[A.BasicTransform]:
        return [A.HueSaturationValue(), *ShorterSide((60,)).evaluation()]


def test_geometry_that_masks_could_not_follow_is_refused(tmp_path: Path) -> None:
    data = module(write(tmp_path), pipeline=Tilted())
    data.val_dataset()
    with pytest.raises(DataError, match=r"^ResizeShorterSide, Rotate of the pipeline moves pixels, expected one "):
        data.train_dataset()


def test_masks_count_where_shared_memory_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("datamodules.base.check_shared_memory", lambda size, *_: asked.append(size))
    of_image = 60 * 1000
    for options in ({}, {"num_workers": 2}, {"masks": False}):
        data = module(write(tmp_path), **options)
        data.setup("fit"), data.setup("validate")
    objects = np.array([3, 0, 0, 1])
    most = [objects.mean() + 3 * objects.std() / images**0.5 for images in (1, 8)]
    expected = [pixels * of_image for most in most for pixels in (3 + 2 * (3 + most), 3)]
    assert asked == [*(int(size) for size in expected), 9 * of_image, 3 * of_image]


def test_masks_are_the_same_from_loader_processes(shapes: Path) -> None:
    pipeline = FixedSize(64, 96, scale=(0.5, 2.0))
    batches = [
        list(COCO(shapes / "coco", pipeline=pipeline, batch_size=4, num_workers=count, masks=True).train_dataloader())
        for count in (0, 1)
    ]
    objects = 0
    for ours, theirs in zip(*batches, strict=True):
        for (height, width), one, other in zip(ours["size"].tolist(), ours["targets"], theirs["targets"], strict=True):
            assert one["masks"].shape == (len(one["boxes"]), height, width)
            assert all(torch.equal(one[name], other[name]) for name in ("masks", "crowd", "boxes", "labels", "area"))
            objects += len(one["masks"])
    assert objects > 10
