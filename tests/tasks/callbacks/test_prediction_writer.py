"""What is written of predictions, to the number."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.callbacks import DetectionWriter, LabelMapWriter
from tasks.callbacks.probability_file import ProbabilityFile
from tasks.callbacks.window_progress import WindowProgress
from tasks.detection import DetectionTask


def test_detections_have_the_ids_of_the_data_set_and_boxes_of_corner_and_sides(tmp_path: Path) -> None:
    task = DetectionTask.__new__(DetectionTask)
    torch.nn.Module.__init__(task)
    task.options = SimpleNamespace(category_ids=[3, 7, 90])
    writer = DetectionWriter()
    prediction = {
        "boxes": torch.tensor([[1.0, 2.0, 11.0, 5.0], [20.0, 30.0, 21.0, 38.0], [0.0, 4.0, 2.0, 9.0]]),
        "scores": torch.tensor([0.75, 0.5, 0.25]),
        "labels": torch.tensor([0, 2, 1]),
    }
    with_masks = {name: values[:1] for name, values in prediction.items()}
    with_masks["masks"] = [{"size": (4, 5), "counts": b"86\\\\1"}]
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    writer.write(task, prediction, {"image_id": 42, "file_name": "b.jpg"}, tmp_path, "b.png")
    writer.write(task, with_masks, {"image_id": 43, "file_name": "c.jpg"}, tmp_path, "c.png")
    writer.write(task, empty, {"image_id": 17, "file_name": "a.jpg"}, tmp_path, "a.png")
    writer.finish(SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path))
    assert json.loads((tmp_path / "predictions" / "predictions.json").read_text()) == [
        {"image_id": 42, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 3.0], "score": 0.75},
        {"image_id": 42, "category_id": 90, "bbox": [20.0, 30.0, 1.0, 8.0], "score": 0.5},
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 4.0, 2.0, 5.0], "score": 0.25},
        {
            **{"image_id": 43, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 3.0], "score": 0.75},
            "segmentation": {"size": [4, 5], "counts": "86\\\\1"},
        },
    ]
    assert json.loads((tmp_path / "predictions" / "images.json").read_text()) == [
        {"id": 17, "file_name": "a.jpg"},
        {"id": 42, "file_name": "b.jpg"},
        {"id": 43, "file_name": "c.jpg"},
    ]


@pytest.mark.parametrize(("classes", "mode"), [(254, "L"), (255, "I;16"), (300, "I;16")])
def test_class_k_of_a_label_map_is_stored_as_k_plus_1(classes: int, mode: str, tmp_path: Path) -> None:
    task = SimpleNamespace(class_names=list(map(str, range(classes))))
    prediction = torch.tensor([[0, 1, 149], [7, 2, classes - 1]])
    LabelMapWriter().write(task, prediction, {}, tmp_path, "x/a.png")
    with Image.open(tmp_path / "label_maps" / "x" / "a.png") as image:
        assert np.asarray(image).tolist() == [[1, 2, 150], [8, 3, classes]] and image.mode == mode


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_probabilities_are_written_some_rows_at_a_time(
    bits: int, kind: type[np.uint8 | np.uint16], tmp_path: Path
) -> None:
    shares = torch.randn(13, 7, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    path, names = tmp_path / "a" / "b.npz", ["wall", "sky", "é", "a long name"]
    file = ProbabilityFile(path, (13, 7), names, bits)
    for start in (0, 5, 6):
        assert not path.exists()
        file(shares[start : {0: 5, 5: 6, 6: 13}[start]])
    with np.load(path) as content:
        assert content["class_names"].tolist() == names and content["probabilities"].dtype == kind
        steps = np.iinfo(kind).max
        np.testing.assert_allclose(content["probabilities"] / steps, shares.numpy(), rtol=0, atol=0.501 / steps)
    assert [entry.name for entry in path.parent.iterdir()] == ["b.npz"]


def test_windows_are_counted_for_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = iter([0.0, *[4.0 * step for step in range(1, 13)]]), []
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = WindowProgress("a.png", lines.append)
    for _ in range(2):  # two looks at one image
        for row in range(1, 7):
            progress(5 * row, 30)
    assert lines == [
        "a.png: 15 of 30 windows, 0:00:12 left",
        "a.png: 30 of 30 windows, 0:00:00 left",
        "a.png: 15 of 30 windows, 0:00:08 left",
        "a.png: 30 of 30 windows, 0:00:00 left",
    ]
