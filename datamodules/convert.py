r"""`python -m datamodules.convert yolo|voc|labelme ...`: writes a COCO file of boxes in another layout.

    python -m datamodules.convert yolo --images data/y/images/train --labels data/y/labels/train \
        --classes data/y/data.yaml --write data/y/train.json

The images stay where they are: `--data.train_images` names their folder. It prints what was left out and why, images,
and objects of each class. The file is read by what training reads it with before it takes its place; the exit code is 2
where that, or anything before it, fails.

What each layout loses, and what the libraries behind it get wrong, is said in `datamodules.conversions`: `yolo.py`,
`voc.py` (both hotcoco) and `labelme.py` (supervision).
"""

import sys
from pathlib import Path

from jsonargparse import auto_cli

from configs.mistakes import end_with
from configs.version import version_line
from datamodules.command_parser import OneLineParser
from datamodules.conversions.labelme import read_labelme
from datamodules.conversions.split import Converted
from datamodules.conversions.voc import Corners, Difficult, read_voc
from datamodules.conversions.written import write_coco
from datamodules.conversions.yolo import read_yolo
from datamodules.errors import DataError


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: Default: those of the process.

    Raises:
        SystemExit: With exit code 2, where nothing was written.
    """
    commands = {"yolo": yolo, "voc": voc, "labelme": labelme}
    try:
        lines = auto_cli(
            commands,
            args=arguments,
            as_positional=False,
            parser_class=OneLineParser,
            prog="python -m datamodules.convert",
            version=version_line(),
        )
    except (DataError, OSError) as error:
        end_with(error)
    sys.stdout.write("\n".join(lines) + "\n")


def yolo(images: Path, labels: Path, classes: Path, write: Path, names: Path | None = None) -> list[str]:
    """From YOLO's text files: `class x y width height`, or polygons, in shares of the image.

    Args:
        images: Folder of the images, with sub-folders.
        labels: Folder of the text files; that of `images/ulm/7.jpg` is `labels/ulm/7.txt`. An image without one has no
            objects.
        classes: `data.yaml`, or a text file with the name of a class on each line (`classes.txt`, `obj.names`).
        write: The COCO file.
        names: Text file with the name or path of an image of the split on each line. Default: all images.
    """
    return _write(read_yolo(images, labels, classes, names), write)


def voc(
    images: Path,
    labels: Path,
    write: Path,
    classes: Path | None = None,
    names: Path | None = None,
    corners: Corners = "pixels",
    difficult: Difficult = "ignore",
) -> list[str]:
    """From Pascal VOC's xml files.

    Args:
        images: Folder of the images, VOC's `JPEGImages`.
        labels: Folder of the xml files, VOC's `Annotations`. An image without one is left out.
        write: The COCO file.
        classes: Text file with the name of a class on each line. Default: all that occur in `labels`, sorted.
        names: Text file with the name of an image of the split on each line, as in `ImageSets/Main/train.txt`. Default:
            all images.
        corners: `pixels`: xmin and xmax are the first and the last pixel, counted from 1, as VOC has it. `edges`: the
            left and the right edge, counted from 0, as many tools write.
        difficult: `ignore`: difficult objects become crowd regions, which training leaves out and the metric ignores.
            `train`: they are objects like others.
    """
    return _write(read_voc(images, labels, classes, names, corners, difficult), write)


def labelme(
    images: Path, labels: Path, write: Path, classes: Path | None = None, names: Path | None = None
) -> list[str]:
    """From LabelMe's json files; needs supervision: pip install '.[labelme]'.

    Args:
        images: Folder of the images.
        labels: Folder of the json files. An image without one is left out.
        write: The COCO file.
        classes: Text file with the name of a class on each line. Default: all that occur in `labels`, sorted.
        names: Text file with the name of an image of the split on each line. Default: all images.
    """
    return _write(read_labelme(images, labels, classes, names), write)


def _write(converted: Converted, target: Path) -> list[str]:
    return write_coco(converted, target)


if __name__ == "__main__":
    main()
