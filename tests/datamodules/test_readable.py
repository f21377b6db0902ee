"""A prediction goes on past broken images, and every image has the id that its annotation file gives it."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from datamodules import COCO, DataError
from datamodules.image_dataset import ImageDataset
from datamodules.image_ids import find_image_ids
from datamodules.readable import ReadableOnly
from datamodules.sampling import KeySampler, SampleKey


class Broken(Dataset[dict[str, Any]]):
    """Samples that are their numbers; some are broken."""

    paths = ("a",)

    def __init__(self, size: int, broken: set[int]) -> None:
        self.size, self.broken, self.reads = size, broken, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        self.reads += 1
        if key.index in self.broken:
            raise DataError(f"{key.index} is broken")
        return {"target": {"image_id": key.index}, "key": key}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("broken", [set(), {0}, {6}, {0, 1, 2, 5}, {1, 2, 3, 4, 5, 6}])
def test_every_process_has_as_many_samples_as_before(broken: set[int], processes: int) -> None:
    read, unreadable = [], []
    for rank in range(processes):
        dataset = ReadableOnly(Broken(7, broken))
        samples = [dataset[key] for key in KeySampler(7, False, 0, rank, processes)]
        assert len(samples) == -(-7 // processes)
        read += [sample["target"]["image_id"] for sample in samples if not sample["key"].repeated]
        unreadable += [sample["target"]["unreadable"] for sample in samples if "unreadable" in sample["target"]]
        assert all(sample["key"].repeated for sample in samples if "unreadable" in sample["target"])
    assert sorted(read) == sorted({*range(7)} - broken)
    assert sorted(unreadable) == [f"{index} is broken" for index in sorted(broken)]


def test_a_readable_sample_is_looked_for_once() -> None:
    inner = Broken(100, {*range(90)})
    dataset = ReadableOnly(inner)
    for index in range(100):
        dataset[SampleKey(0, index, False)]
    assert inner.reads == 100 + 90 + 89, "each, the way to a first good one, and that again for the others"


def test_nothing_that_can_be_read() -> None:
    with pytest.raises(DataError, match=r"^none of 3 images can be read; the first: 1 is broken$"):
        ReadableOnly(Broken(3, {0, 1, 2}))[SampleKey(0, 1, False)]
    other = pickle.loads(pickle.dumps(ReadableOnly(Broken(3, {0}))))
    assert other.paths == ("a",) and len(other) == 3 and not hasattr(other, "nothing")


@pytest.mark.parametrize(
    ("names", "ids", "source"),
    [
        (["000000000139.jpg", "000000000285.jpg"], [139, 285], "are the numbers of the file names"),
        (["ADE_val_1.jpg", "ADE_val_2.jpg"], [1, 2], "count the files from 1 in the order of their names; see images"),
        (["7.jpg", "cat.jpg"], [1, 2], "count the files"),
        (["a/5.jpg", "b/5.jpg"], [1, 2], "count the files"),
    ],
)
def test_ids_without_a_file(names: list[str], ids: list[int], source: str) -> None:
    paths = [Path(name) for name in names]
    assert ImageDataset(paths, []).image_ids == ids
    assert find_image_ids(paths).source.startswith(f"image ids {source}")


def write(root: Path, *names: str) -> tuple[Path, Path]:
    """A split whose ids are 10, 20, ... in the order of the names."""
    images = [{"id": 10 * n, "file_name": name, "height": n, "width": 9} for n, name in enumerate(names, start=1)]
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "split.json").write_text(json.dumps(content))
    return root / "images", root / "split.json"


def test_ids_of_the_annotation_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = write(tmp_path, "2.jpg", "1.jpg", "sub/1.jpg")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for given in (folder, Path("images"), tmp_path / "link", Path("images/../images")):
        found = find_image_ids([given / name for name in ("1.jpg", "2.jpg", "sub/1.jpg")], [(folder, file)])
        assert found == ([20, 10, 30], f"image ids are those of {file}", [(2, 9), (1, 9), (3, 9)])
    assert find_image_ids([folder / "sub" / "1.jpg"], [(folder, file)]).ids == [30]


def test_images_that_are_not_the_files_own(tmp_path: Path) -> None:
    folder, file = write(tmp_path, "2.jpg", "1.jpg", "twice.jpg", "twice.jpg")
    elsewhere = find_image_ids([tmp_path / "2.jpg"], [(folder, file), (tmp_path / "none", tmp_path / "none.json")])
    assert elsewhere == ([2], "image ids are the numbers of the file names", None)
    for name in ("2.jpg", "3.jpg", "twice.jpg"):
        _, source, sizes = find_image_ids([folder / "1.jpg", folder / name], [(folder, file)])
        assert f", as {file} does not name each of these images once" in source and sizes is None
    file.write_text("{")
    with pytest.raises(DataError, match=rf"^{re.escape(str(file))} is not a json file"):
        find_image_ids([folder / "1.jpg"], [(folder, file)])


def test_trial_of_ids_that_are_no_numbers_of_names(
    shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = shared_data("trials") / "ids_not_file_numbers"
    listed = json.loads((root / "annotations" / "instances_val2017.json").read_text())["images"]
    expected = {record["file_name"]: record["id"] for record in listed}
    assert expected["0001.png"] == 2
    coco = COCO(root, images=str(root / "val2017"), num_workers=0)
    with caplog.at_level("INFO"):
        batches = list(coco.predict_dataloader())
    found = {Path(t["file_name"]).name: t["image_id"] for batch in batches for t in batch["targets"]}
    assert found == expected
    assert f"image ids are those of {root}/annotations/instances_val2017.json" in caplog.text + capsys.readouterr().err
