"""Images that a program hands over, and what a data module says of itself, against the files that they stand for."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from datamodules import ADE20K, COCO, DataError, FixedSize, LabelMasks, MaskFiles, RandomRatioCrop, ShorterSide
from datamodules.described import describe
from datamodules.given_images import GivenImages
from datamodules.images import read_image
from datamodules.pipelines import MultiScaleCrop, SSDCrop

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str, turned: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    image.save(folder / name, exif=exif)
    return folder / name


@pytest.mark.parametrize("orientation", ["stored", "apply"])
@pytest.mark.parametrize(("mode", "name"), [("RGB", "a.jpg"), ("L", "a.png"), ("P", "a.png"), ("I;16", "a.tif")])
def test_pictures_are_read_as_their_files(mode: str, name: str, orientation: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 16)
    path = saved(tmp_path, image if mode == "I;16" else image.convert(mode), name, turned=6)
    with Image.open(path) as picture:
        given = GivenImages([path, picture], 3, read_image_as(orientation), orientation, 4095)
        assert given.paths == [path, Path("image 4")]
        file, handed_over = map(given, given.paths)
    assert np.array_equal(file, handed_over) and file.dtype == handed_over.dtype == np.uint8
    turned = orientation == "apply" and mode != "I;16"  # that of a TIFF file is part of its format
    assert file.shape == ((9, 5, 3) if turned else (5, 9, 3))


def read_image_as(orientation: str):
    return partial(read_image, orientation=orientation, largest_grey=4095)


def test_arrays() -> None:
    grey = PIXELS[:, :, 0]
    given = GivenImages([PIXELS, grey, grey[:, :, None], grey.astype(np.uint16) * 257, PIXELS[:, ::-1]], 0, read_image)
    pixels = list(map(given, given.paths))
    assert np.array_equal(pixels[0], PIXELS) and np.array_equal(pixels[4], PIXELS[:, ::-1])
    for other in pixels[1:4]:
        assert np.array_equal(other, np.stack([grey] * 3, axis=2))


def test_a_turned_picture_is_refused(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path, Image.fromarray(PIXELS), "a.png", turned=3)) as picture:
        given = GivenImages([picture], 0, read_image, "refuse")
        with pytest.raises(DataError, match=r"^image 0 has EXIF orientation 3"):
            given(given.paths[0])


PIPELINES = (
    ShorterSide((320, 400), 640, 0.25, True),
    MultiScaleCrop((320, 400), 640, (200, 300), (100, 200), 0.25, True),
    FixedSize(96, 64, (0.5, 2.0), False, 0.25, True),
    SSDCrop(96, 64, 0.5, 0.25, True),
    RandomRatioCrop(640, 320, (0.75, 1.5), (96, 64), 0.5, 0.25, False, (0.5, 1.0), False),
    RandomRatioCrop(crop=64),
)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: type(pipeline).__name__)
def test_a_pipeline_keeps_its_arguments(pipeline: object) -> None:
    described = describe(pipeline)
    again = type(pipeline)(**described["init_args"])
    assert described["class_path"] == f"datamodules.pipelines.{type(pipeline).__name__}"
    assert describe(again) == described


def test_what_prediction_needs(shapes: Path) -> None:
    """No path, and what decides about pixels and colours."""
    coco = COCO(shapes / "coco", pipeline=FixedSize(96, 64), orientation="apply", largest_grey=4095, val_batch_size=3)
    arguments = coco.for_prediction()["init_args"]
    assert str(shapes) not in str(arguments) and arguments["root"] == "."
    assert (arguments["orientation"], arguments["largest_grey"], arguments["val_batch_size"]) == ("apply", 4095, 3)
    assert arguments["pipeline"]["init_args"]["width"] == 64
    files = MaskFiles("images/training", "annotations/training/*.png")
    colours = [(9 * number, 1, 2) for number in range(3)]
    masks = LabelMasks(shapes / "ade20k", files, files, classes=["a", "b", "c"], colours=colours)
    arguments = masks.for_prediction()["init_args"]
    assert arguments["colours"] == [[0, 1, 2], [9, 1, 2], [18, 1, 2]] and arguments["classes"] == ["a", "b", "c"]
    assert arguments["train"]["masks"] == "annotations/training/*.png"
    again = LabelMasks(**{**arguments, "train": files, "val": files, "pipeline": None}, class_names=["a", "b", "c"])
    assert [tuple(colour) for colour in again.class_colours] == colours
    assert "classes" not in ADE20K(shapes / "ade20k").for_prediction()["init_args"]


def test_what_is_no_plain_data_is_named() -> None:
    class Odd(ShorterSide):
        def __init__(self, draw: object) -> None:
            super().__init__()
            self.draw = draw

    class Forgetful(ShorterSide):
        def __init__(self, least: int) -> None:
            super().__init__((least,))

    with pytest.raises(DataError, match=r"Odd.draw is <built-in function len>, expected plain data"):
        describe(Odd(len))
    with pytest.raises(DataError, match=r"Forgetful does not keep its argument 'least': expected self.least"):
        describe(Forgetful(3))
