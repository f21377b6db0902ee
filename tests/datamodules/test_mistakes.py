"""Typical mistakes at the commands of data sets: each ends in one line that says what to write, and exit code 2."""

from importlib import import_module
from pathlib import Path

import pytest

from configs.mistakes import MISTAKE

ROOT = Path(__file__).parents[2]
SET = "check --data COCO --data.root nowhere"
CONVERTED = "convert voc --images a --labels b --write c"

MISTAKES = {
    # what is missing
    "check": "--data not given: python -m datamodules.check --data LabelMasks|ADE20K|COCO",
    "check --data": "--data stands without a value",
    "check --data COCO": "--data COCO needs --data.root",
    "check --data=COCO --data.root": "--data.root stands without a value",
    "check --data.root X": ("--data needs its class before the options of the class: LabelMasks, ADE20K or COCO"),
    "check --config": "--config stands without a file; expected one such as configs/detect/quickstart.yaml",
    "convert": "expected yolo, voc or labelme first",
    "convert yolo": (
        "--images, --labels, --classes and --write not given: python -m datamodules.convert yolo --images IMAGES "
        "--labels LABELS --classes CLASSES --write WRITE"
    ),
    "convert yolo --images": "--images stands without a value",
    "shapes": "--root not given: python -m datamodules.shapes --root ROOT",
    # names
    "check --jsn": "--jsn is no option; did you mean --json?",
    "check --bogus 3": "--bogus is no option; known: --help, --version, --data.help, --data, --json",
    "check extra --data COCO": "'extra' is one argument too many; expected python -m datamodules.check",
    "check --data Coco": "--data Coco cannot be found; did you mean COCO?",
    "check --data my.Data": "--data my.Data cannot be found; known: LabelMasks, ADE20K, COCO",
    f"{SET} --data.bogus 3": "--data.bogus is no option of COCO; --data.help COCO lists all",
    f"{SET} --data.pipeline Fixed": "--data.pipeline Fixed cannot be found; did you mean FixedSize?",
    f"{SET} --data.pipeline FixedSize --data.pipeline.hight 3": (
        "--data.pipeline.hight is no option of FixedSize; did you mean --data.pipeline.height, --data.pipeline.width "
        "or --data.pipeline.flip?"
    ),
    "check --data.help Coco": "--data Coco cannot be found; did you mean COCO?",
    "check --data.pipeline.help": (
        "--data.pipeline.help is asked of a class: --data.help COCO --data.pipeline.help CLASS"
    ),
    "check --data.pipeline.help FixedSize": (
        "--data.pipeline.help is asked of a class: --data.help COCO --data.pipeline.help CLASS"
    ),
    "convert nosuch": "nosuch is no command; known: yolo, voc, labelme",
    "convert yolo --imges x": "--imges is no option; did you mean --images?",
    "shapes --rooot d": "--rooot is no option; did you mean --root?",
    # values
    f"{SET} --data.strict maybe": "--data.strict is 'maybe', expected true or false",
    f"{SET} --data.batch_size 2.5": "--data.batch_size is '2.5', expected an integer",
    f"{SET} --data.orientation up": "--data.orientation is 'up', expected stored, apply or refuse",
    f"{SET} --data.pipeline FixedSize --data.pipeline.height x": ("--data.pipeline.height is 'x', expected an integer"),
    f"{CONVERTED} --corners outer": "--corners is 'outer', expected pixels or edges",
    "shapes --root d --train -3": "--train is '-3', expected an integer from 1 on",
    "shapes --root d --seed x": "--seed is 'x', expected an integer from 0 on",
    "shapes_mosaic --root d --image_format gif": "--image_format is 'gif', expected png or jpg",
    # files
    SET: (
        "--data.root nowhere: no such folder; give that of the data set, or write the sample data set with: "
        "python -m datamodules.shapes --root data/shapes"
    ),
    "check --config picture.png": "picture.png is no recipe with `data` (UnicodeDecodeError); give --data COCO",
    "convert yolo --config no.yaml": "--config: no file no.yaml",
    "shapes --root d --config picture.png": "--config picture.png is no text; expected a yaml file of options",
    "shapes --root picture.png": "picture.png is a file; give --root a folder",
}
"""Command line: the line that it ends with."""


@pytest.mark.filterwarnings("error")  # such as jsonargparse's about its own names, which would stand before the line
@pytest.mark.parametrize("command", MISTAKES)
def test_mistake(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes(bytes.fromhex("89504e470d0a1a0affd8"))
    name, *arguments = command.split()
    with pytest.raises(SystemExit) as end:
        import_module(f"datamodules.{name}").main(arguments)
    assert end.value.code == MISTAKE
    assert capsys.readouterr() == ("", f"error: {MISTAKES[command]}\n")


def test_a_recipe_with_a_wrong_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module("datamodules.check").main(
            ["--config", f"{ROOT}/configs/detect/quickstart.yaml", "--data.root=nowhere"]
        )
    assert capsys.readouterr().err.startswith("error: --data.root nowhere: no such folder; ")
