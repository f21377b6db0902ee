"""Large training images as a grid of tiles with overlap: each tile is a sample, as an image is elsewhere."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.resampling import Size


@dataclass(frozen=True)
class Tiles:
    """Training images are cut into tiles, each of them a sample, which the pipeline then resizes and augments.

    The last tile of a row or column is moved inwards so that it stays inside the image; an image smaller than a tile is
    taken as it is. Objects that a tile's border cuts are clipped to the tile, or left out where too little is left of
    them; the place of these counts as a crowd region, in which detectors with `ignore_crowds` learn nothing. What of
    the objects is cut, left out and in no tile is counted and told before the run. Evaluation looks at whole images:
    see `--model.windows` of detectors, `SlideInference` of segmentors.

    Attributes:
        size: Height and width of a tile in pixels of the image; one number for a square.
        overlap: Pixels that neighbours share down and across; one number for both. At least the size of most objects:
            an object up to it is whole in some tile.
        least_visible: Share of an object's box that a tile must hold to keep the object; 0 keeps all that is seen.
        keep_decoded: Keep the decoded pixels of images of several tiles in the cache folder (`$ATTNDENSE_CACHE`), 3
            bytes a pixel and 1 a pixel of a mask, so that a tile is read alone. Otherwise, and where the disk is full,
            the whole image is decoded for each of its tiles.
    """

    size: int | tuple[int, int] = 1024
    overlap: int | tuple[int, int] = 200
    least_visible: float = 0.4
    keep_decoded: bool = True

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        for side, overlap in zip(self.sides, self.overlaps, strict=True):
            if side < 1:
                raise DataError(f"size of the tiles is {side}, expected at least 1 pixel")
            if not 0 <= overlap < side:
                raise DataError(f"overlap of the tiles is {overlap}, expected 0..{side - 1}, less than their size")
        if not 0 <= self.least_visible <= 1:
            raise DataError(f"least_visible is {self.least_visible}, expected 0..1, a share of an object's box")

    @property
    def sides(self) -> Size:
        """Height and width."""
        return _pair(self.size)

    @property
    def overlaps(self) -> Size:
        """Pixels that neighbours share, down and across."""
        return _pair(self.overlap)


def _pair(value: int | tuple[int, int]) -> Size:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Tile(NamedTuple):
    """A part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def part(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def see(self, corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is seen of boxes.

        Args:
            corners: (N, 4) xyxy in the image, with area.

        Returns:
            (N, 4) in the tile, clipped to it, and (N,) the share of each box that is left, 0..1.
        """
        moved = (corners - np.tile((self.left, self.top), 2)).clip(0, np.tile((self.width, self.height), 2))
        return moved, visible_shares(corners, np.array([self.corners]))[0]

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Xyxy."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def visible_shares(corners: NDArray[np.float64], parts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares (T, N) of the area of boxes (N, 4) xyxy that lie in parts (T, 4) xyxy; 0 of boxes without area."""
    low, high = np.maximum(corners[:, :2], parts[:, None, :2]), np.minimum(corners[:, 2:], parts[:, None, 2:])
    inside, area = (high - low).clip(0).prod(axis=2), (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return np.divide(inside, area, out=np.zeros_like(inside), where=area > 0)


class TileGrid:
    """The tiles of all images of a split, image by image, row by row: a sample's index names one of them.

    Args:
        sizes: (I, 2) height and width of the images; one of (0, 0) has no tiles.
        tiles: How they are cut.

    Attributes:
        tiles: How they are cut.
    """

    def __init__(self, sizes: NDArray[np.int64], tiles: Tiles) -> None:
        self.tiles, self._sizes = tiles, np.asarray(sizes, np.int64).reshape(-1, 2)
        strides = np.subtract(tiles.sides, tiles.overlaps)
        rows_and_columns = np.maximum(-(-(self._sizes - tiles.sides) // strides), 0) + 1
        self._counts = np.where(self._sizes > 0, rows_and_columns, 0)  # (I, 2)
        self._ends = np.cumsum(self._counts.prod(axis=1))
        self._kept: NDArray[np.int64] | None = None

    def only(self, kept: NDArray[np.int64]) -> "TileGrid":
        """The same with some of the tiles, by their indices."""
        chosen = TileGrid(self._sizes, self.tiles)
        chosen._kept = kept if self._kept is None else self._kept[kept]
        return chosen

    def __len__(self) -> int:
        """Number of tiles of all images."""
        if self._kept is not None:
            return len(self._kept)
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[int, Tile]:
        """The image of a sample, by its place among the sizes, and the tile of it."""
        number = index if self._kept is None else int(self._kept[index])
        image = int(np.searchsorted(self._ends, number, side="right"))
        return image, self._tile(image, number - int(self._ends[image]) + int(self._counts[image].prod()))

    def of_image(self, image: int) -> list[Tile]:
        """All tiles of an image, those that are not kept among them."""
        return [self._tile(image, number) for number in range(int(self._counts[image].prod()))]

    def _tile(self, image: int, number: int) -> Tile:
        places = divmod(number, int(self._counts[image, 1]))
        spans = [self._span(place, axis, int(self._sizes[image, axis])) for axis, place in enumerate(places)]
        (top, height), (left, width) = spans
        return Tile(top, left, height, width)

    def _span(self, place: int, axis: int, length: int) -> tuple[int, int]:
        """Start and length of a tile along a side, 0 down and 1 across."""
        side, overlap = self.tiles.sides[axis], self.tiles.overlaps[axis]
        end = min(place * (side - overlap) + side, length)
        return max(end - side, 0), min(side, length)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of every tile."""
        of_image = np.minimum(self._sizes, self.tiles.sides).repeat(self._counts.prod(axis=1), axis=0)
        return of_image if self._kept is None else of_image[self._kept]

    @property
    def decoded_pixels(self) -> int:
        """Pixels of the images that are cut into several tiles."""
        several = self._counts.prod(axis=1) > 1
        return int(self._sizes[several].prod(axis=1).sum())
