"""Classes above 8 bits from masks to label maps, and the picture that shows what a run takes for which class."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import read_image

from tasks.callbacks import DetectionPictures, SegmentationPictures
from tasks.drawing import draw_detections, draw_label_map
from tasks.segmentation import SegmentationTask


def test_first_picture_is_the_ground_truth_that_the_network_gets(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.randint(256, (2, 3, 64, 64), generator=random, dtype=torch.uint8)
    mask = torch.randint(3, (2, 64, 64), generator=random, dtype=torch.uint8)
    targets = [{"boxes": torch.tensor([[4.0, 6.0, 30.0, 40.0]]), "labels": torch.tensor([2])}] * 2
    batch = {"image": image, "mask": mask, "size": torch.tensor([[40, 56], [64, 64]]), "targets": targets}
    names = ["road", "car", "sky"]
    seen = image[0, :, :40, :56]
    expected = {
        SegmentationPictures: draw_label_map(seen, mask[0, :40, :56], names),
        DetectionPictures: draw_detections(seen, targets[0]["boxes"], targets[0]["labels"], names),
    }
    task = SegmentationTask.__new__(SegmentationTask)
    torch.nn.Module.__init__(task)
    task.class_names = names
    for kind, picture in expected.items():
        for step, number, images in ((1, 0, 8), (0, 1, 8), (0, 0, 0)):
            trainer = SimpleNamespace(global_step=step, is_global_zero=True, default_root_dir=tmp_path / kind.__name__)
            kind(images).on_train_batch_start(trainer, task, batch, number)
        assert not trainer.default_root_dir.exists(), "only before the first step, and where pictures are wanted"
        kind().on_train_batch_start(trainer, task, batch, 0)
        assert torch.equal(read_image(str(trainer.default_root_dir / "pictures" / "training.png")), picture)


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
