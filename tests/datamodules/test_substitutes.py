"""Training goes on past broken files: the same samples in their place on every process and after a resume."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from datamodules import ADE20K, COCO, DataError, FixedSize, RandomRatioCrop
from datamodules.sampling import SampleKey
from datamodules.substitutes import Losses, Substituted
from tests.datamodules.test_data_loading import epochs


@pytest.fixture
def broken(shapes: Path, tmp_path: Path) -> Path:
    """The sample data set with a training image that is cut off, and one whose mask is missing."""
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)
    for folder in (root / "coco/train2017", root / "ade20k/images/training"):
        path = sorted(folder.iterdir())[3]
        path.write_bytes(path.read_bytes()[:500])
    return root


def detection(root: Path, **options: Any) -> COCO:
    defaults: dict[str, Any] = {"pipeline": FixedSize(64, 64), "batch_size": 4, "num_workers": 0, "on_corrupt": "skip"}
    return COCO(root / "coco", **(defaults | options))


def segmentation(root: Path, **options: Any) -> ADE20K:
    pipeline = RandomRatioCrop(longest=160, shorter=96, crop=64)
    defaults: dict[str, Any] = {"pipeline": pipeline, "batch_size": 4, "num_workers": 0, "on_corrupt": "skip"}
    return ADE20K(root / "ade20k", **(defaults | options))


class Numbers:
    """A data set of numbers, some of which cannot be read."""

    def __init__(self, size: int, broken: set[int]) -> None:
        self.size, self.broken = size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        if key.index in self.broken:
            raise DataError(f"{key.index} is broken")
        return {"value": key.index, "key": key}


def test_a_substitute_follows_from_seed_and_key() -> None:
    dataset = Substituted(Numbers(50, broken={3, 7, 8}), seed=1)  # type: ignore[arg-type]
    drawn = {epoch: dataset[SampleKey(epoch, 3, False)] for epoch in range(60)}
    assert drawn == {epoch: dataset[SampleKey(epoch, 3, False)] for epoch in range(60)}
    values = {sample["value"] for sample in drawn.values()}
    assert len(values) > 20 and not values & {3, 7, 8}
    assert all(sample["key"] == (epoch, 3, False) for epoch, sample in drawn.items())
    assert all(sample["faults"][0] == (3, "3 is broken") for sample in drawn.values())
    assert any(len(sample["faults"]) == 2 for sample in drawn.values()), "some are themselves broken"
    other = Substituted(Numbers(50, broken={3, 7, 8}), seed=2)  # type: ignore[arg-type]
    assert [other[SampleKey(epoch, 3, False)]["value"] for epoch in drawn] != [s["value"] for s in drawn.values()]
    assert dataset[SampleKey(0, 4, False)] == {"value": 4, "key": SampleKey(0, 4, False), "faults": []}
    with pytest.raises(DataError, match=r"none of 20 images .*; the first: 0 is broken"):
        Substituted(Numbers(9, broken=set(range(9))), seed=1)[SampleKey(0, 0, False)]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [detection, segmentation])
def test_epochs_stay_whole(make: Any, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many samples as ever, the same with workers; the file is told once, the rest is what it was."""
    said: list[str] = []
    monkeypatch.setattr("datamodules.substitutes.rank_zero_info", said.append)
    data = make(broken)
    loader = data.train_dataloader()
    seen = [[key.index for batch in loader for key in batch["keys"]] for _ in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in seen)
    assert len(said) == 1 and re.match(r"left out of training: image .* cannot be decoded", said[0])
    assert (data.losses.samples, data.losses.replaced, len(data.losses.new)) == (24, 2, 1)
    assert epochs(make(broken).train_dataloader()) == epochs(make(broken, num_workers=2).train_dataloader())
    key = SampleKey(0, 3, False)
    (target,) = data.batch_of([key])["targets"]
    (again,) = make(broken).batch_of([key])["targets"]
    assert target["image_id"] == again["image_id"] and target["file_name"] == again["file_name"]
    with pytest.raises(DataError, match="cannot be decoded"):
        list(make(broken, on_corrupt="stop").train_dataloader())


@pytest.mark.parametrize("make", [detection, segmentation])
def test_a_broken_file_of_validation_stops(make: Any, shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)
    for folder in (root / "coco/val2017", root / "ade20k/images/validation"):
        path = sorted(folder.iterdir())[1]
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be decoded"):
        list(make(root).val_dataloader())


def test_totals_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("datamodules.substitutes.rank_zero_info", said.append)
    first, second = Losses(), Losses()
    first.take([[], [(3, "a")], [], [], []])
    second.told = {5}  # told by a process that is not the first, which nobody sees
    second.take([[], [], [(5, "b"), (3, "a")], [], [], [], [], [], [], [], [], [], [], [], []])
    second.told -= {3}
    said.clear()
    first.add_up([first.end_epoch(), second.end_epoch()], epoch=4)
    assert said == [
        "left out of training: b",
        "epoch 4: 2 of 20 training samples were replaced, because 2 images cannot be read (--data.on_corrupt skip)",
    ]
    said.clear()
    first.take([[(5, "b")]] + [[]] * 20)
    first.add_up([first.end_epoch()], epoch=5)
    assert [line[:8] for line in said] == ["epoch 5:"], "each file is told once"
    first.take([[(5, "b")]] * 3 + [[]] * 20)
    with pytest.raises(DataError, match=r"3 of 23 training samples had to be replaced, more than 10%: b; .*check"):
        first.add_up([first.end_epoch()], epoch=6)
    first.take([[(5, "b")]] * 11)  # of few samples nothing is concluded
    with pytest.raises(DataError, match=r"11 of 109 training samples"):
        first.take([[]] * 98)
