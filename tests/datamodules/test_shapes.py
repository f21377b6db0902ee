"""The embedded sample data set: the same bytes everywhere, and truth that agrees with the pictures in both layouts."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from datamodules.shapes import main, polygons, run_lengths
from datamodules.shapes_scene import KINDS, LEAST_VISIBLE, NAMES, draw_scene

GOLDEN = "56c63529f2befe869110bcb93fa24bd14d20dbcfbe11050dc4574a963727d6b8"
SPLITS = [("train2017", "training", "ADE_train", 0, 60), ("val2017", "validation", "ADE_val", 1, 4)]


def write(root: Path, seed: int = 0, train: int = 6, val: int = 4) -> Path:
    main([f"--root={root}", f"--seed={seed}", f"--train={train}", f"--val={val}"])
    return root


def digest(root: Path) -> str:
    """SHA-256 over the names and contents of all files, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()):
        total.update(f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shapes"), train=60)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = (digest(write(tmp_path / name, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == second == GOLDEN, "if the drawing changed on purpose, raise shapes.VERSION and renew GOLDEN"
    assert other != first


def test_scenes_do_not_depend_on_the_counts(root: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few", train=2, val=1)
    pictures = [path.relative_to(few) for path in few.rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(pictures) == 3 * (2 + 1)
    assert all((few / picture).read_bytes() == (root / picture).read_bytes() for picture in pictures)


@pytest.mark.parametrize(("coco", "ade20k", "prefix", "split", "count"), SPLITS)
def test_coco_annotations_agree_with_the_scenes(
    root: Path, coco: str, ade20k: str, prefix: str, split: int, count: int
) -> None:
    truth = COCO(root / "coco" / "annotations" / f"instances_{coco}.json")
    assert sorted(truth.imgs) == list(range(1, count + 1))
    instances = [(i + 1, instance) for i in range(count) for instance in draw_scene(0, split, i).instances]
    assert sorted(truth.anns) == list(range(1, len(instances) + 1))
    for annotation_id, (image_id, instance) in enumerate(instances, start=1):
        annotation, entry = truth.anns[annotation_id], truth.imgs[image_id]
        assert annotation["image_id"] == image_id
        assert annotation["category_id"] == instance.kind.category_id
        assert annotation["iscrowd"] == instance.crowd
        assert isinstance(annotation["segmentation"], dict if instance.crowd else list)
        decoded = truth.annToMask(annotation).astype(bool)
        assert (decoded & instance.mask).sum() >= 0.98 * (decoded | instance.mask).sum()
        assert annotation["area"] == instance.mask.sum() >= LEAST_VISIBLE * instance.full_area
        rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns[0], rows[0])
        assert (left + width, top + height) == (columns[-1] + 1, rows[-1] + 1)
        assert left >= 0 and top >= 0 and left + width <= entry["width"] and top + height <= entry["height"]


@pytest.mark.parametrize(("coco", "ade20k", "prefix", "split", "count"), SPLITS)
def test_both_layouts_hold_the_same_scenes(
    root: Path, coco: str, ade20k: str, prefix: str, split: int, count: int
) -> None:
    truth = COCO(root / "coco" / "annotations" / f"instances_{coco}.json")
    for image_id in range(1, count + 1):
        entry = truth.imgs[image_id]
        photo = root / "coco" / coco / entry["file_name"]
        picture = root / "ade20k" / "images" / ade20k / f"{prefix}_{image_id:08d}.jpg"
        labels = pixels(root / "ade20k" / "annotations" / ade20k / f"{prefix}_{image_id:08d}.png")
        assert photo.read_bytes() == picture.read_bytes()
        assert pixels(photo).shape == (entry["height"], entry["width"], 3)
        assert labels.shape == (entry["height"], entry["width"])
        assert labels.dtype == np.uint8
        assert labels.max() <= len(NAMES)
        found = {category["id"]: label for label, category in enumerate(truth.dataset["categories"], start=1)}
        for annotation in truth.loadAnns(truth.getAnnIds(image_id)):
            inside = labels[truth.annToMask(annotation).astype(bool)]
            assert set(inside) <= {0, found[annotation["category_id"]]}  # 0: the margin of a later shape


def test_coco_has_what_makes_coco_hard(root: Path) -> None:
    truth = COCO(root / "coco" / "annotations" / "instances_train2017.json")
    assert [category["name"] for category in truth.dataset["categories"]] == [kind.name for kind in KINDS]
    assert sorted(truth.cats) == [1, 2, 4, 7, 11, 13]
    assert {annotation["category_id"] for annotation in truth.anns.values()} == set(truth.cats)
    assert any(not truth.imgToAnns[image_id] for image_id in truth.imgs), "an image without annotations"
    assert any(annotation["iscrowd"] for annotation in truth.anns.values()), "a crowd"
    assert any(len(a["segmentation"]) > 1 for a in truth.anns.values() if not a["iscrowd"]), "an object in parts"
    assert {entry["width"] > entry["height"] for entry in truth.imgs.values()} == {True, False}


def test_ade20k_class_list_counts_the_labels(root: Path) -> None:
    with open(root / "ade20k" / f"objectInfo{len(NAMES)}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Name"] for row in rows] == list(NAMES)
    assert [int(row["Stuff"]) for row in rows] == [0] * 6 + [1] * 3
    train, val = (
        [pixels(path) for path in (root / "ade20k" / "annotations" / split).iterdir()]
        for split in ("training", "validation")
    )
    area = sum(labels.size for labels in train + val)
    for row in rows:
        label = int(row["Idx"])
        assert int(row["Train"]) == sum((labels == label).any() for labels in train)
        assert int(row["Val"]) == sum((labels == label).any() for labels in val)
        assert float(row["Ratio"]) == pytest.approx(
            sum((labels == label).sum() for labels in train + val) / area, abs=1e-4
        )
    other = sum((labels == 0).sum() for labels in train + val) / area
    assert 0.01 < other < 0.15


def test_second_call_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, train=1, val=1)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "wrote 1 train and 1 val" in capsys.readouterr().out
    write(tmp_path, train=1, val=1)
    assert "already holds" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_interrupted_call_is_made_good(tmp_path: Path) -> None:
    (tmp_path / ".shapes-unfinished" / "coco").mkdir(parents=True)
    write(tmp_path, train=1, val=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ade20k", "coco", "shapes.json"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line on stderr of a call that exits with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_refuses_what_is_not_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, own, file = tmp_path / "foreign", tmp_path / "own", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    file.touch()
    write(own, train=1, val=1)
    for folder, reason in ((foreign, "thesis.tex"), (file, "is a file"), (own, '"seed":0')):
        message = refusal(capsys, f"--root={folder}", "--seed=7")
        assert reason in message
        assert message.count("\n") == 1
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("argument", ["--seed=-1", "--train=0", "--val=0", "--size=3"])
def test_refuses_a_wrong_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    assert argument[2:].split("=")[0] in refusal(capsys, f"--root={tmp_path}", argument)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rows",
    [
        ["#"],
        ["###", "# #", "###"],
        ["#.", ".#"],
        ["#####", "#.#.#", "#####", "#.#.#", "#####"],
        ["##.", "#.#", ".##"],
        ["......", ".####.", ".#..#.", ".#.##.", ".##.#.", "......"],
    ],
)
def test_encodings_return_the_mask(rows: list[str]) -> None:
    """Single pixels, holes, pixels that touch at a corner."""
    mask = np.array([[character == "#" for character in row] for row in rows])
    truth = COCO()
    truth.imgs = {1: {"height": mask.shape[0], "width": mask.shape[1]}}
    for region in (polygons(mask), run_lengths(mask)):
        decoded = truth.annToMask({"image_id": 1, "segmentation": json.loads(json.dumps(region))})
        np.testing.assert_array_equal(decoded.astype(bool), mask)
