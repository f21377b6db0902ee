"""The look through a split in COCO's layout: the columns of the json, the names of the files, their headers."""

from typing import TYPE_CHECKING

from datamodules.annotation_store import cache_folder
from datamodules.coco_annotations import AnnotationFile
from datamodules.content_digest import content_digest
from datamodules.findings import Severity
from datamodules.orientation import Orientation
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
    skips = split == "training" and data.on_corrupt == "skip"
    broken: Severity = "warning" if skips else "error"
    sizes = file.sizes[data.training_images] if split == "training" else file.sizes
    orientation: Orientation = getattr(data, "orientation", "stored")
    headers = look_into(
        "headers",
        (
            content_digest(file.path, cache_folder() / "sources"),
            files.folder.resolve(),
            len(files.names),
            broken,
            orientation,
        ),
        lambda place: [files.path(place)],
        len(files.names),
        whole,
        lambda places: look_at_headers(files.path, sizes, source, broken, orientation, places),
    )
    return SplitReport.of(split, boxes, look_at_names(files.folder, files.names, source, broken), headers)
