"""Annotation file: first load against pycocotools, later starts, and the memory of loader workers.

`python -m benchmarks.annotations [--json]` generates a file of train2017's size (118,287 images, 860,001 annotations
with polygons, 400 MB), compares every column with what pycocotools reads, and measures. The goals:

- the first load, which also writes the cache, takes a fifth of pycocotools' time and leaves a fifth of its memory
  resident;
- looking for missing masks takes a third of that time at the first start that needs masks;
- a later start takes 0.2 s, with masks, too;
- the look through boxes, file names and some headers before a run takes half the time of the first load, and a later
  start with it 0.5 s;
- the private memory of a loader worker grows by at most 10 MB over an epoch.

`--growth` measures instead how time and memory grow from a file of train2017's size to one of 1,000,000 images and
8,000,000 annotations, which takes 8 GB of disk: at most 1.2 times as much for an annotation; a start in 0.5 s, 20 MB in
a worker.
"""

import json
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Goal, extra_memory, finish, fresh_seconds, parse_options, private_memory, ratio_goal
from datamodules.coco import COCO
from datamodules.coco_annotations import AnnotationFile, clipped_corners
from datamodules.sampling import KeySampler, SampleKey

MODULE = "benchmarks.annotations"
CATEGORIES = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
STARTS = 7
TRAIN2017, MILLION = (118_287, 860_001), (1_000_000, 8_000_000)
"""Images and annotations."""


def main() -> None:
    """Runs the benchmark."""
    options = parse_options(__doc__.splitlines()[0], _add_options)
    with tempfile.TemporaryDirectory(prefix="attndense-annotations-") as folder:
        path = Path(folder) / "instances.json"
        write_annotations(path, options.images, options.annotations)
        goals = _growth_goals if options.growth else _goals
        finish(goals(str(path), folder, options.rounds), options.json)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=TRAIN2017[0])
    parser.add_argument("--annotations", type=int, default=TRAIN2017[1])
    parser.add_argument("--growth", action="store_true", help="compare with a file of a million images")
    parser.add_argument("--rounds", type=int, default=3, help="counted loads of each reader")


def _goals(path: str, folder: str, rounds: int) -> Iterator[Goal]:
    os.environ["ATTNDENSE_CACHE"] = f"{folder}/cache"
    fresh_seconds(MODULE, "compare", path)  # fails where a column differs; and fills the cache
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(fresh_seconds(MODULE, "load_with_pycocotools", path))
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            ours.append(fresh_seconds(MODULE, "load_first", path, cache))
    yield ratio_goal("first load, CPU time of pycocotools / ours", [c.cpu for c in theirs], [c.cpu for c in ours], 5)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        masks = [fresh_seconds(MODULE, "look_through_masks", path, f"{cache}/{turn}").cpu for turn in range(rounds)]
    yield ratio_goal("masks looked through, CPU time of pycocotools / ours", [c.cpu for c in theirs], masks, 3)
    yield ratio_goal("first load, wall time of pycocotools / ours", [c.wall for c in theirs], [c.wall for c in ours], 5)
    fifth = statistics.median(c.cpu for c in theirs) / 5
    yield Goal("first load, CPU time", statistics.median(c.cpu for c in ours), fifth, "s", at_least=False)

    large = extra_memory(MODULE, "load_with_pycocotools", path)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        small = extra_memory(MODULE, "load_first", path, cache)
    yield Goal("first load, resident memory of pycocotools / ours", large.resident / small.resident, 5)
    yield Goal("first load, peak memory of pycocotools / ours", large.peak / small.peak, 5)
    yield Goal("first load, resident memory", small.resident, large.resident / 5, "MB", at_least=False)

    fresh_seconds(MODULE, "start_with_masks", path)  # fills the cache
    for name, function in (("second start", "load_again"), ("second start with masks", "start_with_masks")):
        starts = [fresh_seconds(MODULE, function, path).wall for _ in range(STARTS)]
        yield Goal(name, statistics.median(starts), 0.2, "s", at_least=False, low=min(starts), high=max(starts))
    write_images(Path(path), f"{folder}/images")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        looks = [fresh_seconds(MODULE, "look_before_a_run", path, f"{cache}/{turn}").cpu for turn in range(rounds)]
    yield ratio_goal("look before a run, CPU time of the first load / its own", [c.cpu for c in ours], looks, 2)
    fresh_seconds(MODULE, "start_with_look", path)  # fills the cache
    starts = [fresh_seconds(MODULE, "start_with_look", path).wall for _ in range(STARTS)]
    yield Goal("second start with the look", statistics.median(starts), 0.5, "s", False, min(starts), max(starts))
    growth = worker_growth(AnnotationFile(Path(path)))
    yield Goal("private memory that a worker gains in an epoch", max(growth), 10, "MB", False, min(growth), max(growth))


def _growth_goals(small: str, folder: str, rounds: int) -> Iterator[Goal]:
    os.environ["ATTNDENSE_CACHE"] = f"{folder}/cache"
    large = f"{folder}/million.json"
    more = MILLION[1] / len(AnnotationFile(Path(small)).boxes)
    seconds: dict[str, list[float]] = {small: [], large: []}
    memory = {}
    for path, values in seconds.items():
        if path == large:
            write_annotations(Path(large), *MILLION)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            values += [fresh_seconds(MODULE, "load_first", path, f"{cache}/{turn}").cpu for turn in range(rounds)]
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            memory[path] = extra_memory(MODULE, "load_first", path, cache)
        yield Goal(f"first load of {Path(path).name}, CPU time", statistics.median(values), None, "s", low=min(values))
        yield Goal(f"first load of {Path(path).name}, peak memory", memory[path].peak, None, "MB")
    of_one = [value / more for value in seconds[large]]
    yield ratio_goal("first load, CPU time of an annotation, million / train2017", of_one, seconds[small], 1.2, False)
    for name in ("resident", "peak"):
        ratio = getattr(memory[large], name) / more / getattr(memory[small], name)
        yield Goal(f"first load, {name} memory of an annotation, million / train2017", ratio, 1.2, at_least=False)
    file = AnnotationFile(Path(large))  # fills the cache
    starts = [fresh_seconds(MODULE, "load_again", large).wall for _ in range(STARTS)]
    yield Goal("second start", statistics.median(starts), 0.5, "s", False, min(starts), max(starts))
    growth = worker_growth(file)
    yield Goal("private memory that a worker gains in an epoch", max(growth), 20, "MB", False, min(growth), max(growth))


def load_with_pycocotools(path: str) -> Callable[[], object]:
    """The peer."""
    from pycocotools.coco import COCO

    return lambda: COCO(path)


def load_first(path: str, cache: str) -> Callable[[], object]:
    """A load that finds an empty cache."""
    os.environ["ATTNDENSE_CACHE"] = cache
    return lambda: AnnotationFile(Path(path))


def load_again(path: str) -> Callable[[], object]:
    """A load that finds the columns."""
    return lambda: AnnotationFile(Path(path))


def look_through_masks(path: str, cache: str) -> Callable[[], object]:
    """Looking for missing masks in a file that is open."""
    os.environ["ATTNDENSE_CACHE"] = cache
    return AnnotationFile(Path(path)).check_masks


def start_with_masks(path: str) -> Callable[[], object]:
    """A load and the look for missing masks."""
    return lambda: AnnotationFile(Path(path)).check_masks()


def look_before_a_run(path: str, cache: str) -> Callable[[], object]:
    """The look through a file whose columns are in the cache, and its images."""
    os.environ["ATTNDENSE_CACHE"] = cache
    AnnotationFile(Path(path))
    return start_with_look(path)


def start_with_look(path: str) -> Callable[[], object]:
    """A load and the look before a run."""
    data = COCO(Path(path).parent, train_images="images", train_annotations=Path(path).name)

    def look() -> None:
        report = data.look_through("training", whole=False)
        assert not any(finding.severity == "error" for finding in report.findings)

    return look


def compare(path: str) -> Callable[[], object]:
    """Compares all columns, and one mask in 50, with what pycocotools reads."""
    from pycocotools.coco import COCO

    def run() -> None:
        file, peer = AnnotationFile(Path(path)), COCO(path)
        images = [peer.imgs[number] for number in sorted(peer.imgs)]
        assert file.image_ids.tolist() == [image["id"] for image in images]
        assert file.file_names.tolist() == [image["file_name"] for image in images]
        assert file.sizes.tolist() == [[image["height"], image["width"]] for image in images]
        records = [record for image in images for record in peer.imgToAnns[image["id"]]]
        assert np.diff(file.first).tolist() == [len(peer.imgToAnns[image["id"]]) for image in images]
        assert file.annotation_ids.tolist() == [record["id"] for record in records]
        assert file.boxes.tobytes() == np.array([record["bbox"] for record in records], dtype=np.float64).tobytes()
        assert file.area.tolist() == [record["area"] for record in records]
        assert file.iscrowd.tolist() == [bool(record["iscrowd"]) for record in records]
        categories = np.array(file.category_ids)[file.labels].tolist()
        assert categories == [record["category_id"] for record in records]
        for row in range(0, len(records), 50):
            assert file.segmentation(row) == records[row]["segmentation"]

    return run


class AnnotationReader(Dataset[torch.Tensor]):
    """Reads of the columns what `COCODataset` does, without the image."""

    def __init__(self, file: AnnotationFile) -> None:
        self.file = file

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        """(N, 8) numbers of the N usable boxes of an image."""
        file, where = self.file, self.file.of_image(key.index)
        assert file.file_names[key.index] and file.image_ids[key.index]
        corners = clipped_corners(file.boxes[where], file.sizes[key.index])
        rows = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1) & ~file.iscrowd[where])
        others = [column[where][rows] for column in (file.labels, file.area, file.iscrowd, file.annotation_ids)]
        return torch.from_numpy(np.column_stack([corners[rows], *others]))


def worker_growth(file: AnnotationFile) -> list[float]:
    """MB of private memory that each of two workers gains from its first batch to the end of the epoch."""
    loader: DataLoader[torch.Tensor] = DataLoader(
        AnnotationReader(file),
        batch_size=32,
        sampler=KeySampler(len(file), shuffle=True, seed=0),
        num_workers=2,
        collate_fn=torch.cat,
        persistent_workers=True,
    )
    batches: Any = iter(loader)
    boxes = sum(len(next(batches)) for _ in range(2 * loader.num_workers))
    time.sleep(1)  # until the workers have filled their queues
    workers = [worker.pid for worker in batches._workers]
    before = [private_memory(worker) for worker in workers]
    boxes += sum(map(len, batches))
    assert 0 < boxes <= len(file.boxes)
    return [private_memory(worker) - earlier for worker, earlier in zip(workers, before, strict=True)]


def write_images(path: Path, folder: str) -> None:
    """Writes an empty picture for each image of a file."""
    file = AnnotationFile(path)
    os.makedirs(folder)
    pictures = {}
    for name, (height, width) in zip(file.file_names, file.sizes.tolist(), strict=True):
        if (height, width) not in pictures:
            content = BytesIO()
            Image.new("1", (width, height)).save(content, "PNG")
            pictures[height, width] = content.getvalue()
        Path(folder, name).write_bytes(pictures[height, width])


ADDRESS = "x" * 60
"""As long as the addresses in COCO's files."""


def write_annotations(path: Path, images: int, annotations: int) -> None:
    """Writes a file like COCO's: its key order, number format, gaps in ids, polygons of 5 to 60 corners, 1 % crowds."""
    random = np.random.default_rng(0)
    image_ids = np.sort(random.choice(5 * images, images, replace=False))
    sizes = np.where(random.random((images, 1)) < 0.7, [[480, 640]], [[640, 480]])
    image_texts = [
        f'{{"license": 3,"file_name": "{number:012}.jpg","coco_url": "{ADDRESS}",'
        f'"height": {height},"width": {width},"date_captured": "2013-11-14 11:18:45",'
        f'"flickr_url": "{ADDRESS}","id": {number}}}'
        for number, (height, width) in zip(image_ids.tolist(), sizes.tolist(), strict=True)
    ]
    categories = [{"supercategory": "thing", "id": number, "name": f"thing {number}"} for number in CATEGORIES]
    with path.open("w") as stream:
        stream.write('{"info": {"description": "generated"},"licenses": [],"images": [')
        stream.write(",".join(image_texts) + '],"annotations": [')
        for start in range(0, annotations, 10_000):
            count = min(10_000, annotations - start)
            owners = random.integers(images, size=count)
            texts = _annotation_texts(random, image_ids[owners], sizes[owners], start + 1)
            stream.write(("," if start else "") + ",".join(texts))
        stream.write('],"categories": ' + json.dumps(categories) + "}")


def _annotation_texts(
    random: np.random.Generator, image_ids: NDArray[np.int64], sizes: NDArray[np.int64], first_id: int
) -> Iterator[str]:
    count = len(image_ids)
    corners = random.geometric(1 / 23, count).clip(5, 60)
    extent = sizes[:, ::-1] * random.uniform(0.02, 0.5, (count, 2))  # width and height
    corner = (sizes[:, ::-1] - extent) * random.random((count, 2))
    owner = np.repeat(np.arange(count), corners)
    angle = 2 * np.pi * np.sort(owner + random.random(len(owner))) % (2 * np.pi)
    radius = random.uniform(0.6, 1, len(owner))
    circle = 0.5 + 0.5 * radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    points = np.round(corner[owner] + extent[owner] * circle, 2).reshape(-1).tolist()
    ends = 2 * np.cumsum(corners)
    boxes = np.round(np.column_stack([corner, extent]), 2).tolist()
    categories, crowds = random.choice(CATEGORIES, count), random.random(count) < 0.01
    for row, (end, sides, box) in enumerate(zip(ends.tolist(), (2 * corners).tolist(), boxes, strict=True)):
        height, width = sizes[row].tolist()
        mask = "[[" + ",".join(map(str, points[end - sides : end])) + "]]"
        if crowds[row]:
            mask = f'{{"counts": [{row},{height * width - row}],"size": [{height},{width}]}}'
        yield (
            f'{{"segmentation": {mask},"area": {box[2] * box[3] / 2:.4f},"iscrowd": {int(crowds[row])},'
            f'"image_id": {image_ids[row]},"bbox": [{",".join(map(str, box))}],"category_id": {categories[row]},'
            f'"id": {first_id + row}}}'
        )


if __name__ == "__main__":
    main()
