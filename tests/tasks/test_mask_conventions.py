"""Commands on masks that are not ADE20K's: the convention in force is said and shown, and classes above 8 bits work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import read_image

from tasks.drawing import class_colours


def test_convention_is_said_and_shown(
    command: Callable[..., Path], shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the first step, on a folder of masks that number their classes from 0."""
    data = (
        *("--data=LabelMasks", f"--data.root={shapes / 'ade20k'}", "--data.batch_size=4", "--data.num_workers=0"),
        *("--data.train.images=images/training", "--data.train.masks=annotations/training"),
        *("--data.val.images=images/validation", "--data.val.masks=annotations/validation"),
        "--data.values={0: other, 1: circle, 2: ellipse, 3: other, 4: other, 5: other, 6: sky, 7: sky, 8: sky, 9: sky}",
        *("--data.pipeline=RandomRatioCrop", "--data.pipeline.crop=64", "--data.pipeline.shorter=64"),
    )
    folder = command("segment", "fit", *data, "--pictures.images=1", "--trainer.max_steps=1")
    assert (
        f"masks of {shapes / 'ade20k'}: 4 classes, 0, 3..5 = other, 1 = circle, 2 = ellipse, 6..9 = sky; ignored: 255"
    ) in caplog.messages
    picture = read_image(str(folder / "pictures" / "training.png"))
    assert picture.shape[2] % 64 == 0 and picture.shape[2] >= 384
    colours = torch.tensor(class_colours(4), dtype=torch.uint8)
    patches = picture[:, -6, 5]  # of the last line of the legend
    assert (colours == patches).all(dim=1).any()


@pytest.mark.slow
def test_300_classes_from_masks_to_label_maps(command: Callable[..., Path], shared_data: Callable[[str], Path]) -> None:
    root = shared_data("trials") / "classes_300"
    options = (f"--data.root={root}", "--data.batch_size=2", "--model.lr_schedule.warmup_steps=0")
    folder = command("segment", "fit", *options)
    best = f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"
    written = command("segment", "predict", *options, best, name="maps") / "predictions" / "label_maps"
    for path in sorted((root / "images" / "validation").iterdir()):
        with Image.open(written / f"{path.stem}.png") as image:
            stored = np.asarray(image)
        assert stored.dtype == np.uint16 and 1 <= stored.min() and stored.max() <= 300
