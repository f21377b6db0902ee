"""Label masks in any folders and with any values: which mask is whose, and what each value becomes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import DataError, LabelMasks, MaskFiles, RandomRatioCrop
from datamodules.ade20k import ADE20K
from datamodules.mask_doubts import doubt_first_value
from datamodules.mask_files import pair_files
from datamodules.mask_values import MaskValues, expanded, packed, ranges
from datamodules.sampling import SampleKey, seed_transforms

SPLIT = MaskFiles("images", "masks")
NAMES = ["road", "car", "sky"]


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def data_set(root: Path, mask: Any, name: str = "one") -> Path:
    """An image and its mask, written as PNG."""
    write(root / "images" / f"{name}.png", np.full((*np.asarray(mask).shape[:2], 3), 90, np.uint8))
    write(root / "masks" / f"{name}.png", mask)
    return root


def module(root: Path, **options: Any) -> LabelMasks:
    pipeline = RandomRatioCrop(longest=200, shorter=60, crop=32)
    defaults = {"train": SPLIT, "val": SPLIT, "pipeline": pipeline, "num_workers": 0, "batch_size": 1}
    return LabelMasks(root, **(defaults | options))


def labels(data: LabelMasks, index: int = 0) -> Any:
    """What validation sees of a mask, and `read_labels` gives."""
    dataset: Any = data.val_dataset()
    sample = dataset[SampleKey(0, index, False)]["mask"]
    read = dataset.read_labels(index)
    assert torch.equal(sample, torch.from_numpy(read if read.dtype == np.uint8 else read.view(np.int16)))
    return read


def pairs(root: Path, *files: str | None) -> list[tuple[str, str]]:
    images, masks = pair_files(root, MaskFiles(*files), "REMEDY")  # type: ignore[arg-type]
    return [
        (str(image.relative_to(root)), str(mask.relative_to(root))) for image, mask in zip(images, masks, strict=True)
    ]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folders_pair_names_whatever_their_endings(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.JPG", "images/a.x.jpeg", "images/c.png", "images/.b.jpg", "images/notes.txt")
    touch(tmp_path, "masks/b.PNG", "masks/a.x.tif", "masks/d.png", "masks/c.jpg")
    expected = [("images/a.x.jpeg", "masks/a.x.tif"), ("images/b.JPG", "masks/b.PNG"), ("images/c.png", "masks/c.png")]
    assert pairs(tmp_path, "images", "masks") == pairs(tmp_path, "images/", "masks/*") == expected
    assert pairs(tmp_path, "images/*.JPG", "masks/*.bmp") == [("images/b.JPG", "masks/b.bmp")]
    assert pairs(tmp_path, str(tmp_path / "images"), "masks/*.png")[2] == ("images/c.png", "masks/c.png")


def test_stars_stand_for_the_same_text(tmp_path: Path) -> None:
    touch(tmp_path, "left/ulm/ulm_1_image.png", "left/bonn/bonn_[2]_image.png", "left/bonn/other.png")
    assert pairs(tmp_path, "left/*/*_image.png", "gt/*/*_ids.png") == [
        ("left/bonn/bonn_[2]_image.png", "gt/bonn/bonn_[2]_ids.png"),
        ("left/ulm/ulm_1_image.png", "gt/ulm/ulm_1_ids.png"),
    ]
    touch(tmp_path, "deep/x.jpg", "deep/1/2/x.jpg")
    assert pairs(tmp_path, "deep/**/*.jpg", "gt/**/*.png") == [
        ("deep/1/2/x.jpg", "gt/1/2/x.png"),
        ("deep/x.jpg", "gt/x.png"),
    ]


def test_lists_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.JPEG", "images/c.jpg", "city/u/u1_rgb.png", "masks/a.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfc\r\n\r\na.jpg\r\nimages/b.JPEG\r\n")
    expected = [("images/a.jpg", "masks/a.png"), ("images/b.JPEG", "masks/b.png"), ("images/c.jpg", "masks/c.png")]
    assert pairs(tmp_path, "images", "masks", "list.txt") == expected
    (tmp_path / "list.txt").write_text("c\nnowhere.jpg\n")
    assert pairs(tmp_path, "images/*.jpg", "masks/*.png", "list.txt")[1] == ("images/nowhere.jpg", "masks/nowhere.png")
    (tmp_path / "list.txt").write_text("u/u1\n")
    assert pairs(tmp_path, "city/*_rgb.png", "gt/*_ids.png", "list.txt") == [("city/u/u1_rgb.png", "gt/u/u1_ids.png")]
    (tmp_path / "list.txt").write_text("city/u/u1_rgb.png\n")
    assert pairs(tmp_path, "city/*/*_rgb.png", "gt/*/*.png", "list.txt") == [("city/u/u1_rgb.png", "gt/u/u1.png")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("images", "masks", "none.txt"),
            r"^.*/none\.txt does not exist; expected a text file with the name of an image",
        ),
        (("images", "masks", "latin.txt"), r"latin\.txt is not UTF-8 text .*; save it as UTF-8"),
        (
            ("images", "masks", "unknown.txt"),
            r"unknown\.txt lists 'z', but there is no such image in .*/images; correct",
        ),
        (("images", "masks", "twice.txt"), r"twice\.txt lists 'a\.jpg' twice"),
        (("*/*.jpg", "*/*.png", "twice.txt"), r"twice\.txt lists 'a', expected a path that '\*/\*\.jpg' finds below"),
        (("images/*/*", "masks/*"), r"^images is 'images/\*/\*' and masks 'masks/\*', expected the same wildcards"),
        (("empty", "masks"), r"^no images in .*/empty; REMEDY"),
        (
            ("double", "masks"),
            r"/double/a\.jpg and a\.png are both called 'a': one image has one mask; take one of them",
        ),
        (("images", "two"), r"/two/a\.bmp and a\.png are both called 'a': one image has one mask"),
    ],
)
def test_faulty_files_are_refused(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "double/a.jpg", "double/a.png", "empty/a.txt", "two/a.bmp", "two/a.png")
    (tmp_path / "latin.txt").write_bytes("Möwe\n".encode("latin-1"))
    (tmp_path / "unknown.txt").write_text("a\nz\n")
    (tmp_path / "twice.txt").write_text("a\na.jpg\n")
    with pytest.raises(DataError, match=message) as error:
        pairs(tmp_path, *files)
    assert "\n" not in str(error.value)


def test_two_images_of_one_mask_are_refused_in_every_layout(tmp_path: Path) -> None:
    for folder in ("training", "validation"):
        touch(tmp_path, f"images/{folder}/a.jpg", f"images/{folder}/a.png", f"annotations/{folder}/a.png")
    (tmp_path / "objectInfo.txt").write_text("Idx\tName\n1\troad\n2\tcar\n")
    with pytest.raises(
        DataError, match=r"images/training/a\.jpg and a\.png are both called 'a': one image has one mask"
    ):
        ADE20K(tmp_path).train_dataset()


def test_values_count_on_from_the_first(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 255]], np.uint8)
    root = data_set(tmp_path, stored)
    data = module(root, classes=NAMES)
    assert labels(data).tolist() == [[0, 1, 2, 255]]
    assert data.convention() == f"masks of {root}: 3 classes, 0 = road, 1 = car, 2 = sky; ignored: 255"
    data = module(root, classes=NAMES[:2], first_value=1)
    assert labels(data).tolist() == [[255, 0, 1, 255]]
    assert data.convention() == f"masks of {root}: 2 classes, 1 = road, 2 = car; ignored: 0, 255"
    assert labels(module(root, classes=["a", "b"], ignored=[0, 255], values=["1..2"])).tolist() == [[255, 0, 1, 255]]


def test_value_map_merges_ignores_and_refuses(tmp_path: Path) -> None:
    root = data_set(tmp_path, np.array([[0, 255, 7, 8, 9]], np.uint8))
    table = {0: "road", 7: "car", 255: "car", 8: None, 9: "sky"}
    data = module(root, values=table)
    assert data.class_names == NAMES and labels(data).tolist() == [[0, 1, 1, 255, 2]]
    assert data.convention().endswith("3 classes, 0 = road, 7, 255 = car, 9 = sky; ignored: 8, 65535")
    merged = module(root, values={0: "a", 1: "b", 2: "a", 3: "a", 4: "a", 9: "b"})
    assert "2 classes, 0, 2..4 = a, 1, 9 = b; " in merged.convention()
    del table[8]
    path = re.escape(str(root / "masks" / "one.png"))
    with pytest.raises(
        DataError, match=rf"^{path}: label 8 found, expected 0, 7, 9, 255 or 65535; say in --data\.values"
    ):
        labels(module(root, values=table))
    assert labels(module(root, values=table, others="ignore")).tolist() == [[0, 1, 1, 255, 2]]
    assert "ignored: 65535, all others" in module(root, values=table, others="ignore").convention()


def test_classes_are_matched_by_name_to_those_of_the_model(tmp_path: Path) -> None:
    root = data_set(tmp_path, np.array([[3, 5, 9, 255]], np.uint8))
    data = module(root, classes=NAMES, values=[3, 5, 9], class_names=["sky", "road", "car"])
    assert labels(data).tolist() == [[1, 2, 0, 255]]
    assert data.class_mapping() == (
        f"{root} numbers its classes differently from the model; mapped by name: 0 sky = 9, 1 road = 3, 2 car = 5"
    )
    unlisted = module(root, values=[3, 5, 9], class_names=["sky", "road", "car"])
    assert labels(unlisted).tolist() == [[0, 1, 2, 255]]
    assert (
        unlisted.class_mapping()
        == f"{root} has no classes: its masks are taken to number the classes as the model does"
    )
    elsewhere = module(root / "elsewhere", classes="names.txt", class_names=NAMES)
    assert elsewhere.class_names == NAMES and elsewhere.class_mapping() is not None, "prediction needs no data set"
    with pytest.raises(
        DataError, match=r"^the model has 2 classes \(road, sky\), but .* has 3 classes \(car, road, sky\)"
    ):
        labels(module(root, classes=NAMES, values=[3, 5, 9], class_names=["road", "sky"]))


def test_colours_of_pictures_and_of_palettes(tmp_path: Path) -> None:
    colours = [(128, 64, 128), (0, 0, 142), (70, 130, 180)]
    picture = np.array([[*colours, (0, 0, 0)]], np.uint8)
    root = data_set(tmp_path, picture)
    indexed = Image.fromarray(np.array([[9, 1, 0, 2]], np.uint8), mode="P")
    palette = [0, 0, 142] * 256
    palette[0:3], palette[6:9], palette[27:30] = colours[2], (0, 0, 0), colours[0]
    indexed.putpalette(palette)
    write(root / "images" / "two.png", picture)
    indexed.save(root / "masks" / "two.png")
    data = module(root, classes=NAMES, colours=colours, others="ignore")
    assert labels(data).tolist() == [[0, 1, 2, 255]] and labels(data, 1).tolist() == [[0, 1, 2, 255]]
    assert data.convention().endswith(
        "3 classes, (128, 64, 128) = road, (0, 0, 142) = car, (70, 130, 180) = sky; ignored: all others"
    )
    with pytest.raises(DataError, match=r"one\.png: colour \(0, 0, 0\) found, expected one of 3 colours; "):
        labels(module(root, classes=NAMES, colours=colours))
    table = "name,r,g,b\nroad, 128, 64, 128\ncar,0,0,142\nsky,70,130,180\nvoid,0,0,0\n"
    (root / "class_dict.csv").write_text(table)
    data = module(root, classes="class_dict.csv", colours="class_dict.csv", class_names=["sky", "road", "void", "car"])
    assert labels(data).tolist() == [[1, 3, 0, 2]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_packed_lookup_is_the_slow_one(kind: Any) -> None:
    random = np.random.default_rng(3)
    places: dict[int, int | None] = {3: 2, 250: None, 17: 0, 18: 1, 200: 2}
    stored = random.choice([*places], (31, 47)).astype(kind)
    expected = np.vectorize(lambda value: 255 if places[value] is None else places[value])(stored)
    assert (MaskValues(["a", "b", "c"], places).read(stored) == expected).all()
    colours = random.integers(0, 256, (5, 3))
    coloured = MaskValues(["a", "b", "c"], {packed(colours[place]): place % 3 for place in range(5)}, coloured=True)
    chosen = random.integers(0, 5, (31, 47))
    assert (coloured.read(colours[chosen].astype(np.uint8)) == chosen % 3).all()


def test_ranges() -> None:
    assert expanded([7, "8", "11..13"]) == [7, 8, 11, 12, 13]
    assert ranges([255, 1, 2, 3, 0, 5, 6, 9], last=" or ") == "0..3, 5, 6, 9 or 255" and ranges([4]) == "4"
    with pytest.raises(
        DataError, match=r"'1-3' is no mask value, expected a number such as 7 or a range such as 11\.\.13"
    ):
        expanded(["1-3"])


def test_more_classes_than_8_bits_hold(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(300)]
    stored = np.array([[0, 254, 255, 256, 299, 65535]] * 40, np.uint16).repeat(8, axis=1)
    root = data_set(tmp_path, stored)
    data = module(root, classes=names, pipeline=RandomRatioCrop(48, 40, (1.0, 1.0), 64, photometric=False, flip=0.0))
    read = labels(data)
    assert read.dtype == np.uint16 and (read == stored).all()
    (batch,) = data.train_dataloader()
    assert batch["mask"].dtype == torch.int16 and batch["mask"].shape == (1, 64, 64)
    assert (batch["mask"][0, :40, :48] == torch.from_numpy(stored.view(np.int16))).all()
    assert (batch["mask"][0, 40:] == -1).all() and (batch["mask"][0, :, 48:] == -1).all()
    assert data.convention().endswith("6 = c6, ..., 299 = c299; ignored: 65535")
    (val,) = data.val_dataloader()
    assert (val["mask"][0] == torch.from_numpy(stored.view(np.int16))).all()
    data_set(root, np.array([[0, 254, 255, 9]], np.uint8))
    assert labels(data).tolist() == [[0, 254, 255, 9]], "masks of 8 bits may come among them"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^no class names; list them in order, as in --data.classes"),
        ({"classes": NAMES, "values": [1, 2]}, "^there are 2 different values for 3 classes; expected one for each"),
        ({"classes": NAMES, "values": [1, 2, 2]}, "^there are 2 different values for 3 classes"),
        ({"classes": NAMES, "colours": [(1, 2, 3)]}, "^there are 1 different colours for 3 classes"),
        ({"classes": NAMES, "values": {0: "bus"}}, r"^values has the class 'bus', expected one of road, car, sky"),
        ({"classes": NAMES, "ignored": [1]}, "^value 1 is ignored and a class; take it out of ignored or of values"),
        ({"classes": NAMES, "first_value": 1, "values": [1, 2, 3]}, "^first_value, values and colours say the same"),
        ({"classes": NAMES, "colours": [], "ignored": [1]}, "^ignored is for numbers; with colours, --data.others"),
        ({"classes": NAMES, "values": [1, 2, 65536]}, "^mask value 65536 .*expected in 0..65535"),
        ({"classes": "names.txt"}, r"^.*/names\.txt does not exist; give the path of a text file below the root"),
        ({"classes": "twice.txt"}, r"^.*/twice\.txt names several classes \['a'\]"),
        (
            {"classes": "mmseg.Nowhere"},
            r"^MMSegmentation has no data set 'mmseg\.Nowhere'; it has ADE20KDataset, .*PascalVOCDataset",
        ),
        (
            {"classes": NAMES, "colours": "twice.txt"},
            r"^.*/twice\.txt has no colours; expected columns r, g and b with numbers",
        ),
    ],
)
def test_conventions_that_make_no_sense_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = data_set(tmp_path, np.zeros((4, 6), np.uint8))
    (root / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match=message) as error:
        labels(module(root, **options))
    assert "\n" not in str(error.value)


def test_files_of_class_names(tmp_path: Path) -> None:
    root = data_set(tmp_path, np.zeros((4, 6), np.uint8))
    for text in (
        "road\ncar, truck\nsky\n",
        "Idx\tName\n0\troad\n1\tcar, truck\n2\tsky\n",
        'name\nroad\n"car, truck"\nsky\n',
    ):
        (root / "names").write_text(text)
        assert module(root, classes="names").class_names == ["road", "car, truck", "sky"]


def test_test_split_is_scored_where_there_is_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        data_set(tmp_path, np.array([[0, 1]], np.uint8), name)
    (tmp_path / "test.txt").write_text("c")
    (batch,) = module(tmp_path, classes=NAMES, test=MaskFiles("images", "masks", "test.txt")).test_dataloader()
    assert [Path(target["file_name"]).stem for target in batch["targets"]] == ["c"]
    assert len(module(tmp_path, classes=NAMES).test_dataloader()) == 3


def test_ade20k_is_a_preset(shapes: Path) -> None:
    ade = ADE20K(shapes / "ade20k", num_workers=0)
    same = LabelMasks(
        shapes / "ade20k",
        MaskFiles("images/training", "annotations/training"),
        MaskFiles("images/validation", "annotations/validation"),
        classes=ade.class_names,
        first_value=1,
        num_workers=0,
    )
    assert same.convention() == ade.convention()
    for one, other in ((ade.train_dataset(), same.train_dataset()), (ade.val_dataset(), same.val_dataset())):
        assert len(one) == len(other)  # type: ignore[arg-type]
        for index in range(len(one)):  # type: ignore[arg-type]
            first, second = one[SampleKey(3, index, False)], other[SampleKey(3, index, False)]
            assert torch.equal(first["image"], second["image"]) and torch.equal(first["mask"], second["mask"])
            assert first["target"]["file_name"] == second["target"]["file_name"]


def test_masks_of_16_bits_are_resampled_as_those_of_8(shared_data: Callable[[str], Path]) -> None:
    """The windows that are drawn depend on the labels, not on their type."""
    root = shared_data("ade20k-sample")
    pipeline = RandomRatioCrop(longest=400, shorter=120, crop=96, ratio=(0.3, 1.0))
    dataset: Any = ADE20K(root, "validation", pipeline=pipeline, num_workers=0).train_dataset()
    image = cv2.imread(str(dataset.paths[0]))
    short = dataset.read_labels(0)
    wide = np.where(short == 255, 65535, short).astype(np.uint16)
    for epoch in range(4):
        seed_transforms(dataset.transforms, 1, SampleKey(epoch, 0, False))
        one = dataset.transforms(image=image, mask=short)["mask"]
        seed_transforms(dataset.transforms, 1, SampleKey(epoch, 0, False))
        other = dataset.transforms(image=image, mask=wide)["mask"]
        assert other.dtype == np.uint16 and (np.where(other == 65535, 255, other) == one).all()


def test_masks_that_count_from_0_make_doubtful_that_they_count_from_1(tmp_path: Path) -> None:
    from_zero = data_set(tmp_path, np.array([[0, 0, 0, 1, 1, 2, 2, 2]], np.uint8))

    def doubt(**options: Any) -> str:
        data = module(from_zero, **options)
        read = labels(data)
        pixels = [(read == label).sum() for label in (0, 1, 2, 255)]
        return str(doubt_first_value("training", data.mask_values, pixels))

    assert doubt(classes=NAMES, first_value=1) == (
        "training: 3 of 8 pixels are ignored and none is 3 = sky, the last class: masks that number their classes "
        "0..2 look like this when they are read as 1..3; if these do, read them by --data LabelMasks, whose first "
        "class is 0 (docs/data.md)"
    )
    assert "none is 3 = sky" in doubt(classes=NAMES, first_value=1, class_names=["sky", "road", "car"])
    assert doubt(classes=NAMES) == doubt(values={0: None, 1: "a", 2: "c"}, classes=["a", "b", "c"]) == "None"
    data_set(tmp_path, np.array([[0, 0, 0, 1, 1, 2, 2, 3]], np.uint8))
    assert doubt(classes=NAMES, first_value=1) == "None"
