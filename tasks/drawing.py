"""Predictions drawn on images, with class names."""

import colorsys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks


def class_colours(number: int) -> list[tuple[int, int, int]]:
    """RGB colours of the classes 0..number-1; neighbours differ strongly."""
    golden = 0.618033988749895
    hsv = [((label * golden) % 1.0, 0.9 if label % 2 else 0.65, 1.0 if label % 3 else 0.75) for label in range(number)]
    return [tuple(round(255 * level) for level in colorsys.hsv_to_rgb(*colour)) for colour in hsv]  # type: ignore[misc]


def draw_detections(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    scores: Tensor | None = None,
    min_score: float = 0.3,
) -> Tensor:
    """Draws boxes with class names, and scores where given; a small image is magnified so that they can be read.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: (N,) classes.
        class_names: Names of the classes.
        scores: (N,) in 0..1; boxes below `min_score` are left out.
        min_score: Least score that is drawn.

    Returns:
        (3, H * zoom, W * zoom) uint8.
    """
    image, zoom = magnify(image)
    boxes = boxes * zoom
    captions = [class_names[label] for label in labels.tolist()]
    if scores is not None:
        kept = scores >= min_score
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, scores.tolist(), strict=True)]
        captions = [caption for caption, keep in zip(captions, kept.tolist(), strict=True) if keep]
        boxes, labels = boxes[kept], labels[kept]
    if not len(boxes):
        return image
    palette = class_colours(len(class_names))
    colours = [palette[label] for label in labels.tolist()]
    height, width = image.shape[-2:]
    corners = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]) - 1)
    return draw_bounding_boxes(image, corners, captions, colours, width=max(1, max(height, width) // 300))


def draw_label_map(image: Tensor, labels: Tensor, class_names: Sequence[str], opacity: float = 0.6) -> Tensor:
    """Paints each class in its colour over the image, with a legend of the largest classes below it.

    Args:
        image: (3, H, W) uint8.
        labels: (H, W) classes; 255 is left unpainted.
        class_names: Names of the classes.
        opacity: Of the paint, 0..1.

    Returns:
        (3, H * zoom + rows of the legend, W * zoom) uint8.
    """
    image, zoom = magnify(image)
    labels = labels.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    palette = class_colours(len(class_names))
    present, areas = labels[labels != 255].unique(return_counts=True)
    present = present[areas.argsort(descending=True)]
    masks = labels[None] == present[:, None, None]
    painted = image
    if len(present):
        painted = draw_segmentation_masks(image, masks, opacity, [palette[label] for label in present.tolist()])
    return torch.cat([painted, legend(present.tolist()[:8], class_names, palette, image.shape[-1])], dim=1)


def magnify(image: Tensor, least: int = 400) -> tuple[Tensor, int]:
    """Repeats pixels until the longer side of a picture (3, H, W) has about `least` pixels; also gives the factor."""
    zoom = max(1, round(least / max(image.shape[-2:])))
    return image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), zoom


def legend(
    labels: Sequence[int], class_names: Sequence[str], palette: Sequence[tuple[int, int, int]], width: int
) -> Tensor:
    """One line of 12 pixels per class: a patch of its colour and its name; (3, 12 * N, width) uint8."""
    rows = torch.full((3, 12 * len(labels), width), 255, dtype=torch.uint8)
    if not labels:
        return rows
    boxes = torch.tensor([[1, 12 * row + 1, 10, 12 * row + 10] for row in range(len(labels))])
    names = [f"  {class_names[label]}" for label in labels]
    colours = [palette[label] for label in labels]
    rows = draw_bounding_boxes(rows, boxes, colors=colours, fill=True)
    return draw_bounding_boxes(rows, boxes, names, colours, label_colors=["black"] * len(labels))


def pad_to_equal(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Pictures (3, H_i, W_i) padded right and bottom with white to the largest height and width."""
    height = max(picture.shape[-2] for picture in pictures)
    width = max(picture.shape[-1] for picture in pictures)
    missing = [(width - picture.shape[-1], height - picture.shape[-2]) for picture in pictures]
    return [F.pad(picture, (0, x, 0, y), value=255) for picture, (x, y) in zip(pictures, missing, strict=True)]


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two pictures (3, H_i, W_i) in a row, with a white gap."""
    left, right = pad_to_equal([left, right])
    return torch.cat([F.pad(left, (0, 8), value=255), right], dim=2)
