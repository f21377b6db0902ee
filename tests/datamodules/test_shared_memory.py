"""A run whose batches do not fit into shared memory is refused before its first step."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules import ADE20K, COCO, DataError, FixedSize, RandomRatioCrop, VisionDataModule
from datamodules.shared_memory import check_shared_memory

MEGABYTE = 10**6


def test_needed_and_free_are_said_with_the_remedy() -> None:
    with pytest.raises(DataError) as error:
        check_shared_memory(batch_bytes=10 * MEGABYTE, num_workers=4, processes=2, free=159 * MEGABYTE)
    assert str(error.value) == (
        "/dev/shm has 159 MB free, but 2 x 4 loader processes with 2 batches of 10.0 MB each need 160 MB; take fewer "
        "(--data.num_workers, 0 needs none) or a smaller --data.batch_size, or give the container more (docker run "
        "--shm-size)"
    )
    check_shared_memory(batch_bytes=10 * MEGABYTE, num_workers=4, processes=2, free=160 * MEGABYTE)


def test_no_workers_need_none() -> None:
    check_shared_memory(batch_bytes=10 * MEGABYTE, num_workers=0, free=0)


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_looked_at_before_training(kind: str, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"batch_size": 3, "val_batch_size": 1, "num_workers": 2}
    if kind == "detection":
        module: VisionDataModule = COCO(shapes / "coco", pipeline=FixedSize(100, 200), **options)
        batch = 4 * 3 * 100 * 200  # validation's image, too
    else:
        module = ADE20K(shapes / "ade20k", pipeline=RandomRatioCrop(crop=100), **options)
        batch = 4 * 4 * 100 * 100
    free = [2 * 2 * batch]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_frsize=1))
    module.setup("fit")
    free[0] -= 1
    with pytest.raises(DataError, match=r"^/dev/shm has 1 MB free, but 1 x 2 loader processes"):
        module.setup("fit")
    module.setup("validate")
