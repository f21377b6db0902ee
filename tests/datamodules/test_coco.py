"""The COCO data module: what of a file is trained on, what stays ground truth, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import COCO, DataError, FixedSize, ShorterSide
from datamodules.sampling import SampleKey

SIZE = (30, 40)  # height, width
BOXES = [[10.0, 5.0, 20.0, 10.0], [0.0, 0.0, 40.0, 30.0], [5.0, 5.0, 0.0, 9.0], [-10.1, 20.0, 25.3, 100.0]]


def data_set() -> dict[str, Any]:
    """Image 1 has two usable boxes, a crowd and a box without area; image 2 has nothing."""
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]} for number in (1, 2)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": category, "bbox": box, "area": 10.5 + number, "iscrowd": crowd}
            for number, category, box, crowd in zip(range(4), (7, 3, 3, 7), BOXES, (0, 1, 0, 0), strict=True)
        ],
    }


def write(root: Path, train: dict[str, Any] | None = None, val: dict[str, Any] | None = None) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    for split, content in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content or data_set()))
        for number in (1, 2):
            Image.new("RGB", SIZE[::-1], (number * 50, 0, 0)).save(root / split / f"{number}.png")
    return root


def module(root: Path, **options: Any) -> COCO:
    plain = ShorterSide((60,), 1000, flip=0.0)  # doubles the image
    return COCO(root, **{"pipeline": plain, "num_workers": 0, "batch_size": 2, **options})


def key(index: int, epoch: int = 0) -> SampleKey:
    return SampleKey(epoch, index, False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path)


def test_crowds_and_boxes_without_area_are_not_trained_on(root: Path) -> None:
    target = module(root).train_dataset()[key(0)]["target"]
    assert target["boxes"].numpy() == pytest.approx(np.array([[20, 10, 60, 30], [0, 40, 30.4, 60]]), abs=1e-4)
    assert target["labels"].tolist() == [1, 1] and target["area"].tolist() == [10.5, 13.5]
    assert target["iscrowd"].tolist() == [False, False]
    assert target["image_id"] == 1 and target["original_size"].tolist() == [30, 40]
    assert "ground_truth" not in target


def test_ground_truth_is_the_file(root: Path) -> None:
    target = module(root).val_dataset()[key(0)]["target"]
    truth = target["ground_truth"]
    assert truth["boxes"].dtype == np.float64 and truth["boxes"].tolist() == BOXES
    assert truth["labels"].tolist() == [1, 0, 0, 1] and truth["iscrowd"].tolist() == [False, True, False, False]
    assert truth["area"].tolist() == [10.5, 11.5, 12.5, 13.5]
    assert truth["image_id"] == 1 and truth["original_size"] == SIZE
    assert len(target["boxes"]) == 2


def test_ground_truth_of_a_real_data_set_is_bitwise_the_file(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco-free")
    raw = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    of_image: dict[int, list[list[float]]] = {record["id"]: [] for record in raw["images"]}
    for record in raw["annotations"]:
        of_image[record["image_id"]].append(record["bbox"])
    dataset = COCO(root, pipeline=FixedSize(64, 64), num_workers=0).val_dataset()
    for index in range(0, len(dataset), 8):  # type: ignore[arg-type]
        truth = dataset[key(index)]["target"]["ground_truth"]
        boxes = np.array(of_image[truth["image_id"]], dtype=np.float64).reshape(-1, 4)
        assert truth["boxes"].tobytes() == boxes.tobytes()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("pipeline", [ShorterSide((60,)), FixedSize(32, 32, scale=(0.1, 2.0))])
def test_images_without_annotations_are_negatives(split: str, pipeline: Any, root: Path) -> None:
    dataset = getattr(module(root, pipeline=pipeline), f"{split}_dataset")()
    assert len(dataset) == 2
    target = dataset[key(1)]["target"]
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
    assert target["area"].shape == target["iscrowd"].shape == (0,)
    if split == "val":
        assert target["ground_truth"]["boxes"].shape == (0, 4)


def test_classes_come_from_the_validation_file(root: Path) -> None:
    coco = module(root)
    assert coco.class_names == ["car", "cat"] and coco.category_ids == [3, 7]


def test_given_classes_need_no_data_set(tmp_path: Path) -> None:
    coco = COCO(tmp_path / "none", class_names=["a"], category_ids=[5], images=str(tmp_path), num_workers=0)
    assert coco.class_names == ["a"] and coco.category_ids == [5] and coco.class_mapping() is None
    with pytest.raises(DataError, match="no such folder; give that of the data set"):
        _ = COCO(tmp_path / "none").class_names
    with pytest.raises(DataError, match="class_names has 1 entries, category_ids 2; expected an id for each"):
        COCO(tmp_path / "none", class_names=["a"], category_ids=[5, 6])


@pytest.mark.parametrize("names", [["cat", "car"], ["car", "cat"]])
def test_classes_are_matched_by_name(names: list[str], root: Path) -> None:
    coco = module(root, class_names=names, category_ids=[8, 2])  # of another data set
    assert coco.class_names == names
    assert coco.category_ids == [{"car": 3, "cat": 7}[name] for name in names], "the ids of this data set"
    truth = coco.val_dataset()[key(0)]["target"]
    assert [names[label] for label in truth["ground_truth"]["labels"]] == ["cat", "car", "car", "cat"]
    assert [names[label] for label in truth["labels"]] == ["cat", "cat"]
    assert [names[label] for label in coco.train_dataset()[key(0)]["target"]["labels"]] == ["cat", "cat"]
    numbers = ", ".join(f"{label} {name} = {coco.category_ids[label]}" for label, name in enumerate(names))
    files = [f"{root}/annotations/instances_{split}2017.json" for split in ("val", "train")]
    assert coco.class_mapping() == "; ".join(
        f"{file} numbers its classes differently from the model; mapped by name: {numbers}" for file in files
    )


def test_classes_with_their_own_numbers_need_no_words(root: Path) -> None:
    for options in ({}, {"class_names": ["car", "cat"]}, {"class_names": ["car", "cat"], "category_ids": [3, 7]}):
        coco = module(root, **options)
        coco.train_dataset(), coco.val_dataset()
        assert coco.class_mapping() is None


@pytest.mark.parametrize("names", [["car"], ["car", "dog"], ["car", "cat", "dog"]])
def test_other_classes_are_refused_with_both_lists(names: list[str], root: Path) -> None:
    file = root / "annotations" / "instances_val2017.json"
    ask: list[Callable[[COCO], Any]] = [COCO.val_dataset, COCO.train_dataset, lambda coco: coco.category_ids]
    for question in ask:
        with pytest.raises(DataError) as error:
            question(module(root, class_names=names))
        message = str(error.value).replace("train2017.json", "val2017.json")
        count = f"{len(names)} class{'es' * (len(names) > 1)}"
        assert message.startswith(f"the model has {count} (") and "\n" not in message
        assert f"), but {file} has 2 classes (" in message and all(name in message for name in [*names, "cat"])


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    val = {**data_set(), "annotations": []}
    val["categories"][0]["name"] = "dog"
    with pytest.raises(
        DataError,
        match=r"instances_val2017\.json has 2 classes \(dog, cat\), but .*train2017\.json has 2 classes \(car, cat\)",
    ):
        module(write(tmp_path, val=val)).train_dataset()


def test_splits_may_number_their_classes_differently(tmp_path: Path) -> None:
    val = data_set()
    val["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "car"}]
    coco = module(write(tmp_path, val=val))
    assert coco.class_names == ["cat", "car"] and coco.category_ids == [3, 7]
    assert coco.val_dataset()[key(0)]["target"]["ground_truth"]["labels"].tolist() == [1, 0, 0, 1]
    assert coco.class_mapping() is None, "the validation file is the model's own list"
    assert coco.train_dataset()[key(0)]["target"]["labels"].tolist() == [0, 0]
    assert str(coco.class_mapping()).endswith(
        "instances_train2017.json numbers its classes differently from the model; mapped by name: 0 cat = 7, 1 car = 3"
    )


def test_checkpoint_of_the_same_data_with_other_category_ids(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("trials") / "same_data_other_category_ids"
    pipeline = FixedSize(64, 64)
    trained_on = COCO(root / "trained_on", pipeline=pipeline, num_workers=0)
    ours = COCO(
        root,
        pipeline=pipeline,
        num_workers=0,
        class_names=trained_on.class_names,
        category_ids=trained_on.category_ids,
    )
    assert trained_on.class_names == ours.class_names == ["red", "green"]
    assert trained_on.category_ids == [1, 2] and ours.category_ids == [2, 1]
    for split, size in (("train_dataset", 12), ("val_dataset", 3)):
        expected, found = getattr(trained_on, split)(), getattr(ours, split)()
        for index in range(size):
            one, other = (dataset[key(index)]["target"] for dataset in (expected, found))
            assert torch.equal(one["labels"], other["labels"]) and torch.equal(one["boxes"], other["boxes"])
            if "ground_truth" in one:
                assert one["ground_truth"]["labels"].tolist() == other["ground_truth"]["labels"].tolist()
    assert trained_on.class_mapping() is None
    assert "mapped by name: 0 red = 2, 1 green = 1" in str(ours.class_mapping())


def test_checkpoint_of_another_class_count(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("trials") / "checkpoint_other_class_count"
    with pytest.raises(DataError, match=r"^the model has 2 classes \(red, green\), but .* has 1 class \(only\); "):
        _ = COCO(root, class_names=["red", "green"], category_ids=[1, 2]).category_ids


def test_splits_may_list_categories_in_another_order(tmp_path: Path) -> None:
    train, val = data_set(), data_set()
    val["categories"].reverse()
    coco = module(write(tmp_path, train, val))
    assert coco.train_dataset()[key(0)]["target"]["labels"].tolist() == [1, 1] and coco.class_names == ["car", "cat"]


def test_swapped_width_and_height_are_refused(tmp_path: Path) -> None:
    train = data_set()
    train["images"][0].update(height=SIZE[1], width=SIZE[0])
    root = write(tmp_path, train)
    message = rf"{re.escape(str(root / 'train2017' / '1.png'))} is 30 x 40 .*instances_train2017\.json says 40 x 30"
    with pytest.raises(DataError, match=message):
        module(root).train_dataset()[key(0)]


def test_missing_image_is_named(root: Path) -> None:
    (root / "val2017" / "2.png").unlink()
    with pytest.raises(DataError, match=r"val2017/2\.png does not exist; check the images folder"):
        module(root).val_dataset()[key(1)]


def test_max_images(shapes: Path) -> None:
    coco = COCO(shapes / "coco", max_images=3, num_workers=0)
    assert len(coco.train_dataset()) == len(coco.val_dataset()) == 3  # type: ignore[arg-type]
    assert [coco.val_dataset()[key(index)]["target"]["image_id"] for index in range(3)] == [1, 2, 3]


def test_links_out_of_the_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "1.png"
    (root / "train2017" / "1.png").rename(elsewhere)
    (root / "train2017" / "1.png").symlink_to(elsewhere)
    assert module(root).train_dataset()[key(0)]["image"][0, 0, 0] == 50
    strict = module(root, follow_links=False).train_dataset()
    assert strict[key(1)]["image"][0, 0, 0] == 100
    with pytest.raises(
        DataError, match=rf"train2017/1\.png is a link to {re.escape(str(elsewhere))}, expected a file in"
    ):
        strict[key(0)]


def test_subfolders_in_file_names(tmp_path: Path) -> None:
    val = data_set()
    val["images"][0]["file_name"] = "deep/1.png"
    root = write(tmp_path, val=val)
    (root / "val2017" / "deep").mkdir()
    (root / "val2017" / "1.png").rename(root / "val2017" / "deep" / "1.png")
    assert module(root).val_dataset()[key(0)]["image"][0, 0, 0] == 50


def test_a_sample_is_a_function_of_seed_and_key(shapes: Path) -> None:
    dataset = COCO(shapes / "coco", pipeline=FixedSize(64, 64, scale=(0.5, 2.0)), seed=1).train_dataset()
    first = dataset[key(3, epoch=2)]
    for other in (key(0), key(5, epoch=1)):
        _ = dataset[other]
    again = dataset[key(3, epoch=2)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"]["boxes"], again["target"]["boxes"])
    assert not torch.equal(first["image"], dataset[key(3, epoch=3)]["image"])
