"""Large images of evaluation: in a file, not copied on their way into a batch, not handed over by workers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules import ADE20K, COCO, FixedSize, RandomRatioCrop, room
from datamodules.collate import collate_images
from datamodules.given_images import GivenImages
from datamodules.image_dataset import ImageDataset
from datamodules.images import read_image
from datamodules.sampling import SampleKey
from tests.datamodules.test_images import SharedData

KEY = SampleKey(0, 0, False)
FORMATS = {"jpg": {"quality": 90}, "png": {}, "tif": {}, "webp": {"lossless": True}}


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Images of more than 5,000 pixels are large; files for them lie in a folder of the test's."""
    for module in ("room", "images", "image_dataset", "preflight.headers"):
        monkeypatch.setattr(f"datamodules.{module}.LARGE", 5000)
    monkeypatch.setattr("datamodules.images._ROWS", 32)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def is_mapped(array: NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_pixels_are_those_in_memory(ending: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{ending}"
    try:
        picture(83, 71, mode).save(path, **FORMATS[ending])
    except (OSError, ValueError) as error:
        pytest.skip(f"Pillow writes no such file: {error}")
    found = read_image(path, room=room.on_disk_if_large)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.images.LARGE", 10**9)
        expected = read_image(path)
    assert is_mapped(found) and not is_mapped(expected) and np.array_equal(found, expected)
    assert is_mapped(GivenImages([path], 0, partial(read_image))(path, room=room.on_disk_if_large))


def test_grey_levels_of_16_bits_and_turned_pictures(tmp_path: Path, shared_data: SharedData) -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (90, 70), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png", room=room.on_disk_if_large)[..., 1], grey >> 8)
    turned = picture(60, 100)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    pixels = read_image(tmp_path / "turned.jpg", "apply", room=room.on_disk_if_large)
    assert pixels.shape == (100, 60, 3) and is_mapped(pixels)
    assert np.array_equal(pixels, np.rot90(read_image(tmp_path / "turned.jpg"), -1))


def test_a_small_image_lies_in_memory(tmp_path: Path) -> None:
    picture(50, 90).save(tmp_path / "small.jpg")
    pixels = read_image(tmp_path / "small.jpg", room=room.on_disk_if_large)
    assert not is_mapped(pixels) and pixels.shape == (50, 90, 3)


@pytest.mark.parametrize("pipeline", [FixedSize(32, 32, test_scale=1.0), RandomRatioCrop(64, 32, test_resize=False)])
def test_a_batch_is_the_file(pipeline: FixedSize | RandomRatioCrop, tmp_path: Path) -> None:
    picture(83, 71).save(tmp_path / "image.jpg")
    decoded: list[NDArray[np.uint8]] = []

    def read(path: Path, **_: Any) -> NDArray[np.uint8]:
        decoded.append(read_image(path, room=room.on_disk_if_large))
        return decoded[-1]

    dataset = ImageDataset([tmp_path / "image.jpg"], pipeline.evaluation(), read=read)
    sample = dataset[KEY]
    batch = collate_images([sample], None, multiple=1)
    assert is_mapped(decoded[0]) and batch["image"].data_ptr() == decoded[0].ctypes.data
    expected = torch.from_numpy(read_image(tmp_path / "image.jpg")).movedim(-1, 0)
    assert batch["image"].shape == (1, 3, 83, 71) and torch.equal(batch["image"][0], expected)
    several = collate_images([sample, sample], None, multiple=1)
    assert torch.equal(several["image"][1], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["image.jpg"]


def test_where_the_disk_is_full_memory_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    pixels = room.on_disk_if_large((80, 70, 3))
    assert pixels.shape == (80, 70, 3) and not is_mapped(pixels) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["coco", "ade20k"])
def test_large_images_of_evaluation_need_no_workers(task: str, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loader(keeps: bool) -> Any:
        if task == "coco":
            pipeline = FixedSize(32, 32, test_scale=1.0 if keeps else None)
            return COCO(shapes / "coco", pipeline=pipeline, num_workers=2).val_dataloader()
        pipeline = RandomRatioCrop(64, 32, test_resize=not keeps)
        return ADE20K(shapes / "ade20k", pipeline=pipeline, num_workers=2).val_dataloader()

    assert [loader(keeps).num_workers for keeps in (True, False)] == [0, 2]
    monkeypatch.setattr("datamodules.preflight.headers.LARGE", 10**6)
    assert loader(True).num_workers == 2
