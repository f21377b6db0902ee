"""Pictures show what was predicted, where it was predicted."""

from types import SimpleNamespace

import numpy as np
import torch
from pycocotools import mask as coco_mask

from tasks.callbacks.pictures import SegmentationPictures, original_image
from tasks.drawing import class_colours, draw_detections, draw_label_map, legend, magnify, pad_to_equal, side_by_side
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


def test_the_strongest_is_on_top_of_boxes_captions_and_masks() -> None:
    """Boxes lie across each other in every order; where they meet, all pixels are those of the stronger one."""
    image = torch.full((3, 300, 600), 120, dtype=torch.uint8)
    boxes = torch.tensor([[100.0, 100.0, 500.0, 250.0], [200.0, 100.0, 400.0, 200.0], [100.0, 50.0, 300.0, 250.0]])
    for strong in range(3):
        scores = torch.full((3,), 0.5)
        scores[strong] = 0.75
        picture = draw_detections(image, boxes, torch.arange(3), NAMES, scores)
        left, top, right, bottom = boxes[strong].int().tolist()
        edge = torch.cat(
            [picture[:, top:bottom, left], picture[:, bottom, left:right], picture[:, top:bottom, right]], 1
        )
        colour = torch.tensor(class_colours(3)[strong], dtype=torch.uint8)
        assert (edge == colour[:, None]).all()
        alone = draw_detections(image, boxes[strong, None], torch.tensor([strong]), NAMES, scores[strong, None])
        caption = (slice(None), slice(top - 12, top), slice(left, left + 60))
        assert torch.equal(picture[caption], alone[caption])


def test_captions_stand_on_the_colour_of_their_class_and_grow_with_the_picture() -> None:
    colours = class_colours(8)
    heights = []
    for side in (420, 900, 1800):
        box = torch.tensor([[side * 0.25, side * 0.5, side * 0.75, side * 0.9]])
        picture = draw_detections(torch.zeros(3, side, side, dtype=torch.uint8), box, torch.tensor([0]), NAMES)
        above = picture[:, : int(side * 0.5), int(side * 0.25)]  # at the left end of the ground there are no letters
        heights.append(int((above == torch.tensor(colours[0])[:, None]).all(0).sum()))
    assert 12 <= heights[0] < heights[1] < heights[2] and heights[2] / heights[0] > 2.5
    names = [f"class {number}" for number in range(8)]
    image, box = torch.full((3, 1200, 1200), 60, dtype=torch.uint8), torch.tensor([[300.0, 600.0, 900.0, 1000.0]])
    for label in range(8):  # letters are black or white, whichever is farther from the ground
        picture = draw_detections(image, box, torch.tensor([label]), names)
        ground = picture[:, 575:599, 300:380].flatten(1).T.tolist()
        brightness = sum(share * level for share, level in zip((0.299, 0.587, 0.114), colours[label], strict=True))
        letters = [0, 0, 0] if brightness > 140 else [255, 255, 255]
        assert list(colours[label]) in ground and letters in ground and [60, 60, 60] not in ground


def test_captions_stay_inside_the_picture() -> None:
    """At any place the ground of a caption is as wide as where there is room for all of it."""
    colour = torch.tensor(class_colours(3)[1], dtype=torch.uint8)[:, None, None]
    widths = []
    for left, top in ((200, 150), (0, 0), (490, 2), (490, 395), (-10, -10), (499, 200)):
        box = torch.tensor([[left, top, left + 5.0, top + 5.0]])
        picture = draw_detections(torch.zeros(3, 400, 500, dtype=torch.uint8), box, torch.tensor([1]), NAMES)
        widths.append(int((picture == colour).all(0).any(0).sum()))
    assert widths[0] > 20 and len(set(widths)) == 1


def test_masks_are_translucent_with_an_outline_under_the_boxes_and_crowds_are_striped() -> None:
    image = torch.full((3, 450, 600), 100, dtype=torch.uint8)
    shape = np.zeros((450, 600), np.uint8, order="F")
    shape[150:350, 200:500] = 1
    masks, box, label = [coco_mask.encode(shape)], torch.tensor([[200.0, 150.0, 499.0, 349.0]]), torch.tensor([2])
    colour = torch.tensor(class_colours(3)[2]).float()

    def inside(crowd: bool) -> torch.Tensor:
        picture = draw_detections(image, box + 30, label, NAMES, masks=masks, iscrowd=torch.tensor([crowd]))
        assert torch.equal(picture[:, 150, 210:480].float(), colour[:, None].expand(-1, 270))  # the outline
        assert (picture[:, 100, 250] == 100).all() and (picture[:, 300, 190] == 100).all()
        return picture[:, 250:300, 260:480].float()

    tint = (100 + 0.4 * (colour - 100))[:, None, None]
    assert (inside(crowd=False) - tint).abs().max() <= 1.5
    striped = inside(crowd=True)
    tinted = ((striped - tint).abs() <= 1.5).all(0)
    assert 0.4 < tinted.float().mean() < 0.6 and (striped[:, ~tinted] == 100).all()
    line = draw_detections(image, box + 30, label, NAMES, iscrowd=torch.tensor([True]))[:, 300, :].float()
    dashed = draw_detections(image, box, label, NAMES, iscrowd=torch.tensor([True]))[:, 160:349, 200].float().T
    assert 0.3 < (dashed == colour).all(1).float().mean() < 0.7 and line.shape == (3, 600)


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
    assert picture.shape == (3, 400 + legend([("", (0, 0, 0))], 400).shape[1], 400)  # one line of legend
    assert torch.equal(picture[:, 10, 10], torch.tensor(class_colours(3)[1], dtype=torch.uint8))
    assert (picture[:, 300, 10] == 100).all()
    nothing = draw_label_map(image, torch.full((400, 400), 255), NAMES)
    assert torch.equal(nothing, image)


def test_paint_is_mixed_row_by_row_in_the_given_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 150, 410), generator=generator, dtype=torch.uint8)
    labels = torch.randint(-1, 5, (150, 410), generator=generator, dtype=torch.int16)  # -1, 3 and 4 are no classes
    palette = [(10, 20, 30), (200, 0, 255), (7, 7, 7)]
    picture = draw_label_map(image, labels, NAMES, opacity=0.25, palette=palette)
    expected = image.double()
    for label, colour in enumerate(palette):
        paint = torch.tensor(colour)[:, None].double()
        expected[:, labels == label] = 0.75 * expected[:, labels == label] + 0.25 * paint
    assert (picture[:, :150].double() - expected).abs().max() <= 0.5 + 1e-4
    unpainted = (labels < 0) | (labels > 2)
    assert torch.equal(picture[:, :150][:, unpainted], image[:, unpainted])


def test_pictures_have_the_colours_of_the_data_module() -> None:
    task, palette = SimpleNamespace(class_names=NAMES), [(1, 2, 3), (250, 0, 7), (9, 9, 200)]
    batch = {
        "image": torch.zeros(1, 3, 420, 410, dtype=torch.uint8),
        "size": torch.tensor([[420, 410]]),
        "mask": torch.ones(1, 420, 410, dtype=torch.uint8),
    }
    for known, colour in ((palette, palette[1]), (None, class_colours(3)[1])):
        report = SegmentationPictures()
        report.setup(SimpleNamespace(datamodule=SimpleNamespace(class_colours=known), is_global_zero=True), None, "fit")
        picture = report.draw(task, batch["image"][0], torch.full((420, 410), 1), batch, 0)
        expected = (0.6 * torch.tensor(colour)).round().to(torch.uint8)
        for column in (10, 420 + 10):  # ground truth and prediction
            assert torch.equal(picture[:, 5, column], expected)
        truth = report.draw_truth(task, batch["image"][0], batch, 0)
        assert torch.equal(truth[:, 5, 5], expected)


def test_legend_shows_whole_names_beside_their_patches() -> None:
    """No patch covers a letter, no line is cut off, and names that do not fit end in an ellipsis."""
    names = ["Éj" * 6, "wall", "a name that is far too long for a picture of this width, by any means"]
    colours = class_colours(3)
    alone = [legend([(name, colour)], 300) for name, colour in zip(names, colours, strict=True)]
    picture = legend(list(zip(names, colours, strict=True)), 300)
    assert torch.equal(picture, torch.cat(alone, dim=1)) and picture.dtype == torch.uint8
    for line, colour in zip(alone, colours, strict=True):
        height = line.shape[1]
        patch = (line == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(dim=0)
        assert patch.any() and patch.nonzero()[:, 1].max() < height
        letters = (line.float().mean(dim=0) < 128)[:, height:]
        assert letters.any() and not letters[0].any() and not letters[-1].any() and not letters[:, :2].any()
    assert (
        legend([(name, colour) for name, colour in zip("abcd", class_colours(4), strict=True)], 300).shape[1] == height
    )
    assert legend([], 300).shape == (3, 0, 300)


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
