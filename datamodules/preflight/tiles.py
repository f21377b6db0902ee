"""What of the objects falls away where training images are cut into tiles, and what the tiles cost on the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.coco_annotations import AnnotationFile, clipped_corners
from datamodules.decoded import decoded_folder
from datamodules.findings import EXAMPLES, Finding
from datamodules.preflight.report import Looked
from datamodules.tiles import TileGrid, visible_shares


class TileViews(NamedTuple):
    """What the tiles of a split see of its objects.

    Attributes:
        kept: (T,) objects that each tile keeps.
        clipped: Views of objects that are kept and cut by a tile's border.
        dropped: Views of which a tile holds too little to keep the object.
        lost: (L,) ids of the annotations that no tile keeps.
        objects: Objects of the split.
    """

    kept: NDArray[np.int64]
    clipped: int
    dropped: int
    lost: NDArray[np.int64]
    objects: int


def count_views(file: AnnotationFile, images: NDArray[np.intp], grid: TileGrid) -> TileViews:
    """Looks at every object in every tile of its image; seconds for a hundred thousand images.

    Args:
        file: The annotations.
        images: Places in the file of the grid's images.
        grid: All of their tiles.
    """
    kept: list[NDArray[np.int64]] = []
    lost: list[NDArray[np.int64]] = []
    clipped = dropped = objects = 0
    for place, image in enumerate(images.tolist()):
        where, tiles = file.of_image(image), np.array([tile.corners for tile in grid.of_image(place)])
        corners = clipped_corners(file.boxes[where], file.sizes[image])
        rows = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1) & ~file.iscrowd[where])
        shares = visible_shares(corners[rows], tiles)
        enough = (shares > 0) & (shares >= grid.tiles.least_visible)
        kept.append(enough.sum(axis=1))
        lost.append(file.annotation_ids[where][rows[~enough.any(axis=0)]])
        clipped += int((enough & (shares < 1)).sum())
        dropped += int(((shares > 0) & ~enough).sum())
        objects += len(rows)
    none = np.zeros(0, np.int64)
    return TileViews(np.concatenate([*kept, none]), clipped, dropped, np.concatenate([*lost, none]), objects)


def look_at_tiles(where: Path, grid: TileGrid, bytes_per_pixel: int, views: TileViews | None) -> Looked:
    """Tells what tiles do to a training split.

    Args:
        where: The annotation file, or the folder of the data set.
        grid: The tiles that are trained on.
        bytes_per_pixel: Of the decoded copies.
        views: What they see of the objects, where there are any.
    """
    height, width = grid.tiles.sides
    words = [f"{len(grid):,} tiles of {height} x {width} pixels"]
    findings, needed = [*_of_objects(where, grid, views)], grid.decoded_pixels * bytes_per_pixel
    if grid.tiles.keep_decoded and needed:
        words.append(f"their decoded images are kept in {decoded_folder()}, {needed / 1e6:,.0f} MB")
        findings += _of_disk(needed)
    return Looked({"tiles": len(grid)}, findings, words)


def _of_objects(where: Path, grid: TileGrid, views: TileViews | None) -> Iterator[Finding]:
    if views is None:
        return
    seen, share = int(views.kept.sum()) + views.dropped, f"{grid.tiles.least_visible:.0%}"
    if len(views.lost):
        text = (
            f"objects show {share} of their box in no tile, and training leaves them out; take larger tiles or more "
            "overlap, or lower least_visible"
        )
        ids = [f"annotation {number}" for number in views.lost[: EXAMPLES + 1].tolist()]
        yield Finding("in_no_tile", "warning", str(where), len(views.lost), views.objects, text, ids)
    if views.dropped:
        text = (
            f"views of objects in tiles are less than {share} of their box: left out there, and no object nor "
            "background to detectors with ignore_crowds"
        )
        yield Finding("left_out_of_tiles", "note", str(where), views.dropped, seen, text)
    if views.clipped:
        text = f"views of objects in tiles are cut by a border and keep {share} of their box or more: they are clipped"
        yield Finding("clipped_by_tiles", "note", str(where), views.clipped, seen, text)


def _of_disk(needed: int) -> Iterator[Finding]:
    """Whether decoded images fit on the disk, in bytes; those that are there may be of this data set."""
    folder = decoded_folder()
    there = sum(copy.stat().st_size for copy in folder.glob("*.npy")) if folder.is_dir() else 0
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    room = shutil.disk_usage(existing).free + there
    if needed > room:
        text = (
            f"MB of decoded images do not fit on the disk, {room / 1e6:,.0f} do: what does not is decoded again for "
            "each of its tiles; set ATTNDENSE_CACHE to a larger disk"
        )
        missing, total = (-(-amount // 10**6) for amount in (needed - room, needed))
        yield Finding("decoded_images", "warning", str(folder), missing, total, text)
