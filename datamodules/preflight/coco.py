"""The look through a split in COCO's layout: the columns of the json, the names of the files, their headers."""

from typing import TYPE_CHECKING

from datamodules.annotation_store import cache_folder
from datamodules.coco_annotations import AnnotationFile
from datamodules.content_digest import content_digest
from datamodules.orientation import Size
from datamodules.preflight.boxes import look_at_boxes
from datamodules.preflight.headers import look_at_headers
from datamodules.preflight.kept import look_into
from datamodules.preflight.names import look_at_names
from datamodules.preflight.report import Split, SplitReport
from datamodules.preflight.tiles import look_at_tiles

if TYPE_CHECKING:
    from datamodules.coco import COCO


def look_through_coco(data: "COCO", split: Split, file: AnnotationFile, whole: bool) -> SplitReport:
    """Looks for what of a split is lost or doubtful.

    Args:
        data: The data module.
        split: Which split.
        file: Its annotations.
        whole: Read the headers of all images.
    """
    part = data.tiles.sides if split == "training" and data.tiles is not None else None
    transforms, drops_empty = data.pipeline.evaluation(), data.empty_images == "drop"
    boxes = look_at_boxes(file, split, transforms, data.max_images is None, drops_empty, part)
    files, source = data.image_files(split), str(file.path)
    broken = data.severity_of_broken(split)
    sizes = file.sizes[data.training_images] if split == "training" else file.sizes

    def annotated(place: int) -> Size:
        height, width = sizes[place].tolist()
        return height, width

    headers = look_into(
        "headers",
        (
            content_digest(file.path, cache_folder() / "sources"),
            files.folder.resolve(),
            len(files.names),
            broken,
            data.orientation,
            data.max_pixels,
        ),
        lambda place: [files.path(place)],
        len(files.names),
        whole,
        lambda places: look_at_headers(
            files.path, annotated, source, broken, data.orientation, data.max_pixels, places
        ),
    )
    looks = [boxes, look_at_names(files.folder, files.names, source, broken), headers]
    if split == "training" and data.training_tiles is not None:
        looks.append(look_at_tiles(file.path, data.training_tiles, data.bytes_per_pixel, data.tile_views))
    return SplitReport.of(split, *looks)
