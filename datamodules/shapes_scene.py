"""Draw one scene of the embedded sample data set: flat coloured shapes on two dull background textures.

A scene is a function of (seed, split, index) alone, and the same bytes on every machine: PCG64 integers are the only
source of chance, masks are filled by OpenCV without anti-aliasing at integer vertices, textures are integer sums.

Six kinds of shape are the things, three kinds of background texture are the stuff. A shape's hue comes from the
family of its kind in three of four cases only, so colour helps a detector but does not replace looking at the outline.
"""

import colorsys
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Outline = list[tuple[float, float]]

LONG_SIDE = 160  # px of every image
SHORT_SIDE = (120, 160)  # px, range of the other side
SIZE = (18, 0.14, 0.5)  # diameter of a shape: least px, least share of the long side, greatest share of the short side
OBJECTS = (1, 6)  # shapes tried per image; one that would hide another too much is left out
LEAST_VISIBLE = 0.45  # share of a shape that must stay uncovered
EMPTY_PERCENT = 5  # images without any object
CROWD_PERCENT = 8  # images with a crowd, of those with objects
FAMILY_PERCENT = 75  # shapes whose hue is of their kind's family
MARGIN = 2  # px around every object that are labelled 0, "other"


def _circle(radius: float) -> Outline:
    """Vertices of a circle around the origin."""
    return [(radius * math.cos(math.tau * i / 40), radius * math.sin(math.tau * i / 40)) for i in range(40)]


def _spikes(points: int, inner: float) -> Outline:
    """Vertices of a star around the origin, first point up; `inner` is the radius of its notches."""
    turn = math.pi / points
    radii = [1.0, inner] * points
    return [(radius * math.sin(i * turn), -radius * math.cos(i * turn)) for i, radius in enumerate(radii)]


@dataclass(frozen=True)
class Kind:
    """A kind of shape.

    Attributes:
        name: Its class name in both layouts.
        supercategory: Its COCO supercategory.
        category_id: Its COCO id; with gaps between them, as in COCO.
        hue: Middle of its colour family in degrees.
        turn: Greatest rotation in degrees to either side: less than what would turn it into another kind.
        outlines: Closed outlines around the origin within about the unit circle, filled by the even-odd rule.
    """

    name: str
    supercategory: str
    category_id: int
    hue: int
    turn: int
    outlines: tuple[Outline, ...]


_ARM = 0.34  # half the width of a cross's arm
_CROSS = [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1)]
KINDS = (
    Kind("disk", "round", 1, 0, 0, (_circle(0.95),)),
    Kind("square", "straight", 2, 50, 15, ([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],)),
    Kind("triangle", "straight", 4, 120, 30, ([(0, -1.1), (0.95, 0.6), (-0.95, 0.6)],)),
    Kind("star", "pointed", 7, 180, 36, (_spikes(5, 0.42),)),
    Kind("ring", "round", 11, 230, 0, (_circle(1.0), _circle(0.52))),
    Kind("cross", "pointed", 13, 305, 20, (_CROSS + [(-x, -y) for x, y in _CROSS],)),
)
STUFF = ("noise", "stripes", "gradient")
NAMES = tuple(kind.name for kind in KINDS) + STUFF  # label l is NAMES[l - 1]; label 0 is "other"


@dataclass
class Instance:
    """One object, or one crowd.

    Attributes:
        kind: What it is.
        mask: (H, W) pixels where it is visible.
        full_area: Pixels it covered before later shapes were drawn over it.
        crowd: Whether it is a cluster of many shapes, annotated as one region.
    """

    kind: Kind
    mask: Mask
    full_area: int
    crowd: bool = False


@dataclass
class Scene:
    """A drawn image with its truth.

    Attributes:
        image: (H, W, 3) RGB.
        labels: (H, W) 0 = other, l = `NAMES[l - 1]`.
        instances: Objects in drawing order, later over earlier.
    """

    image: Pixels
    labels: Pixels
    instances: list[Instance] = field(default_factory=list)


def draw_scene(seed: int, split: int, index: int) -> Scene:
    """Draw one scene.

    Args:
        seed: Seed of the data set.
        split: 0 = train, 1 = val.
        index: Place in the split, from 0.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(split, index))))
    scene = _draw_background(rng, *_draw_size(rng))
    if _happens(rng, EMPTY_PERCENT):
        return scene
    if _happens(rng, CROWD_PERCENT):
        _draw_crowd(rng, scene)
    for _ in range(_between(rng, *OBJECTS)):
        _draw_object(rng, scene)
    return scene


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer of low..high, both included."""
    return int(rng.integers(low, high + 1))


def _happens(rng: np.random.Generator, percent: int) -> bool:
    """True in `percent` of 100 cases."""
    return _between(rng, 0, 99) < percent


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels, landscape or portrait."""
    short = _between(rng, *SHORT_SIDE)
    return (short, LONG_SIDE) if _happens(rng, 50) else (LONG_SIDE, short)


def _draw_background(rng: np.random.Generator, height: int, width: int) -> Scene:
    """One texture, or two that meet at a slanted seam."""
    first, second = (int(i) for i in rng.permutation(len(STUFF))[:2])
    image = _stuff(rng, first, height, width)
    labels = np.full((height, width), 1 + len(KINDS) + first, np.uint8)
    if _happens(rng, 75):
        x_top, x_bottom = (_between(rng, width // 4, 3 * width // 4) for _ in range(2))
        seam = [(x_top, 0), (width, 0), (width, height), (x_bottom, height)]
        if _happens(rng, 50):
            y_left, y_right = (_between(rng, height // 4, 3 * height // 4) for _ in range(2))
            seam = [(0, y_left), (width, y_right), (width, height), (0, height)]
        side = _fill([np.array(seam, np.int32)], height, width)
        image[side] = _stuff(rng, second, height, width)[side]
        labels[side] = 1 + len(KINDS) + second
    return Scene(image, labels)


def _stuff(rng: np.random.Generator, texture: int, height: int, width: int) -> Pixels:
    """A greyish texture of low contrast, (H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    along = rows if _happens(rng, 50) else columns
    match STUFF[texture]:
        case "noise":
            grain = rng.integers(-22, 23, (height // 2 + 1, width // 2 + 1))
            relief = grain.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        case "stripes":
            period = _between(rng, 8, 12)
            relief = np.where(along % period < period // 2, 16, -16)
        case _:
            relief = (along * 60 // LONG_SIDE - 30) * (1 if _happens(rng, 50) else -1)
    tint = rng.integers(-8, 9, 3) + _between(rng, 80, 170)
    return (relief[..., None] + tint + rng.integers(-3, 4, (height, width, 1))).clip(0, 255).astype(np.uint8)


def _draw_crowd(rng: np.random.Generator, scene: Scene) -> None:
    """A heap of small shapes of one kind, annotated as one region."""
    height, width = scene.labels.shape
    kind = KINDS[_between(rng, 0, len(KINDS) - 1)]
    spread_y, spread_x = _between(rng, 18, 30), _between(rng, 22, 38)  # px from its middle
    middle_y, middle_x = _between(rng, spread_y, height - spread_y), _between(rng, spread_x, width - spread_x)
    crowd = np.zeros((height, width), np.bool_)
    for _ in range(_between(rng, 18, 30)):
        y = middle_y + _between(rng, -spread_y, spread_y)
        x = middle_x + _between(rng, -spread_x, spread_x)
        member = _silhouette(rng, kind, _between(rng, 11, 16), y, x, height, width)
        _paint(rng, scene, kind, member)
        crowd |= member
    scene.instances.append(Instance(kind, crowd, int(crowd.sum()), crowd=True))


def _draw_object(rng: np.random.Generator, scene: Scene) -> None:
    """A shape where it hides no earlier one too much; nothing when there is no such place."""
    height, width = scene.labels.shape
    kind = KINDS[_between(rng, 0, len(KINDS) - 1)]
    least, least_share, greatest_share = SIZE
    sizes = max(least, round(least_share * max(height, width))), int(greatest_share * min(height, width))
    size = max(_between(rng, *sizes), _between(rng, *sizes))  # small ones are rare
    for _ in range(8):
        y, x = (_between(rng, size // 3, side - size // 3) for side in (height, width))
        mask = _silhouette(rng, kind, size, y, x, height, width)
        if all((other.mask & ~mask).sum() >= LEAST_VISIBLE * other.full_area for other in scene.instances):
            _paint(rng, scene, kind, mask)
            for other in scene.instances:
                other.mask &= ~mask
            scene.instances.append(Instance(kind, mask, int(mask.sum())))
            return


def _silhouette(rng: np.random.Generator, kind: Kind, size: int, y: int, x: int, height: int, width: int) -> Mask:
    """(H, W) pixels of a turned shape of `size` px diameter around (y, x), cut at the image's edges."""
    angle = math.radians(_between(rng, -kind.turn, kind.turn))
    cos, sin = math.cos(angle) * size / 2, math.sin(angle) * size / 2
    turned = [[(x + round(cos * u - sin * v), y + round(sin * u + cos * v)) for u, v in o] for o in kind.outlines]
    return _fill([np.array(outline, np.int32) for outline in turned], height, width)


def _fill(outlines: list[NDArray[np.int32]], height: int, width: int) -> Mask:
    """(H, W) pixels inside (V, 2) xy outlines by the even-odd rule."""
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, outlines, (1,))
    return canvas.astype(np.bool_)


def _paint(rng: np.random.Generator, scene: Scene, kind: Kind, mask: Mask) -> None:
    """Colour the mask, with a dark rim to part it from its like; label it, with a margin of "other" around."""
    hue = kind.hue + _between(rng, -16, 16) if _happens(rng, FAMILY_PERCENT) else _between(rng, 0, 359)
    saturation, value = _between(rng, 75, 100), _between(rng, 75, 100)
    colour = colorsys.hsv_to_rgb(hue % 360 / 360, saturation / 100, value / 100)
    grain = rng.integers(-10, 11, (*mask.shape, 1))
    texture = (np.array([round(255 * channel) for channel in colour]) + grain).clip(0, 255).astype(np.uint8)
    rim = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    around = cv2.dilate(mask.astype(np.uint8), np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)).astype(np.bool_)
    scene.image[mask] = texture[mask]
    scene.image[rim] //= 2
    scene.labels[around] = 0
    scene.labels[mask] = 1 + KINDS.index(kind)
