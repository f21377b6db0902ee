"""Predictions drawn on images, with class names."""

import colorsys
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
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
    """Draws boxes with class names, and scores where given.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: (N,) classes.
        class_names: Names of the classes.
        scores: (N,) in 0..1; boxes below `min_score` are left out.
        min_score: Least score that is drawn.

    Returns:
        (3, H, W) uint8.
    """
    captions = [class_names[label] for label in labels.tolist()]
    if scores is not None:
        kept = scores >= min_score
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, scores.tolist(), strict=True)]
        captions = [caption for caption, keep in zip(captions, kept.tolist(), strict=True) if keep]
        boxes, labels = boxes[kept], labels[kept]
    if not len(boxes):
        return image.clone()
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
        (3, H + rows of the legend, W) uint8.
    """
    palette = class_colours(len(class_names))
    present, areas = labels[labels != 255].unique(return_counts=True)
    present = present[areas.argsort(descending=True)]
    masks = labels[None] == present[:, None, None]
    painted = image
    if len(present):
        painted = draw_segmentation_masks(image, masks, opacity, [palette[label] for label in present.tolist()])
    return torch.cat([painted, legend(present.tolist()[:8], class_names, palette, image.shape[-1])], dim=1)


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


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H_i, W_i) in a row, padded with white at the bottom."""
    height = max(picture.shape[-2] for picture in pictures)
    return torch.cat([F.pad(picture, (0, 4, 0, height - picture.shape[-2]), value=255) for picture in pictures], dim=2)
