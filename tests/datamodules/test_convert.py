"""Boxes in other layouts, converted to COCO's: to the pixel, with what the libraries behind it get wrong put right."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import COCO
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import convert

SIZES = {"a.jpg": (641, 427), "b.png": (33, 71), "ulm/c.v2.JPG": (50, 41), "ulm/a.jpg": (7, 5)}
"""Width and height of four images in two folders, two of one name."""
BOXES = {"a.jpg": [("cat", (0, 0, 10, 20)), ("dog", (631, 417, 10, 10))], "ulm/c.v2.JPG": [("dog", (3, 5, 17, 11))]}
"""x, y, width and height; the other two images have no objects."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        image(tmp_path / "images" / name, size)
    return tmp_path


def image(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def convert_to(root: Path, layout: str, *options: str) -> dict[str, Any]:
    arguments = [layout, f"--images={root / 'images'}", f"--labels={root / 'labels'}", f"--write={root / 'out.json'}"]
    convert.main([*arguments, *options])
    return json.loads((root / "out.json").read_text())


def objects(content: dict[str, Any]) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Class and box of every object by image, as in `BOXES`, and whether everything else is as COCO has it."""
    names = {record["id"]: record["name"] for record in content["categories"]}
    files = {record["id"]: record["file_name"] for record in content["images"]}
    found: dict[str, list[tuple[str, tuple[float, ...]]]] = {name: [] for name in files.values()}
    for record in content["annotations"]:
        found[files[record["image_id"]]].append((names[record["category_id"]], tuple(record["bbox"])))
    return found


def expected() -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {name: BOXES.get(name, []) for name in sorted(SIZES)}


def as_coco() -> dict[str, Any]:
    """The same as COCO has it."""
    images = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        for number, (name, size) in enumerate(SIZES.items(), start=7)
    ]
    numbers = {record["file_name"]: record["id"] for record in images}
    boxes = [(numbers[name], label, box) for name, found in BOXES.items() for label, box in found]
    annotations = [
        {"id": number, "image_id": image_id, "category_id": {"cat": 3, "dog": 9}[label], "bbox": list(box)}
        | {"area": box[2] * box[3], "iscrowd": 0}
        for number, (image_id, label, box) in enumerate(boxes, start=1)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def near(found: dict[str, list[tuple[str, tuple[float, ...]]]], pixels: float = 1e-9) -> Any:
    """The same boxes, but for rounding."""
    return {name: [(label, pytest.approx(box, abs=pixels)) for label, box in boxes] for name, boxes in found.items()}


# YOLO


def yolo_line(label: int, size: tuple[int, int], box: Sequence[float]) -> str:
    (width, height), (x, y, w, h) = size, box
    return f"{label} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}"


def write_yolo(root: Path) -> None:
    for name, found in BOXES.items():
        lines = [yolo_line(["cat", "dog"].index(label), SIZES[name], box) for label, box in found]
        write(root / "labels" / Path(name).with_suffix(".txt"), "\n".join(lines) + "\n")
    write(root / "labels" / "b.txt", "")
    write(root / "data.yaml", "train: images\nnc: 2\nnames:\n- cat\n- dog\n")


def test_yolo_to_the_pixel(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(root)
    write(root / "labels" / "gone.txt", "0 0.5 0.5 1 1")
    content = convert_to(root, "yolo", f"--classes={root / 'data.yaml'}")
    assert near(expected()) == objects(content)
    sizes = {record["file_name"]: (record["width"], record["height"]) for record in content["images"]}
    assert sizes == SIZES
    assert all(record["area"] == pytest.approx(np.prod(record["bbox"][2:])) for record in content["annotations"])
    assert {record["iscrowd"] for record in content["annotations"]} == {0}
    assert capsys.readouterr().out.splitlines() == [
        f"{root}/labels: 1 of 4 images have no label file: they have no objects (ulm/a.jpg)",
        f"{root}/labels: 1 of 4 label files have no image in {root}/images: they are left out (gone.txt)",
        "4 images, 3 objects, 2 images without objects",
        "objects: cat 1, dog 2",
        f"written to {root}/out.json",
    ]


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_to_another_layout_and_back(root: Path, layout: str) -> None:
    """hotcoco writes no sub-folders, and shares to six digits, which is a thousandth of a pixel here."""
    content = as_coco()
    flat = {record["id"] for record in content["images"] if "/" not in record["file_name"]}
    content["images"] = [record for record in content["images"] if record["id"] in flat]
    content["annotations"] = [record for record in content["annotations"] if record["image_id"] in flat]
    for name in SIZES:
        if "/" in name:
            (root / "images" / name).unlink()
    labels = root / "labels"
    if layout == "yolo":
        COCO(content).to_yolo(str(labels))
        back = convert_to(root, "yolo", f"--classes={labels / 'data.yaml'}")
    else:
        COCO(content).to_voc(str(labels.with_name("voc")))
        (labels.with_name("voc") / "Annotations").rename(labels)
        back = convert_to(root, "voc")
    flat_boxes = {name: found for name, found in expected().items() if "/" not in name}
    assert near(flat_boxes, 1e-3 if layout == "yolo" else 0) == objects(back)


def test_yolo_polygons_keep_their_corners(root: Path) -> None:
    write_yolo(root)
    corners = [0.2, 0.1, 0.9, 0.3, 0.5, 0.8]
    lines = [yolo_line(0, SIZES["a.jpg"], (1, 2, 3, 4)), " ".join(map(str, (1.0, *corners)))]
    write(root / "labels" / "a.txt", "\n".join(lines))
    content = convert_to(root, "yolo", f"--classes={root / 'data.yaml'}")
    box, polygon = content["annotations"][:2]
    assert "segmentation" not in box and polygon["category_id"] == 2
    pixels = [share * side for share, side in zip(corners, (641, 427) * 3, strict=True)]
    assert polygon["segmentation"] == [pixels]
    assert polygon["bbox"] == pytest.approx([0.2 * 641, 0.1 * 427, 0.7 * 641, 0.7 * 427])
    assert polygon["area"] == coco_mask.area(coco_mask.frPyObjects([pixels], 427, 641)[0])


def test_yolo_takes_the_size_of_the_picture_as_it_is_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(root)
    image(root / "images" / "a.jpg", SIZES["a.jpg"][::-1], orientation=6)
    content = convert_to(root, "yolo", f"--classes={root / 'data.yaml'}")
    assert near(expected()) == objects(content)
    assert "1 of 4 images are turned by EXIF" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "expected a class in 0..1"),
        ("0.5 0.5 0.5 0.1 0.1", "expected a class in 0..1"),
        ("0 0.5 0.5 0.1 0.1 0.9", "score of a prediction"),
        ("0 0.5 0.5 0.1", "has 4 numbers"),
        ("0 320 200 30 40", "these are pixels?"),
        ("0 nan 0.5 0.1 0.1", "these are pixels?"),
        ("0 0.5 0.5 0.1 -0.005", "these are pixels?"),
        ("cat 0.5 0.5 0.1 0.1", "expected numbers"),
    ],
)
def test_yolo_lines_that_are_none(root: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    write_yolo(root)
    write(root / "labels" / "a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(SystemExit, match="2"):
        convert_to(root, "yolo", f"--classes={root / 'data.yaml'}")
    error = capsys.readouterr().err
    assert f"error: {root}/labels/a.txt, object 2" in error and message in error
    assert not (root / "out.json").exists()


def test_yolo_classes(root: Path) -> None:
    write_yolo(root)
    write(root / "data.yaml", "names:\n  1: 'dog, big'\n  0: cat\n")
    names = [record["name"] for record in convert_to(root, "yolo", f"--classes={root / 'data.yaml'}")["categories"]]
    assert names == ["cat", "dog, big"]
    write(root / "classes.txt", "Katze\nHund\n")
    names = [record["name"] for record in convert_to(root, "yolo", f"--classes={root / 'classes.txt'}")["categories"]]
    assert names == ["Katze", "Hund"]


def test_listed_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(root)
    write(root / "train.txt", "./images/ulm/c.v2.JPG\nb\n")
    options = [f"--classes={root / 'data.yaml'}", f"--names={root / 'train.txt'}"]
    assert list(objects(convert_to(root, "yolo", *options))) == ["b.png", "ulm/c.v2.JPG"]
    write(root / "train.txt", "a\n")
    with pytest.raises(SystemExit):
        convert_to(root, "yolo", *options)
    assert "lists 'a', expected one image" in capsys.readouterr().err


# Pascal VOC


def voc_object(name: str, corners: Sequence[float], more: str = "") -> str:
    sides = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def voc_text(file_name: str, size: tuple[int, int] | None, found: str = "") -> str:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><folder>x</folder><filename>{file_name}</filename>{sides}{found}</annotation>"


def write_voc(root: Path) -> None:
    for name, size in SIZES.items():
        found = "".join(voc_object(label, (x + 1, y + 1, x + w, y + h)) for label, (x, y, w, h) in BOXES.get(name, []))
        write(root / "labels" / Path(name).with_suffix(".xml"), voc_text(name, size, found))


def test_voc_to_the_pixel(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(root)
    content = convert_to(root, "voc")
    assert objects(content) == expected()
    assert [record["area"] for record in content["annotations"]] == [200, 100, 187]
    assert capsys.readouterr().out.splitlines() == [
        "4 images, 3 objects, 2 images without objects",
        "objects: cat 1, dog 2",
        f"written to {root}/out.json",
    ]


def test_voc_edges_and_difficult_objects(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(root)
    difficult = "<difficult>1</difficult>"
    found = voc_object("cat", (0, 2, 30, 40.5)) + voc_object("dog", (1, 2, 3, 4), difficult)
    write(root / "labels" / "a.xml", voc_text("a.jpg", None, found))
    content = convert_to(root, "voc", "--corners=edges")
    assert objects(content)["a.jpg"] == [("cat", (0, 2, 30, 38.5)), ("dog", (1, 2, 2, 2))]
    assert [record["iscrowd"] for record in content["annotations"]] == [0, 1, 0]
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"{root}/labels: 1 of 4 xml files say no size; that of the image is taken (a.xml)",
        f"{root}/labels: 1 of 3 objects are difficult: training leaves them out and the metric ignores them; else "
        "--difficult train (a.jpg)",
        "4 images, 2 objects, 2 images without objects, 1 crowd regions",
        "objects: cat 1, dog 1",
    ]
    content = convert_to(root, "voc", "--difficult=train")
    assert [record["iscrowd"] for record in content["annotations"]] == [0, 0, 0]
    assert objects(content)["a.jpg"][0] == ("cat", (-1, 1, 31, 39.5))
    assert "1 of 3 boxes begin before the first pixel" in capsys.readouterr().out


def test_voc_names_that_hotcoco_reads_wrongly(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(root)
    (root / "labels" / "b.xml").unlink()
    (root / "labels" / "ulm" / "a.xml").unlink()
    part = f"<part>{voc_object('head', (5, 6, 7, 8))[len('<object>') : -len('</object>')]}</part>"
    found = voc_object("Tom &amp; J\u00e4rry", (1, 2, 3, 4), part) + "<!-- " + voc_object("old", (1, 1, 9, 9)) + " -->"
    heading = '<?xml version="1.0" encoding="ISO-8859-1"?>\n'
    write(root / "labels" / "odd.xml", heading + voc_text("C:\\photos\\b.png", (33, 71), found), "latin-1")
    content = convert_to(root, "voc")
    assert [record["name"] for record in content["categories"]] == ["Tom & J\u00e4rry", "cat", "dog"]
    assert objects(content)["b.png"] == [("Tom & J\u00e4rry", (0, 1, 3, 3))]
    assert "1 of 4 images have no xml file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_text("a.jpg", (641, 427), voc_object("cat", (9, 9, 1, 1))), "inverted"),
        (voc_text("a.jpg", (641, 427), "<object><name>cat</name><robndbox/></object>"), "no <bndbox>"),
        (voc_text("a.jpg", (640, 427)), "would be misplaced"),
        (voc_text("a.jpg", (641, 427), voc_object("cat", (1, 1, 9, 9)))[:-20], "is no whole xml file"),
        ("<html></html>", "expected VOC's <annotation>"),
    ],
)
def test_voc_files_that_are_none(root: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    write_voc(root)
    write(root / "labels" / "a.xml", text)
    with pytest.raises(SystemExit, match="2"):
        convert_to(root, "voc")
    error = capsys.readouterr().err
    assert f"{root}/labels/a.xml" in error and message in error


def test_voc_nan_is_refused_before_anything_is_written(root: Path) -> None:
    write_voc(root)
    write(root / "labels" / "a.xml", voc_text("a.jpg", (641, 427), voc_object("cat", ("nan", 1, 9, 9))))  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="2"):
        convert_to(root, "voc")
    assert [path.name for path in root.glob("*out*")] == []


# LabelMe


def test_labelme(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("supervision")
    shapes = [
        {"label": "dog", "shape_type": "rectangle", "points": [[30.5, 40], [10, 20.25]]},
        {"label": "cat", "shape_type": "polygon", "points": [[1, 2], [9, 2], [9, 12]]},
        {"label": "sun", "shape_type": "circle", "points": [[1, 2], [9, 2]]},
    ]
    write(root / "labels" / "a.json", json.dumps({"imagePath": "..\\a.jpg", "shapes": shapes}))
    write(root / "labels" / "ulm" / "a.json", json.dumps({"imagePath": "a.jpg", "shapes": []}))
    content = convert_to(root, "labelme")
    assert objects(content) == {"a.jpg": [("dog", (10, 20.25, 20.5, 19.75)), ("cat", (1, 2, 8, 10))], "ulm/a.jpg": []}
    mask = coco_mask.decode(content["annotations"][1]["segmentation"])
    inside = np.array([[mask[y, x] for x in (1, 5, 9, 10)] for y in (2, 7, 12)])
    assert mask.shape == (427, 641) and inside.tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    out = capsys.readouterr().out
    assert "2 of 4 images have no json file" in out and "1 circle" in out
