"""Which evaluations the pictures of a run folder are of."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torchvision.io import read_image

from tasks.callbacks.pictures import DetectionPictures


def validated(pictures: DetectionPictures, folder: Path, epoch: int, best_step: int) -> dict[str, int]:
    """Grey value of every picture below a folder after a validation at step 10 x epoch, which drew it that grey."""
    task: Any = None
    fit: Any = SimpleNamespace(
        default_root_dir=folder,
        state=SimpleNamespace(fn="fit"),
        current_epoch=epoch,
        global_step=10 * epoch,
        loggers=[],
    )
    (folder / "summary.json").write_text(
        json.dumps({"task": "detect", "headline": "val/mAP", "direction": "max", "beside": "", "step": best_step})
    )
    pictures._drawn = {7: torch.full((3, 2, 4), epoch, dtype=torch.uint8)}
    pictures.on_validation_end(fit, task)
    found = sorted((folder / "pictures").rglob("*.png"))
    return {path.relative_to(folder / "pictures").as_posix(): int(read_image(str(path)).max()) for path in found}


def test_the_best_epoch_keeps_its_pictures_while_the_others_are_of_the_last_one_that_was_due(tmp_path: Path) -> None:
    pictures = DetectionPictures(every_n_epochs=2)
    assert validated(pictures, tmp_path, epoch=2, best_step=20) == {"7.png": 2, "best/7.png": 2}
    assert validated(pictures, tmp_path, epoch=3, best_step=30) == {"7.png": 2, "best/7.png": 3}
    assert validated(pictures, tmp_path, epoch=4, best_step=30) == {"7.png": 4, "best/7.png": 3}
    assert pictures._drawn == {}
