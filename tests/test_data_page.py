"""`docs/data.md`: each of its commands is run on small made-up data in the layout that the page describes."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules import convert
from tasks import detect, segment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "data.md"


class Example(NamedTuple):
    """Commands of the page that belong together, and what they print, among other lines, according to the page."""

    commands: list[list[str]]
    printed: str

    @property
    def root(self) -> str:
        """The data set that the commands are about."""
        words = self.commands[-1]
        return words[words.index("--data.root") + 1]


def examples() -> list[Example]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    following = [*blocks[1:], ("", "")]
    pairs = [(text, after) for (kind, text), after in zip(blocks, following, strict=True) if kind == "bash"]
    return [
        Example([*map(shlex.split, text.replace("\\\n", " ").splitlines())], after if kind == "text" else "")
        for text, (kind, after) in pairs
    ]


EXAMPLES = examples()
PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "datamodules.convert": convert.main,
    "tasks.detect": detect.main,
    "tasks.segment": segment.main,
}
"""What `python -m` runs, in this process."""
SMALLER = {
    "datamodules.convert": [],
    "tasks.detect": [
        *("--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--model.backbone.width=0.25"),
        *("--data.num_workers=0", "--data.batch_size=2", "--data.pipeline=FixedSize"),
        *("--data.pipeline.height=64", "--data.pipeline.width=64"),
        *("--model.detector.channels=32", "--model.detector.num_convs=1"),
    ],
    "tasks.segment": [
        *("--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--model.backbone.width=0.25"),
        *("--data.num_workers=0", "--data.batch_size=2", "--data.pipeline=RandomRatioCrop"),
        *("--data.pipeline.longest=96", "--data.pipeline.shorter=64", "--data.pipeline.crop=64"),
    ],
}
"""Options that make a command short."""


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def pair(image: Path, mask: Path, values: Sequence[Any]) -> None:
    """An image of 96 x 64 pixels and its mask: stripes of the values."""
    save(image, np.random.default_rng(0).integers(0, 256, (64, 96, 3)))
    save(mask, np.array(values, np.uint8)[np.arange(96) * len(values) // 96][None].repeat(64, axis=0))


def in_folders(root: Path, values: Sequence[Any], train: str = "train", val: str = "val", masks: str = "masks") -> None:
    for split, names in ((train, ("0001", "0002", "0003")), (val, ("0107", "0108"))):
        for name in names:
            pair(root / "images" / split / f"{name}.jpg", root / masks / split / f"{name}.png", values)


def in_lists(root: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de")):
        (root / f"{split}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            pair(root / "frames" / f"{name}_image.jpg", root / "frames" / f"{name}_mask.png", [0, 1, 2, 255])


def coloured(root: Path) -> None:
    in_folders(root, [(0, 0, 0), (128, 64, 128), (0, 0, 142), (1, 2, 3)])
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\nroad,128,64,128\ncar,0,0,142\n")


def in_the_layout_of_ade20k(root: Path, values: Sequence[int]) -> None:
    in_folders(root, values, "training", "validation", "annotations")
    rows = re.search(r"^    Idx,Name\n(    .*\n)+", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows is not None
    (root / "objectInfo.csv").write_text(re.sub("^    ", "", rows[0], flags=re.MULTILINE))


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        image = root / "leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png"
        pair(image, root / "gtFine" / split / city / f"{city}_000000_000019_gtFine_labelIds.png", [3, 7, 26, 33])


def voc(root: Path) -> None:
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", ["2007_000032", "2007_000039"]), ("val", ["2007_000033"])):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pair(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png", [0, 15, 20, 255])


BOXES = {"train": {"a": [("cat", 8, 4, 32, 20)], "b": [("dog", 40, 10, 48, 40), ("cat", 0, 0, 24, 32)], "c": []}}
BOXES["val"] = {"d": [("dog", 16, 16, 64, 40)], "e": [("cat", 2, 3, 60, 50)]}
"""Class, x, y, width and height of the objects of images of 96 x 64 pixels."""


def photo(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(0, 256, (64, 96, 3)))


def in_coco_files(root: Path) -> None:
    for split, images in BOXES.items():
        records, annotations = [], []
        for number, (name, boxes) in enumerate(images.items(), start=1):
            photo(root / "images" / split / f"{name}.jpg")
            records.append({"id": number, "file_name": f"{name}.jpg", "height": 64, "width": 96})
            annotations += [
                {"id": 0, "image_id": number, "category_id": 1 + (label == "dog"), "bbox": box, "iscrowd": 0}
                for label, *box in boxes
            ]
        for number, record in enumerate(annotations, start=1):
            record.update(id=number, area=record["bbox"][2] * record["bbox"][3])
        content = {"images": records, "annotations": annotations}
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        (root / f"{split}.json").write_text(json.dumps({**content, "categories": categories}))


def in_yolo_files(root: Path) -> None:
    for split, images in BOXES.items():
        (root / "labels" / split).mkdir(parents=True)
        for name, boxes in images.items():
            photo(root / "images" / split / f"{name}.jpg")
            rows = [(label == "dog", (x + w / 2) / 96, (y + h / 2) / 64, w / 96, h / 64) for label, x, y, w, h in boxes]
            text = "\n".join(" ".join(str(float(number)) for number in row) for row in rows)
            (root / "labels" / split / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames:\n- cat\n- dog\n")


def in_voc_files(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in BOXES.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for name, boxes in images.items():
            photo(root / "JPEGImages" / f"{name}.jpg")
            found = "".join(
                f"<object><name>{label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
                f"<ymax>{y + h}</ymax></bndbox></object>"
                for label, x, y, w, h in boxes
            )
            size = "<size><width>96</width><height>64</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.jpg</filename>{size}{found}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(text)


def in_labelme_files(root: Path) -> None:
    pytest.importorskip("supervision")
    for split, images in BOXES.items():
        for name, boxes in images.items():
            photo(root / split / f"{name}.jpg")
            shapes = [
                {"label": label, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
                for label, x, y, w, h in boxes
            ]
            (root / split / f"{name}.json").write_text(json.dumps({"imagePath": f"{name}.jpg", "shapes": shapes}))


DATA: dict[str, Callable[[Path], None]] = {
    "data/boxes": in_coco_files,
    "data/yolo": in_yolo_files,
    "data/VOCdevkit/VOC2007": in_voc_files,
    "data/labelme": in_labelme_files,
    "data/mine": lambda root: in_folders(root, [0, 1, 2, 255]),
    "data/lists": in_lists,
    "data/cracks": lambda root: in_folders(root, [0, 255, 128]),
    "data/coloured": coloured,
    "data/ade": lambda root: in_the_layout_of_ade20k(root, [0, 1, 2, 3, 255]),
    "data/from_zero": lambda root: in_the_layout_of_ade20k(root, [0, 1, 2, 255]),
    "data/cityscapes": cityscapes,
    "data/VOCdevkit/VOC2012": voc,
}
"""What makes the data sets that the commands name."""
IN_CI = ("data/boxes", "data/mine", "data/ade")


def test_every_data_set_of_the_page_is_made_and_every_preset_named() -> None:
    assert {example.root for example in EXAMPLES} == set(DATA) and len(EXAMPLES) == len(DATA)
    masks = ("datamodules.LabelMasks", "datamodules.ADE20K\ninit_args:\n  root: data/ade20k")
    presets = [path for path in (ROOT / "configs" / "data").glob("*.yaml") if any(m in path.read_text() for m in masks)]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE)))
    assert sorted(named) == sorted(path.stem for path in presets)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, id=example.root, marks=[pytest.mark.slow] * (example.root not in IN_CI))
        for example in EXAMPLES
    ],
)
def test_command(
    example: Example,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those in CI stand for the others, which differ in options of the data alone."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    DATA[example.root](tmp_path / example.root)
    monkeypatch.chdir(tmp_path)
    for python, module, program, *arguments in example.commands:
        assert (python, module) == ("python", "-m")
        PROGRAMS[program]([*arguments, *SMALLER[program]])
    printed = [*caplog.messages, *capsys.readouterr().out.splitlines()]
    assert set(example.printed.strip().splitlines()) <= set(printed)
