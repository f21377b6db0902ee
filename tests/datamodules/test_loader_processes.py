"""Loader processes take one thread each and do not grow."""

import json
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.annotations import worker_growth
from datamodules import COCO
from datamodules.coco_annotations import AnnotationFile


class Threads(Dataset[list[int]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[int]:
        return [cv2.getNumThreads(), torch.get_num_threads()]


def test_a_worker_computes_in_one_thread(shapes: Path) -> None:
    start = COCO(shapes / "coco", batch_size=1, num_workers=2).train_dataloader().worker_init_fn
    found = [numbers for batch in DataLoader(Threads(), num_workers=2, worker_init_fn=start) for numbers in [batch]]
    assert len(found) == 4
    assert all(opencv.item() <= 1 and pytorch.item() == 1 for opencv, pytorch in found)


def test_annotations_are_not_copied_to_workers(tmp_path: Path) -> None:
    """Counted references alone would copy 100,000 records of Python objects, page by page: 50 MB for each worker."""
    images, boxes = 5_000, 20
    path = tmp_path / "instances.json"
    content = {
        "images": [{"id": i + 1, "file_name": f"{i:012}.jpg", "height": 480, "width": 640} for i in range(images)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": n % images + 1, "category_id": 1, "bbox": [n % 600, 9.5, 30, 20.25], "area": 300}
            for n in range(images * boxes)
        ],
    }
    path.write_text(json.dumps(content))
    del content
    assert max(worker_growth(AnnotationFile(path))) < 20
