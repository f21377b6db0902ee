"""Pictures show what was predicted, where it was predicted."""

import torch

from tasks.callbacks.pictures import original_image
from tasks.drawing import class_colours, draw_detections, draw_label_map, magnify, pad_to_equal, side_by_side
from tasks.normalization import IMAGENET_MEAN, Normalization

NAMES = ["cat", "dog", "bird"]


def test_colours_differ() -> None:
    colours = class_colours(150)
    assert len(set(colours)) == 150
    assert all(0 <= level <= 255 for colour in colours for level in colour)


def test_boxes_are_drawn_where_they_are_and_weak_ones_are_not() -> None:
    image = torch.zeros(3, 500, 600, dtype=torch.uint8)
    boxes = torch.tensor([[50.0, 60.0, 250.0, 200.0], [300.0, 300.0, 550.0, 450.0]])
    picture = draw_detections(image, boxes, torch.tensor([0, 1]), NAMES, torch.tensor([0.9, 0.1]))
    assert picture.shape == image.shape and picture.dtype == torch.uint8
    colour = torch.tensor(class_colours(3)[0], dtype=torch.uint8)
    assert torch.equal(picture[:, 60, 150], colour) and torch.equal(picture[:, 130, 50], colour)
    assert picture[:, 290:, 290:].sum() == 0


def test_small_images_are_magnified_with_their_boxes() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    picture = draw_detections(image, torch.tensor([[8.0, 8.0, 40.0, 32.0]]), torch.tensor([2]), NAMES)
    assert picture.shape == (3, 200, 400)
    columns = picture.sum(dim=(0, 1)).nonzero()
    assert 38 <= columns.min() <= 41
    assert magnify(torch.zeros(3, 500, 300))[1] == 1


def test_label_map_paints_classes_and_leaves_ignored_pixels() -> None:
    image = torch.full((3, 400, 400), 100, dtype=torch.uint8)
    labels = torch.full((400, 400), 255)
    labels[:200] = 1
    picture = draw_label_map(image, labels, NAMES, opacity=1.0)
    assert picture.shape == (3, 412, 400)  # one line of legend
    assert torch.equal(picture[:, 10, 10], torch.tensor(class_colours(3)[1], dtype=torch.uint8))
    assert (picture[:, 300, 10] == 100).all()
    nothing = draw_label_map(image, torch.full((400, 400), 255), NAMES)
    assert torch.equal(nothing, image)


def test_layout() -> None:
    small, large = torch.zeros(3, 10, 20, dtype=torch.uint8), torch.zeros(3, 30, 15, dtype=torch.uint8)
    assert [picture.shape for picture in pad_to_equal([small, large])] == [(3, 30, 20)] * 2
    assert side_by_side(small, large).shape == (3, 30, 48)


def test_original_image_undoes_padding_and_resizing() -> None:
    batch = {
        "image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        "size": torch.tensor([[32, 64]]),
        "targets": [{"original_size": torch.tensor([100, 200])}],
    }
    batch["image"][:, :, :32] = 50
    image = original_image(batch, 0)
    assert image.shape == (3, 100, 200) and image.dtype == torch.uint8 and (image == 50).all()


def test_normalization_is_zero_in_the_padding_and_at_the_mean() -> None:
    image = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    found = Normalization(std=(1.0, 1.0, 1.0))(image, torch.tensor([[5, 6]]))
    assert (found[:, :, 5:] == 0).all() and (found[:, :, :, 6:] == 0).all()
    expected = 200 - torch.tensor(IMAGENET_MEAN)
    torch.testing.assert_close(found[0, :, 0, 0], expected)
