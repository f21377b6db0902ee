"""What a look through a split in COCO's layout tells, to the exact count."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules import COCO, DataError, FixedSize
from datamodules.findings import Finding
from datamodules.preflight.before_a_run import look_before, look_through
from datamodules.preflight.report import SplitReport

SIZE = (60, 80)  # height, width
GOOD = [10.0, 20.0, 30.0, 40.0]


def split(boxes: list[tuple[int, list[float], int]], names: list[str] | None = None) -> dict[str, Any]:
    """A file of boxes (image, box, crowd) of the category `car`; `cat` never occurs."""
    names = names or ["1.png", "2.png", "3.png"]
    return {
        "images": [
            {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 3, "bbox": box, "area": 100, "iscrowd": crowd}
            for number, (image, box, crowd) in enumerate(boxes, start=1)
        ],
    }


def write(root: Path, train: dict[str, Any], val: dict[str, Any] | None = None) -> Path:
    (root / "annotations").mkdir(parents=True)
    for number, (name, content) in enumerate([("train2017", train), ("val2017", val or split([(1, GOOD, 0)]))]):
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        for record in content["images"]:
            path = root / name / record["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE[::-1], (number, record["id"], 0)).save(path)
    return root


def module(root: Path, **options: Any) -> COCO:
    return COCO(root, **{"pipeline": FixedSize(30, 40), "num_workers": 0, **options})


def reports(root: Path, whole: bool = False, **options: Any) -> tuple[SplitReport, SplitReport]:
    training, validation = look_through(module(root, **options), ["training", "validation"], whole)
    return training, validation


def told(findings: Any) -> dict[str, tuple[str, int, int]]:
    """Kind -> severity, count, total."""
    assert all(isinstance(finding, Finding) for finding in findings)
    kinds = {finding.kind: (finding.severity, finding.count, finding.total) for finding in findings}
    assert len(kinds) == len(findings)
    return kinds


def test_every_cause_is_counted(tmp_path: Path) -> None:
    boxes = [
        (1, GOOD, 0),
        (1, GOOD, 0),  # repeated
        (1, [5.0, 5.0, 0.0, 9.0], 0),  # empty
        (2, [5.0, 5.0, 1.9, 30.0], 0),  # 0.95 pixels wide in a frame of half the size
        (2, [5.0, 5.0, 2.0, 30.0], 0),
        (2, [5.0, 5.0, 0.4, 30.0], 0),  # thin in the image, too
        (2, [60.0, 5.0, 50.0, 10.0], 0),  # 20 of 50 pixels are inside
        (2, [0.1, 0.2, 0.9, 0.8], 1),  # a crowd region, in 0..1
    ]
    training, validation = reports(write(tmp_path / "data", split(boxes)))
    assert told(training.findings) == {
        "crowd": ("warning", 1, 8),
        "empty": ("warning", 1, 8),
        "thin_after_resizing": ("warning", 2, 8),
        "thin": ("note", 1, 8),
        "normalized": ("note", 1, 8),
        "leaves": ("warning", 1, 8),
        "repeated": ("warning", 1, 8),
        "absent_class": ("warning", 1, 2),
    }
    examples = {finding.kind: list(finding.examples) for finding in training.findings}
    assert examples["thin_after_resizing"] == ["annotation 4", "annotation 6"]
    assert examples["repeated"] == ["annotation 2"] and examples["absent_class"] == ["cat"]
    facts = {name: value for name, value in training.facts.items() if isinstance(value, int)}
    assert facts == {
        "images": 3,
        "objects": 6,
        "images without objects": 1,
        "crowd regions": 1,
        "missing files": 0,
        "headers read": 3,
    }
    assert training.facts["objects by class and size"] == {
        "car": {"small": 6, "medium": 0, "large": 0},
        "cat": {"small": 0, "medium": 0, "large": 0},
    }
    assert training.lines(set()) == [
        "training: 3 images, 6 objects of 1 classes; 1 images without objects; 1 crowd regions left out"
    ]
    assert told(validation.findings) == {"absent_class": ("note", 1, 2), "same_names": ("note", 3, 3)}


def test_a_part_of_a_file_is_counted_by_itself(tmp_path: Path) -> None:
    boxes = [(1, GOOD, 0), (2, [1.0, 1.0, 0.0, 1.0], 0), (3, GOOD, 1), (3, GOOD, 0)]
    root = write(tmp_path / "data", split(boxes))
    training, _ = reports(root, max_images=1)
    assert training.facts["objects"] == 1
    assert told(training.findings) == {"absent_class": ("note", 1, 2), "unlisted": ("note", 2, 3)}
    training, _ = reports(root)
    assert training.facts["objects"] == 2 and training.facts["crowd regions"] == 1


@pytest.mark.parametrize(
    ("boxes", "kind", "count", "text"),
    [
        ([], "no_objects", 0, r"0 of 0 annotations are left as objects to train on"),
        (
            [(1, GOOD, 1), (1, [1.0, 1.0, 0.0, 1.0], 0), (2, [1.0, 1.0, 1.0, 9.0], 0)],
            "no_objects",
            0,
            r"0 of 3 annotations are left .*: 1 annotations are crowd .*; 1 boxes have no area .*; 1 objects are",
        ),
        (
            [(1, [0.1, 0.1, 0.5, 0.9], 0), (2, [0.0, 0.3, 1.0, 0.7], 0)],
            "normalized",
            2,
            "2 of 2 boxes lie in 0..1, exp",
        ),
        (
            [(1, [20.0, 10.0, 70.0, 50.0], 0), (2, [1.0, 1.0, 30.0, 9.0], 0)],
            "corners",
            1,
            "1 of 2 boxes leave their im",
        ),
    ],
)
def test_where_nothing_sensible_is_left_no_run_starts(
    boxes: list[Any], kind: str, count: int, text: str, tmp_path: Path
) -> None:
    data = module(write(tmp_path / "data", split(boxes)))
    training = data.look_through("training", whole=False)
    errors = [finding for finding in training.findings if finding.severity == "error"]
    assert [(error.kind, error.count) for error in errors] == [(kind, count)]
    with pytest.raises(DataError, match=text):
        data.setup("fit")
    data.setup("validate")


def test_validation_without_objects_has_no_score(tmp_path: Path) -> None:
    root = write(tmp_path / "data", split([(1, GOOD, 0)]), split([(2, GOOD, 1)]))
    for stage in ("fit", "validate", "test"):
        with pytest.raises(DataError, match=r"val2017\.json: 0 of 1 annotations are left as objects to score: 1 ann"):
            module(root).setup(stage)


def test_more_objects_than_the_metric_counts(tmp_path: Path) -> None:
    boxes = [(2, [float(place % 20), float(place // 20), 9.0, 9.0], 0) for place in range(101)]
    root = write(tmp_path / "data", split(boxes), split([*boxes, (1, GOOD, 0)]))
    training, validation = reports(root)
    assert "many_objects" not in told(training.findings)
    assert told(validation.findings)["many_objects"] == ("warning", 1, 3)


def test_files_are_looked_for_by_name(tmp_path: Path) -> None:
    names = ["1.png", "sub/2.png", "sub/deep/3.png", "4.png", "5.png"]
    root = write(tmp_path / "data", split([(1, GOOD, 0)], names))
    folder = root / "train2017"
    (folder / "sub/2.png").unlink()
    (folder / "5.png").unlink()
    (folder / "5.png").symlink_to(folder / "nowhere.png")
    (folder / "4.png").rename(root / "4.png")
    (folder / "4.png").symlink_to(root / "4.png")
    for name in ("more.JPG", "labels.cache", ".hidden.png", "sub/notes.txt", "sub/deep/other.txt"):
        (folder / name).touch()
    training, _ = reports(root)
    found = {finding.kind: finding for finding in training.findings}
    assert list(found["missing"].examples) == ["5.png", "sub/2.png"] and found["missing"].severity == "error"
    assert (found["unlisted"].count, list(found["unlisted"].examples)) == (1, ["more.JPG"])
    assert (found["other_files"].count, list(found["other_files"].examples)) == (3, ["2 x .txt", "1 x .cache"])
    assert found["hidden"].count == 1 and training.facts["missing files"] == 2
    lenient, _ = reports(root, on_corrupt="skip")
    assert {finding.kind: finding.severity for finding in lenient.findings}["missing"] == "warning"


def test_headers_are_read_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.jpg" for number in range(1, 8)]
    root = write(tmp_path / "data", split([(1, GOOD, 0)], names))
    folder = root / "train2017"
    Image.new("RGB", (9, 9)).save(folder / "2.jpg")
    (folder / "3.jpg").write_bytes(b"no image")
    exif = Image.Exif()
    for number, name, size in ((6, "4.jpg", SIZE), (3, "5.jpg", SIZE[::-1]), (6, "6.jpg", (70, 70))):
        exif[274] = number
        Image.new("RGB", size).save(folder / name, exif=exif)
    monkeypatch.setattr("datamodules.preflight.kept.SAMPLE", 0)
    expected = {
        "unreadable": ("error", 1, 7),
        "size": ("error", 2, 7),  # 2.jpg, and 6.jpg that fits neither way
        "orientation": ("warning", 2, 7),
        "turned": ("note", 1, 7),
    }
    data = module(root)
    assert "size" not in told(data.look_through("training", whole=False).findings), "nothing is looked at"
    whole = data.look_through("training", whole=True)
    assert {kind: found for kind, found in told(whole.findings).items() if kind in expected} == expected
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.preflight.coco.look_at_headers", None)
        assert data.look_through("training", whole=False) == whole, "remembered"
        Image.new("RGB", SIZE[::-1]).save(folder / "2.jpg")
        with pytest.raises(TypeError):
            data.look_through("training", whole=True)
    assert told(data.look_through("training", whole=True).findings)["size"] == ("error", 1, 7)


def test_images_of_both_splits(tmp_path: Path) -> None:
    root = write(tmp_path / "data", split([(1, GOOD, 0)]), split([(1, GOOD, 0)], ["3.png", "9.png"]))
    assert told(reports(root)[1].findings)["same_names"] == ("note", 1, 2)
    (root / "val2017/9.png").write_bytes((root / "train2017/2.png").read_bytes())
    found = {finding.kind: finding for finding in reports(root, whole=True)[1].findings}
    assert found["twins"].severity == "warning" and list(found["twins"].examples) == ["9.png = 2.png"]
    same = reports(root, val_images="train2017", val_annotations="annotations/instances_train2017.json")
    assert told(same[1].findings)["twins"] == ("warning", 3, 3)


def test_a_strict_run_does_not_start_where_something_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("datamodules.preflight.before_a_run.rank_zero_info", said.append)
    root = write(tmp_path / "data", split([(1, GOOD, 0), (1, GOOD, 0)]))
    look_before(module(root), "fit")
    assert [line.partition(":")[0] for line in said] == ["training", "warning", "warning", "validation"]
    said.clear()
    with pytest.raises(DataError, match=r"1 of 2 objects repeat .*; .*1 of 2 classes have no object here"):
        module(root, strict=True).setup("fit")
    assert [line.partition(":")[0] for line in said] == ["training", "validation"], "warnings are in the error"


@pytest.mark.parametrize(
    ("name", "kinds", "text"),
    [
        (
            "cvat_masks_iscrowd1",
            ["no_objects", "no_objects"],
            r"train2017\.json: 0 of 8 .*8 annotations are crowd .*CVAT",
        ),
        (
            "normalized_boxes",
            ["normalized", "normalized"],
            r"train2017\.json: 8 of 8 boxes lie in 0\.\.1, expected pix",
        ),
        ("missing_one_image", ["missing"], r"train2017: 1 of 4 files .* are not there; .*\(train_004\.png\)"),
    ],
)
def test_trials(name: str, kinds: list[str], text: str, shared_data: Callable[[str], Path]) -> None:
    data = module(shared_data(f"trials/{name}"))
    found = [finding for report in look_through(data, ["training", "validation"], False) for finding in report.findings]
    assert [finding.kind for finding in found if finding.severity == "error"] == kinds
    with pytest.raises(DataError) as refused:
        data.setup("fit")
    assert re.search(text, str(refused.value)) and "\n" not in str(refused.value)


def test_listing_asks_for_no_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "data", split([(1, GOOD, 0)], [f"{number}.png" for number in range(1, 50)]))
    data = module(root)
    files = data.image_files("training")
    asked: list[Any] = []
    listed: list[Any] = []
    scandir, stat = os.scandir, os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: (asked.append(path), stat(path, *a, **k))[1])
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    from datamodules.preflight.names import list_files

    assert list_files(files.folder, files.names).missing == []
    assert asked == [] and len(listed) == 1
