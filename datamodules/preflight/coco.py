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
    boxes = look_at_boxes(file, split, data.pipeline.evaluation(), data.max_images is None, data.empty_images == "drop")
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
        ),
        lambda place: [files.path(place)],
        len(files.names),
        whole,
        lambda places: look_at_headers(files.path, annotated, source, broken, data.orientation, places),
    )
    return SplitReport.of(split, boxes, look_at_names(files.folder, files.names, source, broken), headers)
