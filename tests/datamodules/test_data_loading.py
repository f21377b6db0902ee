"""The same batches come from 0, 1 or 2 loader processes, and a fault in one of them names its file."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import ADE20K, COCO, DataError, FixedSize, RandomRatioCrop, ShorterSide, VisionDataModule

PIPELINES = {
    "fixed": FixedSize(64, 96, scale=(0.5, 2.0), photometric=True),
    "shorter": ShorterSide((48, 64), 120, photometric=True),
}


def detection(shapes: Path, num_workers: int = 0, seed: int = 0, pipeline: str = "fixed", **options: Any) -> COCO:
    return COCO(
        shapes / "coco", pipeline=PIPELINES[pipeline], batch_size=4, num_workers=num_workers, seed=seed, **options
    )


def segmentation(shapes: Path, num_workers: int = 0, seed: int = 0, **options: Any) -> ADE20K:
    pipeline = RandomRatioCrop(longest=160, shorter=96, crop=64)
    return ADE20K(shapes / "ade20k", pipeline=pipeline, batch_size=4, num_workers=num_workers, seed=seed, **options)


def digest(value: object) -> str:
    """SHA-256 of everything in a batch but its keys, at any depth."""
    total = hashlib.sha256()
    if isinstance(value, Tensor):
        total.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        total.update("".join(f"{key}{digest(item)}" for key, item in value.items() if key != "keys").encode())
    elif isinstance(value, list | tuple):
        total.update("".join(map(digest, value)).encode())
    else:
        total.update(repr(value).encode())
    return total.hexdigest()


def epochs(loader: DataLoader[Any], count: int = 2) -> list[list[str]]:
    """Digests of the batches of each epoch."""
    result = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # as Lightning does
        result.append([digest(batch) for batch in loader])
    return result


@pytest.mark.parametrize("make", [detection, segmentation])
def test_batches_do_not_depend_on_the_number_of_workers(make: Any, shapes: Path) -> None:
    first, one, two = (epochs(make(shapes, num_workers).train_dataloader()) for num_workers in (0, 1, 2))
    assert [len(epoch) for epoch in first] == [3, 3]  # 12 images in batches of 4
    assert first == one == two
    assert not set(first[0]) & set(first[1]), "epochs must differ"
    other = epochs(make(shapes, seed=1).train_dataloader())
    assert not {*first[0], *first[1]} & {*other[0], *other[1]}, "the seed must matter"


def test_samples_of_one_image_differ_between_epochs(shapes: Path) -> None:
    loader = detection(shapes, max_images=4).train_dataloader()
    assert len({digest(sorted(digest(i) for i in batch["image"])) for e in range(3) for batch in at(loader, e)}) == 3


def at(loader: DataLoader[Any], epoch: int) -> list[Any]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


@pytest.mark.parametrize("make", [detection, segmentation])
def test_validation_is_the_same_in_every_epoch(make: Any, shapes: Path) -> None:
    first, second = epochs(make(shapes).val_dataloader())
    assert len(first) == 7 and first == second


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_detection_batch(shapes: Path, pipeline: str) -> None:
    for batch in detection(shapes, pipeline=pipeline).train_dataloader():
        image, size = batch["image"], batch["size"]
        assert image.dtype == torch.uint8 and image.shape[:2] == (4, 3) and not batch["repeated"].any()
        if pipeline == "fixed":
            assert image.shape[2:] == (64, 96)
        else:
            assert image.shape[2] % 32 == image.shape[3] % 32 == 0
        for picture, (height, width), target in zip(image, size.tolist(), batch["targets"], strict=True):
            assert not picture[:, height:].any() and not picture[:, :, width:].any()
            boxes = target["boxes"]
            assert boxes.dtype == torch.float32 and boxes.shape == (len(target["labels"]), 4)
            assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height, width, height])).all()
            assert "ground_truth" not in target


def test_segmentation_batch(shapes: Path) -> None:
    for batch in segmentation(shapes).train_dataloader():
        image, mask = batch["image"], batch["mask"]
        assert image.shape == (4, 3, 64, 64) and mask.shape == (4, 64, 64)
        assert image.dtype == mask.dtype == torch.uint8
        for picture, labels, (height, width) in zip(image, mask, batch["size"].tolist(), strict=True):
            assert not picture[:, height:].any() and not picture[:, :, width:].any()
            assert (labels[height:] == 255).all() and (labels[:, width:] == 255).all()
            assert ((labels < 9) | (labels == 255)).all()


@pytest.mark.parametrize("make", [detection, segmentation])
def test_a_corrupt_image_in_a_worker_is_named(make: Any, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    root = tmp_path / "shapes" / ("coco/train2017" if make is detection else "ade20k/images/training")
    broken = sorted(root.glob("*.jpg"))[5]
    broken.write_bytes(broken.read_bytes()[:700])
    with pytest.raises(DataError, match=re.escape(str(broken))):
        list(make(tmp_path / "shapes", num_workers=1).train_dataloader())


@pytest.mark.parametrize("make", [detection, segmentation])
def test_batch_larger_than_the_data_set_is_refused(make: Any, shapes: Path) -> None:
    module: VisionDataModule = make(shapes, max_images=3)
    with pytest.raises(DataError, match=r"3 images, fewer than batch_size 4 x 1 processes; lower batch_size"):
        module.train_dataloader()


@pytest.mark.parametrize("make", [detection, segmentation])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, "batch_size is 0, expected at least 1"),
        ("val_batch_size", -3, "val_batch_size is -3, expected at least 1"),
        ("num_workers", -1, "num_workers is -1, expected at least 0"),
        ("max_images", 0, "max_images is 0, expected at least 1"),
        ("max_images", -2, "max_images is -2, expected at least 1"),
        ("class_names", [], r"class_names is \[\], expected one name or more, all different"),
        ("class_names", ["a", "a"], r"class_names is \['a', 'a'\], expected one name or more, all different"),
    ],
)
def test_nonsense_options_are_refused(make: Any, name: str, value: Any, message: str, shapes: Path) -> None:
    with pytest.raises(DataError, match=f"^{message}$"):
        type(make(shapes))(shapes, **{name: value})


@pytest.mark.parametrize("make", [detection, segmentation])
def test_prediction_reads_given_images_as_validation_does(make: Any, shapes: Path) -> None:
    folder = "coco/val2017" if make is detection else "ade20k/images/validation"
    given = list(make(shapes, images=str(shapes / folder)).predict_dataloader())
    validation = list(make(shapes).predict_dataloader())
    assert len(given) == len(validation) == 7
    for ours, theirs in zip(given, validation, strict=True):
        assert torch.equal(ours["image"], theirs["image"])
        assert ours["targets"][0]["file_name"] == theirs["targets"][0]["file_name"]
        assert ours["targets"][0]["original_size"].tolist() == theirs["targets"][0]["original_size"].tolist()
        if make is detection:
            assert ours["targets"][0]["image_id"] == theirs["targets"][0]["image_id"]
