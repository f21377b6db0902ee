"""Evaluation in several sizes: from the option to the batch to the label maps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from backbones import ResNet
from datamodules import ADE20K, DataError, RandomRatioCrop
from tasks.segmentors import EncoderDecoder, WholeInference


def batch_of(root: Path, ratios: tuple[float, ...]) -> dict:
    pipeline = RandomRatioCrop(longest=101, shorter=75, crop=64, test_ratios=ratios)
    data = ADE20K(root / "ade20k", pipeline=pipeline, val_batch_size=2, num_workers=0, max_images=3)
    return next(iter(data.val_dataloader()))


def test_views_are_the_image_resized_from_the_file(shapes: Path) -> None:
    batch = batch_of(shapes, (0.5, 1.0, 1.5))
    assert [[min(view.shape[1:]) for view in views] for views in batch["views"]] == [[38, 75, 113]] * 2
    for position in range(2):
        height, width = batch["size"][position].tolist()
        assert torch.equal(batch["views"][position][2], batch["image"][position, :, :height, :width])
        plain = batch_of(shapes, (1.0,))
        height, width = plain["size"][position].tolist()
        assert torch.equal(batch["views"][position][1], plain["image"][position, :, :height, :width])
        larger = batch_of(shapes, (1.5,))["views"][position]
        assert len(larger) == 1 and torch.equal(larger[0], batch["views"][position][2])
    assert "views" not in batch_of(shapes, (1.0,))


def test_label_maps_are_those_of_the_mean_of_all_views(shapes: Path) -> None:
    torch.manual_seed(0)
    batch = batch_of(shapes, (0.5, 1.5))
    head = {"type": "FCNHead", "channels": 8, "num_convs": 1, "in_index": 0}
    model = EncoderDecoder(ResNet(18), 7, head, inference=WholeInference(flip=True)).eval()
    with torch.no_grad():
        found = model(batch)
        for labels, views, target in zip(found, batch["views"], batch["targets"], strict=True):
            size = tuple(target["original_size"].tolist())
            total = 0
            for view in views:
                image = model.normalized(view[None])
                for turned in (image, image.flip(-1)):
                    logits = F.interpolate(model.logits(turned), size, mode="bilinear")[0].softmax(dim=0)
                    total = total + (logits if turned is image else logits.flip(-1))
            best = total.topk(2, dim=0).values
            assert (labels == total.argmax(dim=0))[best[0] - best[1] > 1e-5].all() and len(labels.unique()) > 1


def test_prediction_has_views_too(shapes: Path) -> None:
    pipeline = RandomRatioCrop(longest=101, shorter=75, crop=64, test_ratios=(0.5, 1.0))
    pictures = str(shapes / "ade20k" / "images" / "validation")
    data = ADE20K(shapes / "ade20k", pipeline=pipeline, num_workers=0, images=pictures)
    assert [min(view.shape[1:]) for view in next(iter(data.predict_dataloader()))["views"][0]] == [38, 75]


@pytest.mark.parametrize("ratios", [(), (0.5, 0.0), (float("inf"),)])
def test_ratios_are_positive(ratios: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="test_ratios is"):
        RandomRatioCrop(test_ratios=ratios)


def test_images_keep_their_own_size_where_that_is_asked_for(shapes: Path) -> None:
    """Multiples of it, too; and a crop of training may have two sides."""
    pipeline = RandomRatioCrop(shorter=75, crop=(48, 96), test_resize=False)
    data = ADE20K(shapes / "ade20k", pipeline=pipeline, batch_size=2, num_workers=0)
    batch = next(iter(data.val_dataloader()))
    assert batch["size"].tolist() == [target["original_size"].tolist() for target in batch["targets"]]
    assert batch["image"].shape[2:] == batch["mask"][0].shape
    trained = next(iter(data.train_dataloader()))
    assert trained["image"].shape == (2, 3, 48, 96) and trained["mask"].shape == (2, 48, 96)
    assert data.image_size == (48, 96)
    pipeline = RandomRatioCrop(test_ratios=(0.5, 2.0), test_resize=False)
    views = next(iter(ADE20K(data.root, pipeline=pipeline, num_workers=0).val_dataloader()))["views"][0]
    height, width = batch["size"][0].tolist()
    assert [view.shape[1:] for view in views] == [
        (round(height / 2), round(width / 2)),
        (2 * height, 2 * width),
    ]
