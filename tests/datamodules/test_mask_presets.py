"""The files of known segmentation data sets in `configs/data`, on small folders in the real layouts."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from mmseg import datasets
from PIL import Image

from datamodules import ADE20K, LabelMasks, MaskFiles, VisionDataModule
from datamodules.mask_values import MaskValues
from datamodules.sampling import SampleKey

DATA = Path(__file__).parents[2] / "configs" / "data"
PRESETS = sorted(path for path in DATA.glob("*.yaml") if "datamodules.LabelMasks" in path.read_text())
CONVERTERS = Path(mmseg.__file__).parent / ".mim" / "tools" / "dataset_converters"

CITYSCAPES = {  # id -> trainId of the official table; all others are ignored
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14},
    **{28: 15, 31: 16, 32: 17, 33: 18},
}


def preset(name: str, root: Path) -> LabelMasks:
    """The data module of a file, as the command line builds it."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(VisionDataModule, "data")
    options = [f"--data={DATA / name}.yaml", f"--data.root={root}", "--data.num_workers=0"]
    data: Any = parser.instantiate_classes(parser.parse_args(options)).data
    return data


def write(root: Path, image: str, mask: str, values: Any, palette: list[int] | None = None) -> None:
    """An image and its mask of one row."""
    stored = np.array([values], np.uint8)
    for path in (root / image, root / mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((1, len(values), 3), 70, np.uint8)).save(root / image)
    picture = Image.fromarray(stored)
    if palette is not None:
        picture = Image.fromarray(stored, mode="P")
        picture.putpalette(palette)
    picture.save(root / mask)


def read(data: LabelMasks, split: str = "val") -> list[tuple[str, list[int]]]:
    """The first word of the name of each image of a split, and its labels."""
    dataset: Any = data.val_dataset() if split == "val" else data.train_dataset()
    rows = range(len(dataset))
    assert all(dataset[SampleKey(0, row, False)]["image"].shape[0] == 3 for row in rows)
    return [(dataset.paths[row].stem, dataset.read_labels(row)[0].tolist()) for row in rows]


def test_cityscapes(tmp_path: Path) -> None:
    ids = list(range(34))
    expected = [CITYSCAPES.get(value, 255) for value in ids]
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        image = f"{city}_000000_000019"
        gt = f"gtFine/{split}/{city}/{image}_gtFine"
        write(tmp_path, f"leftImg8bit/{split}/{city}/{image}_leftImg8bit.png", f"{gt}_labelIds.png", ids)
        write(tmp_path, "unused.png", f"{gt}_labelTrainIds.png", expected)
        for beside in ("color", "instanceIds"):
            write(tmp_path, "unused.png", f"{gt}_{beside}.png", [0] * 34)
    for name in ("cityscapes", "cityscapes_train_ids"):
        data = preset(name, tmp_path)
        assert data.class_names == list(datasets.CityscapesDataset.METAINFO["classes"]) and len(data.class_names) == 19
        assert read(data) == [("lindau_000000_000019_leftImg8bit", expected)]
        names = [stem for stem, _ in read(data, "train")]
        assert names == ["aachen_000000_000019_leftImg8bit", "ulm_000000_000019_leftImg8bit"]
    assert preset("cityscapes", tmp_path).convention() == (
        f"masks of {tmp_path}: 19 classes, 7 = road, 8 = sidewalk, 11 = building, 12 = wall, 13 = fence, 17 = pole, "
        "19 = traffic light, ..., 33 = bicycle; ignored: 0..6, 9, 10, 14..16, 18, 29, 30, 255"
    )


def voc_palette() -> list[int]:
    """The colours of VOC's PNG files: the bits of the number, spread over the three channels from the top."""
    colours = []
    for number in range(256):
        channels = [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
        colours += channels
    return colours


def test_voc2012(tmp_path: Path) -> None:
    palette = voc_palette()
    assert np.reshape(palette, (-1, 3))[:21].tolist() == datasets.PascalVOCDataset.METAINFO["palette"]
    values = [0, 15, 20, 255]
    for name in ("2007_000032", "2007_000033", "2008_000001"):
        write(tmp_path, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", values, palette)
    write(tmp_path, "JPEGImages/2009_000001.jpg", "SegmentationObject/2009_000001.png", [1, 2, 3, 255], palette)
    lists(tmp_path / "ImageSets" / "Segmentation", train="2007_000032\n2008_000001\n", val="2007_000033\n")
    data = preset("voc2012", tmp_path)
    assert data.class_names == list(datasets.PascalVOCDataset.METAINFO["classes"]) and len(data.class_names) == 21
    assert read(data) == [("2007_000033", values)]
    assert [stem for stem, _ in read(data, "train")] == ["2007_000032", "2008_000001"]
    coloured = LabelMasks(
        tmp_path, data.train, data.val, classes=data.class_names, colours="mmseg.PascalVOCDataset", others="ignore"
    )
    assert read(coloured) == [("2007_000033", values)], "by colours the palette gives the same"


def lists(folder: Path, **splits: str) -> None:
    folder.mkdir(parents=True)
    for split, names in splits.items():
        (folder / f"{split}.txt").write_text(names)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("pascal_context_59", 59, [255, 0, 58, 255]), ("pascal_context_60", 60, [0, 1, 59, 255])],
)
def test_pascal_context(name: str, count: int, expected: list[int], tmp_path: Path) -> None:
    for image in ("2008_000002", "2008_000003"):
        write(tmp_path, f"JPEGImages/{image}.jpg", f"SegmentationClassContext/{image}.png", [0, 1, 59, 255])
    lists(tmp_path / "ImageSets" / "SegmentationContext", train="2008_000002\n", val="2008_000003\n")
    data = preset(name, tmp_path)
    assert len(data.class_names) == count
    assert data.class_names[expected[2]] == "wood" and data.class_names[expected[1]] == "aeroplane"
    assert read(data) == [("2008_000003", expected)] and read(data, "train") == [("2008_000002", expected)]


def test_coco_stuff_10k(tmp_path: Path) -> None:
    for split in ("train2014", "test2014"):
        image = f"COCO_{split[:-4]}2014_000000000077"
        write(tmp_path, f"images/{split}/{image}.jpg", f"annotations/{split}/{image}_labelTrainIds.png", [0, 1, 171])
        (tmp_path / "annotations" / split / f"{image}.mat").touch()
    data = preset("coco_stuff_10k", tmp_path)
    assert data.class_names == list(datasets.COCOStuffDataset.METAINFO["classes"]) and len(data.class_names) == 171
    assert read(data) == [("COCO_test2014_000000000077", [255, 0, 170])]
    assert read(data, "train") == [("COCO_train2014_000000000077", [255, 0, 170])]


def test_coco_stuff_164k(tmp_path: Path) -> None:
    table = runpy.run_path(str(CONVERTERS / "coco_stuff164k.py"))["clsID_to_trID"]
    for split in ("train2017", "val2017"):
        image = f"images/{split}/000000000139.jpg"
        write(tmp_path, image, f"annotations/{split}/000000000139.png", list(table))
        write(tmp_path, image, f"annotations/{split}/000000000139_labelTrainIds.png", list(table.values()))
    for name in ("coco_stuff_164k", "coco_stuff_164k_train_ids"):
        data = preset(name, tmp_path)
        assert data.class_names == list(datasets.COCOStuffDataset.METAINFO["classes"])
        assert read(data) == read(data, "train") == [("000000000139", list(table.values()))]
    places = preset("coco_stuff_164k", tmp_path).mask_values.places
    assert {value: 255 if place is None else place for value, place in places.items()} == table


def test_presets_set_the_same_options() -> None:
    """Otherwise a preset that takes the place of another would keep some of its options without a word."""
    options = {path.stem: yaml.safe_load(path.read_text())["init_args"] for path in PRESETS}
    named = {frozenset([*given, *given["pipeline"]["init_args"]]) for given in options.values()}
    assert len(PRESETS) == 11 and len(named) == 1, named


@pytest.mark.parametrize("name", [path.stem for path in PRESETS])
def test_every_class_of_a_preset_has_one_value(name: str, tmp_path: Path) -> None:
    values: MaskValues = preset(name, tmp_path).mask_values
    places = [place for place in values.places.values() if place is not None]
    assert sorted(places) == list(range(len(values.names)))
    assert values.places[255] is None


def test_colours_are_those_of_the_data_set_in_the_order_of_the_model(tmp_path: Path) -> None:
    palette = [tuple(colour) for colour in datasets.CityscapesDataset.METAINFO["palette"]]
    data = preset("cityscapes", tmp_path)
    assert data.class_colours == palette
    turned = preset("cityscapes", tmp_path)
    turned._given_class_names = data.class_names[::-1]
    assert turned.class_colours == palette[::-1]
    own = MaskFiles("images", "masks/*.png")
    colours = [(1, 2, 3), (4, 5, 6)]
    coloured = LabelMasks(tmp_path, own, own, classes=["elk", "hen"], colours=colours, class_names=["hen", "elk"])
    assert coloured.class_colours == colours[::-1]
    assert LabelMasks(tmp_path, own, own, classes=["elk", "hen"]).class_colours is None


def test_colours_of_ade20k_are_found_by_its_names(shared_data: Callable[[str], Path]) -> None:
    """Of which one is spelt differently in MMSegmentation, and one has a blank behind it."""
    data = ADE20K(shared_data("ade20k-sample"))
    assert data.class_colours == [tuple(colour) for colour in datasets.ADE20KDataset.METAINFO["palette"]]
    assert ADE20K(Path("nowhere"), class_names=data.class_names).class_colours == data.class_colours
    assert ADE20K(Path("nowhere"), class_names=data.class_names[::-1]).class_colours is None
