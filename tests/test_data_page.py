"""`docs/data.md`: each of its commands is run on small made-up data in the layout that the page describes."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tasks import segment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "data.md"


class Example(NamedTuple):
    """A command of the page, and what it prints according to the page."""

    words: list[str]
    printed: str

    @property
    def root(self) -> str:
        """The data set that the command is about."""
        return self.words[self.words.index("--data.root") + 1]


def examples() -> list[Example]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    following = [*blocks[1:], ("", "")]
    pairs = [(text, after) for (kind, text), after in zip(blocks, following, strict=True) if kind == "bash"]
    return [
        Example(shlex.split(text.replace("\\\n", " ")), after if kind == "text" else "")
        for text, (kind, after) in pairs
    ]


EXAMPLES = examples()
PROGRAMS: dict[str, Callable[[list[str]], None]] = {"tasks.segment": segment.main}
"""What `python -m` runs, in this process."""
SMALLER = {
    "tasks.segment": [
        *("--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--model.backbone.width=0.25"),
        *("--data.num_workers=0", "--data.batch_size=2", "--data.pipeline=RandomRatioCrop"),
        *("--data.pipeline.longest=96", "--data.pipeline.shorter=64", "--data.pipeline.crop=64"),
    ]
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


DATA: dict[str, Callable[[Path], None]] = {
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


def test_every_data_set_of_the_page_is_made_and_every_preset_named() -> None:
    assert {example.root for example in EXAMPLES} == set(DATA) and len(EXAMPLES) == len(DATA)
    masks = ("datamodules.LabelMasks", "datamodules.ADE20K\ninit_args:\n  root: data/ade20k")
    presets = [path for path in (ROOT / "configs" / "data").glob("*.yaml") if any(m in path.read_text() for m in masks)]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE)))
    assert sorted(named) == sorted(path.stem for path in presets)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, id=example.root, marks=[pytest.mark.slow] * (example.root != "data/mine"))
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
    python, module, program, *arguments = example.words
    assert (python, module) == ("python", "-m")
    PROGRAMS[program]([*arguments, *SMALLER[program]])
    printed = [*caplog.messages, *capsys.readouterr().out.splitlines()]
    assert example.printed.strip() in printed
