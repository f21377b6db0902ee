"""What a look through images with label masks tells, to the exact pixel."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import ADE20K, DataError
from datamodules.preflight.before_a_run import look_through
from datamodules.preflight.report import SplitReport

CLASSES = ("wall", "sky", "car")


def write(root: Path, training: Sequence[Sequence[Sequence[int]]], validation: Any = None) -> Path:
    """A data set of three classes with these masks."""
    root.mkdir(exist_ok=True)
    lines = [f"{place}\t{name}" for place, name in enumerate(CLASSES, start=1)]
    (root / "objectInfo.txt").write_text("\n".join(["Idx\tName", *lines]))
    for split, masks in (("training", training), ("validation", validation or [[[1, 2, 3]]])):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number, values in enumerate(masks):
            mask = np.array(values, np.uint8)
            name = f"{split[0]}{number}"
            Image.fromarray(mask).save(root / "annotations" / split / f"{name}.png")
            Image.fromarray(mask).convert("RGB").save(root / "images" / split / f"{name}.png")
    return root


def module(root: Path, **options: Any) -> ADE20K:
    return ADE20K(root, **{"num_workers": 0, **options})


def training_of(root: Path, whole: bool = False, **options: Any) -> SplitReport:
    return module(root, **options).look_through("training", whole)


def told(report: SplitReport) -> dict[str, tuple[str, int, int]]:
    return {finding.kind: (finding.severity, finding.count, finding.total) for finding in report.findings}


def test_pixels_are_counted(tmp_path: Path) -> None:
    report = training_of(write(tmp_path, [[[0, 1, 1, 2], [255, 1, 2, 3]], [[0, 255]]]))
    assert told(report) == {"empty_masks": ("note", 1, 2)}
    assert report.facts["share of pixels by class"] == {"wall": 0.3, "sky": 0.2, "car": 0.1}
    assert report.facts["share of ignored pixels"] == 0.4 and report.facts["masks read"] == 2
    assert report.lines(set()) == [
        "training: 2 images, 3 classes; pixels: wall 30.0%, sky 20.0%, car 10.0%, ignored 40.0%"
    ]


def test_classes_that_never_occur_and_shifted_labels(tmp_path: Path) -> None:
    """Masks that number their classes 0..2 have no 3, and 0 is common."""
    report = training_of(write(tmp_path, [[[0, 1, 2, 0]]], [[[0, 1, 2, 0]]]))
    assert told(report) == {"absent_class": ("warning", 1, 3), "first_value": ("warning", 2, 4)}
    validation = module(tmp_path).look_through("validation", whole=False)
    assert told(validation)["absent_class"] == ("note", 1, 3)


def test_a_sample_judges_no_rare_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, [[[0, 1, 2, 0]]] * 9 + [[[3]]])
    monkeypatch.setattr("datamodules.preflight.kept.SAMPLE", 3)
    sample = training_of(root)
    assert told(sample) == {} and sample.facts["masks read"] == 3
    assert sample.words[1].startswith("pixels of 3 masks: ")
    whole = training_of(root, whole=True)
    assert told(whole) == {} and whole.facts["masks read"] == 10
    assert training_of(root) == whole, "remembered"
    Image.fromarray(np.array([[1]], np.uint8)).save(root / "annotations/training/t9.png")
    assert training_of(root).facts["masks read"] == 3, "until a file changes"
    assert set(told(training_of(root, whole=True))) == {"absent_class", "first_value"}


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    root = write(tmp_path, [[[1, 2, 3]]] * 6)
    masks, images = root / "annotations/training", root / "images/training"
    (masks / "t1.png").unlink()
    (masks / "t2.png").write_bytes(b"no picture")
    Image.fromarray(np.array([[7, 1, 1]], np.uint8)).save(masks / "t3.png")
    Image.new("RGB", (5, 5)).save(images / "t4.png")
    (images / "t6.heic").touch()
    (masks / "t9.png").touch()
    report = training_of(root)
    assert told(report) == {
        "unreadable": ("error", 2, 6),
        "size": ("error", 1, 3),
        "missing": ("error", 1, 12),
        "unlisted": ("note", 1, 13),
        "other_files": ("note", 1, 13),
    }
    found = {finding.kind: list(finding.examples) for finding in report.findings}
    assert found["missing"] == ["annotations/training/t1.png"] and found["size"] == ["t4.png: 5 x 5 instead of 1 x 3"]
    assert [re.search(r"/(t\d)\.png", fault).group(1) for fault in found["unreadable"]] == ["t2", "t3"]  # type: ignore[union-attr]
    assert set(told(training_of(root, on_corrupt="skip"))["missing"]) == {"warning", 1, 12}
    with pytest.raises(DataError, match=r"label 7 found"):
        module(root).setup("fit")


def test_masks_without_any_class(shared_data: Callable[[str], Path]) -> None:
    data = module(shared_data("trials/mask_0_255"))
    with pytest.raises(
        DataError, match=r"0 of 16384 pixels of the 4 masks read have a class: .*1 = lesion; ignored: 0, 255"
    ):
        data.setup("fit")


def test_jfif_images_are_images(shared_data: Callable[[str], Path]) -> None:
    """Whatever the ending of a picture: all 4 and 2 images are read."""
    reports = look_through(module(shared_data("trials/jfif_images")), ["training", "validation"], whole=False)
    assert [report.facts["images"] for report in reports] == [4, 2]
    assert [dict(told(report)) for report in reports] == [{}, {}]
