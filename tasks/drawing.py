"""Predictions drawn on images, with class names."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from tasks.metrics import RLE

Colour = tuple[int, int, int]
LEGEND = 12
"""Classes that a legend has at most."""
_ROWS = 64
"""Rows of a label map that are painted at a time."""


def class_colours(number: int) -> list[Colour]:
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
    masks: Sequence[RLE] | None = None,
    iscrowd: Tensor | None = None,
    min_score: float = 0.3,
) -> Tensor:
    """Draws masks, boxes and captions: the strongest detection, or the smallest object, on top.

    Masks are translucent and have an outline; captions stand on the colour of their class. A crowd region is striped,
    its box is dashed. A small image is magnified, so that captions can be read; letters grow with the picture.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: (N,) classes.
        class_names: Names of the classes.
        scores: (N,) in 0..1; detections below `min_score` are left out.
        masks: N masks of the size of the image.
        iscrowd: (N,) bool, for annotations.
        min_score: Least score that is drawn.

    Returns:
        (3, H * zoom, W * zoom) uint8.
    """
    image, zoom = magnify(image)
    canvas: Image.Image = to_pil_image(image)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    order = (-area if scores is None else scores).argsort(stable=True).tolist()
    shown = [index for index in order if scores is None or scores[index] >= min_score]
    crowds = [False] * len(boxes) if iscrowd is None else iscrowd.tolist()
    classes, palette = labels.tolist(), class_colours(len(class_names))
    for index in shown:
        if masks is not None:
            bitmap = coco_mask.decode({**masks[index], "size": list(masks[index]["size"])}) * np.uint8(255)
            shape = Image.fromarray(bitmap).resize(canvas.size, Image.Resampling.NEAREST)
            _paint_mask(canvas, shape, palette[classes[index]], crowds[index])
    for index in shown:
        caption = class_names[classes[index]] + (" (crowd)" if crowds[index] else "")
        caption += "" if scores is None else f" {scores[index]:.2f}"
        _frame(canvas, (boxes[index] * zoom).tolist(), caption, palette[classes[index]], crowds[index])
    return pil_to_tensor(canvas)


def _line_width(canvas: Image.Image) -> int:
    return max(1, max(canvas.size) // 300)


def _striped(shape: Image.Image) -> Image.Image:
    """Every second diagonal stripe of a shape."""
    x, y = np.ogrid[: shape.height, : shape.width]
    stripes = (x + y) // (6 * _line_width(shape)) % 2 * 255
    return ImageChops.multiply(shape, Image.fromarray(stripes.astype(np.uint8)))


def _paint_mask(canvas: Image.Image, shape: Image.Image, colour: Colour, iscrowd: bool) -> None:
    """Lays a translucent colour over a shape (0 or 255) and draws its outline, on the inner side."""
    inner = shape.filter(ImageFilter.MinFilter(2 * _line_width(canvas) + 1))
    canvas.paste(colour, mask=(_striped(shape) if iscrowd else shape).point(lambda level: round(0.4 * level)))
    canvas.paste(colour, mask=ImageChops.subtract(shape, inner))


def _frame(canvas: Image.Image, box: Sequence[float], caption: str, colour: Colour, iscrowd: bool) -> None:
    """Draws a box, and its caption above it or, where there is no room, within."""
    line, (width, height) = _line_width(canvas), canvas.size
    left, right = (min(max(round(x), 0), width - 1) for x in box[0::2])
    top, bottom = (min(max(round(y), 0), height - 1) for y in box[1::2])
    draw = ImageDraw.Draw(canvas)
    if iscrowd:
        outline = Image.new("L", canvas.size)
        ImageDraw.Draw(outline).rectangle((left, top, right, bottom), outline=255, width=line)
        canvas.paste(colour, mask=_striped(outline))
    else:
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    font = ImageFont.load_default(size=max(11, max(canvas.size) // 45))
    wide, high = int(draw.textlength(caption, font)) + 2 * line, int(draw.textbbox((0, 0), "Éj", font=font)[3]) + line
    start = max(min(left, width - 1 - wide), 0)
    above = top - high if top >= high else top
    draw.rectangle((start, above, start + wide, above + high), fill=colour)
    brightness = sum(share * level for share, level in zip((0.299, 0.587, 0.114), colour, strict=True))
    draw.text((start + line, above), caption, fill="black" if brightness > 140 else "white", font=font)


def draw_label_map(
    image: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    opacity: float = 0.6,
    palette: Sequence[Colour] | None = None,
) -> Tensor:
    """Paints each class in its colour over the image, with a legend of the largest classes and their shares below it.

    Some rows are painted at a time, so that a picture of many pixels needs no more memory than itself and its image.

    Args:
        image: (3, H, W) uint8.
        labels: (H, W) classes; what is none of 0..K-1 is left unpainted.
        class_names: Names of the classes.
        opacity: Of the paint, 0..1.
        palette: K colours. Default: `class_colours`.

    Returns:
        (3, H * zoom + rows of the legend, W * zoom) uint8.
    """
    image, zoom = magnify(image)
    number, palette = len(class_names), class_colours(len(class_names)) if palette is None else palette
    paint = torch.tensor([*palette, (0, 0, 0)])
    painted, areas = torch.empty_like(image), torch.zeros(number + 1, dtype=torch.int64)
    for top in range(0, len(labels), _ROWS):
        rows = labels[top : top + _ROWS].long()
        rows = torch.where((rows >= 0) & (rows < number), rows, number)
        areas += rows.flatten().bincount(minlength=number + 1)
        if zoom > 1:
            rows = rows.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
        there = slice(top * zoom, top * zoom + len(rows))
        mixed = image[:, there].float().lerp_(paint[rows].movedim(-1, 0).float(), opacity).round_().to(torch.uint8)
        painted[:, there] = torch.where(rows < number, mixed, image[:, there])
    order = areas[:number].argsort(descending=True, stable=True)[:LEGEND].tolist()
    shown = [label for label in order if areas[label]]
    entries = [(f"{class_names[label]} {areas[label] / labels.numel():.1%}", palette[label]) for label in shown]
    return torch.cat([painted, legend(entries, image.shape[-1])], dim=1)


def magnify(image: Tensor, least: int = 400) -> tuple[Tensor, int]:
    """Repeats pixels until the longer side of a picture (3, H, W) has about `least` pixels; also gives the factor."""
    zoom = max(1, round(least / max(image.shape[-2:])))
    if zoom == 1:
        return image, 1
    return image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2), zoom


def legend(entries: Sequence[tuple[str, Colour]], width: int) -> Tensor:
    """Names beside patches of their colours, in as many columns as fit; (3, height, width) uint8.

    Args:
        entries: Name and colour of each.
        width: Width of the picture below which it stands; names that are longer end in an ellipsis.
    """
    if not entries:
        return torch.empty(3, 0, width, dtype=torch.uint8)
    font = ImageFont.load_default(size=max(11, width // 45))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    high = int(measure.textbbox((0, 0), "Éj", font=font)[3]) + 4
    start, longest = high + 4, max(measure.textlength(name, font) for name, _ in entries)
    column = min(int(start + longest + high), width)
    across = max(1, width // column)
    canvas = Image.new("RGB", (width, high * -(-len(entries) // across)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (name, colour) in enumerate(entries):
        left, top = place % across * column, place // across * high
        draw.rectangle((left + 2, top + 2, left + high - 3, top + high - 3), fill=colour, outline="black")
        draw.text((left + start, top), _shortened(name, font, column - start), fill="black", font=font)
    return pil_to_tensor(canvas)


def _shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    if font.getlength(name) <= room:
        return name
    return next((f"{name[:end]}…" for end in range(len(name), 0, -1) if font.getlength(f"{name[:end]}…") <= room), "")


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
