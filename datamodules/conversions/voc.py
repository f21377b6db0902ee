"""Pascal VOC's labels: an xml file for each image with an `<object>` for each object.

hotcoco reads them. VOC numbers the first and the last pixel of a box from 1, so that it begins at xmin - 1 and is
xmax - xmin + 1 wide; that is right for VOC, and half of the tools write the edges instead (`corners`). Objects that are
`difficult` become crowd regions, which training leaves out and the metric ignores, as VOC's own ignores them
(`difficult`). hotcoco does not see to the following, which is done here:

- it does not ask whether a file is whole, and silently loses the rest of one that is cut off;
- `&amp;` and the like: of a name `Tom &amp; Jerry` it keeps `Jerry`; other encodings than UTF-8;
- `<filename>` is taken as it is: without looking for the image, with the folders of another machine, or without ending;
- a missing or zero `<size>` becomes 0 x 0, and any other is believed;
- numbers below 1 give boxes that begin at -1, and sub-folders are not read;
- classes are numbered among those that occur. Here among those of all label files, or those that are listed.

Refused with the name of the file are objects without `<bndbox>`: rotated boxes (`<robndbox>`) and lone polygons.
Not taken over are polygons beside a box, the masks of `SegmentationObject`, `pose`, `truncated`, `occluded` and parts
such as heads and hands. `area` is width by height of the box.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Literal
from xml.etree import ElementTree

from hotcoco import COCO

from datamodules.class_lists import read_names
from datamodules.conversions.split import Converted, Object, Picture, find_images, shown_size
from datamodules.conversions.staging import NUMBER, read_annotations, staged
from datamodules.errors import DataError
from datamodules.orientation import Size

Corners = Literal["pixels", "edges"]
Difficult = Literal["ignore", "train"]

_AMPERSAND, _STAND_IN = "&", "\ue000"
Tree = ElementTree.Element


def read_voc(
    images: Path, labels: Path, classes: Path | None, names: Path | None, corners: Corners, difficult: Difficult
) -> Converted:
    """Reads a split.

    Args:
        images: Folder of the images, VOC's `JPEGImages`.
        labels: Folder of the xml files, VOC's `Annotations`: that of `images/ulm/7.jpg` is `labels/ulm/7.xml`, or the
            only one whose `<filename>` says `7.jpg`.
        classes: Text file with a name on each line. Default: all that occur below `labels`, sorted.
        names: The images of the split, such as `ImageSets/Main/train.txt`; see `find_images`.
        corners: What xmin, ymin, xmax and ymax are: `pixels` counted from 1, as VOC has it, or `edges` counted from 0.
        difficult: Whether difficult objects are ignored, or trained on and scored like others.

    Raises:
        DataError: A file is missing or not as expected.
    """
    trees = {path: _read(path) for path in sorted(labels.rglob("*.xml"))}
    if not trees:
        raise DataError(f"no xml files in {labels}; give the folder of the label files, VOC's Annotations")
    everything = dict(zip(trees, _objects(trees, corners, difficult), strict=True))
    occurring = sorted({one.name for objects in everything.values() for one in objects})
    class_names = occurring if classes is None else read_names(classes.parent, classes.name)
    unknown = {name: path for path, objects in everything.items() for name in {one.name for one in objects}}
    for name in sorted(unknown.keys() - set(class_names)):
        raise DataError(f"{unknown[name]} has an object {name!r}, expected one of {classes}: {', '.join(class_names)}")

    paths = find_images(images, names)
    sources = _sources(labels, trees, paths)
    pictures: list[Picture] = []
    sizeless: list[str] = []
    for path, source in zip(paths, sources, strict=True):
        if source is not None:
            size, is_told = _size(images / path, source, trees[source])
            pictures.append(Picture(path, size, everything[source]))
            sizeless += [] if is_told else [source.name]
    converted = Converted(class_names, pictures)
    _note(converted, images, labels, paths, sources, sizeless)
    every = [one for picture in pictures for one in picture.objects]
    outside = [picture.path for picture in pictures for one in picture.objects if min(one.box[:2]) < 0]
    text = "boxes begin before the first pixel: their corners do not count from 1 as VOC's do; try --corners edges"
    converted.note("begins_at_0", labels, outside, len(every), text)
    crowds = [picture.path for picture in pictures for one in picture.objects if one.is_crowd]
    text = "objects are difficult: training leaves them out and the metric ignores them; else --difficult train"
    converted.note("difficult", labels, crowds, len(every), text)
    return converted


def _note(
    converted: Converted,
    images: Path,
    labels: Path,
    paths: Sequence[Path],
    sources: Sequence[Path | None],
    sizeless: Sequence[str],
) -> None:
    missing = [path for path, source in zip(paths, sources, strict=True) if source is None]
    text = "images have no xml file: they are left out, because nothing says that they have no objects"
    converted.note("no_label_file", labels, missing, len(paths), text)
    text = "xml files say no size; that of the image is taken"
    converted.note("no_size", labels, sizeless, len(converted.pictures), text)


def _read(path: Path) -> Tree:
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeError, LookupError) as error:
        raise DataError(f"{path} is no whole xml file ({error}); write it again, or take it out") from None
    if tree.tag != "annotation":
        raise DataError(f"{path} begins with <{tree.tag}>, expected VOC's <annotation>; take it out")
    return tree


def _objects(trees: Mapping[Path, Tree], corners: Corners, difficult: Difficult) -> list[list[Object]]:
    with staged(list(trees)) as folder:
        for place, tree in enumerate(trees.values()):
            text = ElementTree.tostring(tree, encoding="unicode").replace(_AMPERSAND, _STAND_IN)
            (folder / f"{NUMBER.format(place)}.xml").write_text(text, encoding="utf-8")
        found = read_annotations(lambda: COCO.from_voc(str(folder)), len(trees))
    shift = (0, 0, 0, 0) if corners == "pixels" else (1, 1, -1, -1)
    return [
        [
            Object(
                html.unescape(record["name"].replace(_STAND_IN, _AMPERSAND)),
                [side + change for side, change in zip(record["bbox"], shift, strict=True)],
                bool(record["iscrowd"]) and difficult == "ignore",
            )
            for record in records
        ]
        for records in found
    ]


def _sources(labels: Path, trees: Mapping[Path, Tree], paths: Sequence[Path]) -> list[Path | None]:
    """The xml file of each image: that of its name, else the only one that names it."""
    naming: dict[str, list[Path]] = {}
    for path, tree in trees.items():
        # With the folders of the machine that it was written on, which may have been Windows.
        naming.setdefault(PureWindowsPath((tree.findtext("filename") or "").strip()).name, []).append(path)
    own = [labels / path.with_suffix(".xml") for path in paths]
    taken = set(own) & trees.keys()
    others = [[path for path in naming.get(image.name, []) if path not in taken] for image in paths]
    return [
        path if path in taken else other[0] if len(other) == 1 else None
        for path, other in zip(own, others, strict=True)
    ]


def _size(image: Path, source: Path, tree: Tree) -> tuple[Size, bool]:
    """Height and width of an image, and whether its xml file says them."""
    shown, _ = shown_size(image)
    try:
        height, width = (int(tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError as error:
        raise DataError(f"{source} has a <size> that is no whole number ({error}); correct it") from None
    if not (height and width):
        return shown, False
    if (height, width) not in (shown, shown[::-1]):
        raise DataError(
            f"{source} says {height} x {width} (height x width), but {image} is {shown[0]} x {shown[1]}: its boxes "
            "would be misplaced; take the image that was labelled"
        )
    return (height, width), True
