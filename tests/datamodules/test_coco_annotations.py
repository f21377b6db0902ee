"""A COCO file is read exactly, or refused in one line that names the file and the culprit."""

import json
import math
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules import DataError
from datamodules.coco_annotations import AnnotationFile, clipped_corners

Content = dict[str, Any]


def content() -> Content:
    """Three images out of order, the second without annotations; category ids unordered and with gaps."""
    return {
        "images": [
            {"id": 9, "file_name": "nine.jpg", "height": 40, "width": 60},
            {"id": 4, "file_name": "sub/four.jpg", "height": 30, "width": 20},
            {"id": 7, "file_name": "seven.jpg", "height": 50, "width": 50},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 90, "bbox": [1.25, 2.1, 3.3, 4.7], "area": 15.5, "iscrowd": 0},
            {"id": 0, "image_id": 4, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 99, "iscrowd": 1},
            {"id": 8, "image_id": 9, "category_id": 7, "bbox": [5, 6, 7, 8], "area": 56.0},
        ],
    }


def write(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_columns(tmp_path: Path) -> None:
    file = AnnotationFile(write(tmp_path, content()))
    assert file.category_ids == [3, 7, 90] and file.class_names == ["car", "cat", "brush"]
    assert len(file) == 3 and file.image_ids.tolist() == [4, 7, 9]
    assert file.file_names.tolist() == ["sub/four.jpg", "seven.jpg", "nine.jpg"]
    assert file.sizes.tolist() == [[30, 20], [50, 50], [40, 60]]
    assert [file.of_image(place) for place in range(3)] == [slice(0, 1), slice(1, 1), slice(1, 3)]
    assert file.boxes.tolist() == [[0, 0, 10, 10], [1.25, 2.1, 3.3, 4.7], [5, 6, 7, 8]]
    assert file.labels.tolist() == [0, 2, 1] and file.area.tolist() == [99, 15.5, 56]
    assert file.iscrowd.tolist() == [True, False, False]
    assert [column.dtype for column in (file.boxes, file.labels, file.area, file.iscrowd)] == [
        np.float64,
        np.int64,
        np.float64,
        np.bool_,
    ]


@pytest.mark.parametrize(
    ("max_images", "ids", "boxes"), [(1, [4], 1), (2, [4, 7], 1), (3, [4, 7, 9], 3), (9, [4, 7, 9], 3)]
)
def test_max_images_keeps_the_lowest_ids(max_images: int, ids: list[int], boxes: int, tmp_path: Path) -> None:
    file = AnnotationFile(write(tmp_path, content()), max_images)
    assert file.image_ids.tolist() == ids and len(file.boxes) == len(file.labels) == boxes == file.first[-1]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_file_is_kept_bit_by_bit(split: str, shared_data: Callable[[str], Path]) -> None:
    path = shared_data("coco-free") / "annotations" / f"instances_{split}.json"
    file, raw = AnnotationFile(path), json.loads(path.read_text())
    assert len(file.category_ids) == 80 and file.category_ids[-1] == 90
    of_image: dict[int, list[Content]] = {record["id"]: [] for record in raw["images"]}
    for record in raw["annotations"]:
        of_image[record["image_id"]].append(record)
    assert sum(not records for records in of_image.values()) >= 1
    for place, image_id in enumerate(file.image_ids.tolist()):
        where, records = file.of_image(place), of_image[image_id]
        assert file.boxes[where].tobytes() == np.array([r["bbox"] for r in records], dtype=np.float64).tobytes()
        assert [file.category_ids[label] for label in file.labels[where]] == [r["category_id"] for r in records]
        assert file.area[where].tolist() == [r["area"] for r in records]
        assert file.iscrowd[where].tolist() == [bool(r["iscrowd"]) for r in records]


def test_byte_order_mark_and_empty_annotations_are_accepted(tmp_path: Path) -> None:
    file = AnnotationFile(write(tmp_path, "\ufeff" + json.dumps({**content(), "annotations": []})))
    assert file.boxes.shape == (0, 4) and file.first.tolist() == [0, 0, 0, 0]


def put(*where: Any) -> Callable[[Content], object]:
    """Replaces an entry: put("images", 0, "id", 4); "absent" as the value deletes it."""

    def change(value: Content) -> None:
        inner: Any = value
        for key in where[:-2]:
            inner = inner[key]
        if where[-1] == "absent":
            del inner[where[-2]]
        else:
            inner[where[-2]] = where[-1]

    return change


FAULTS: dict[str, tuple[Callable[[Content], object], str]] = {
    "no images": (put("images", []), "has no 'images'; expected"),
    "images absent": (put("images", "absent"), "has no 'images'; expected"),
    "images a number": (put("images", 3), "has no 'images'; expected"),
    "no categories": (put("categories", []), "has no 'categories'; expected"),
    "categories absent": (put("categories", "absent"), "has no 'categories'; expected"),
    "annotations absent": (put("annotations", "absent"), "has no 'annotations'; expected"),
    "image a number": (put("images", 1, 3), "entry 1 of 'images' has no integer id"),
    "image id absent": (put("images", 1, "id", "absent"), "entry 1 of 'images' has no integer id"),
    "image id true": (put("images", 0, "id", True), "entry 0 of 'images' has no integer id of 64 bits, found True"),
    "image id a text": (put("images", 0, "id", "nine"), "entry 0 of 'images' has no integer id"),
    "annotation id null": (put("annotations", 2, "id", None), "entry 2 of 'annotations' has no integer id"),
    "category id absent": (put("categories", 0, "id", "absent"), "entry 0 of 'categories' has no integer id"),
    "image ids twice": (put("images", 0, "id", 4), r"ids of images occur twice: \[4\]"),
    "annotation ids twice": (put("annotations", 0, "id", 8), r"ids of annotations occur twice: \[8\]"),
    "category ids twice": (put("categories", 0, "id", 3), r"ids of categories occur twice: \[3\]"),
    "category names twice": (put("categories", 0, "name", "car"), r"category names occur twice: \['car'\]"),
    "category name absent": (put("categories", 0, "name", "absent"), "category 7 has name None, expected str"),
    "height absent": (put("images", 0, "height", "absent"), "image 9 has height None, expected int"),
    "width a text": (put("images", 0, "width", "60"), "image 9 has width '60', expected int"),
    "width true": (put("images", 0, "width", True), r"image 9 has width True, expected int in 1\.\.2147483647"),
    "width 0": (put("images", 0, "width", 0), "image 9 has width 0, expected int in 1"),
    "width negative": (put("images", 2, "width", -50), "image 7 has width -50, expected int in 1"),
    "height a fraction": (put("images", 2, "height", 50.5), r"image 7 has height 50\.5, expected int in 1"),
    "height too large": (put("images", 2, "height", 2**31), "image 7 has height 2147483648, expected int in 1"),
    "file name empty": (put("images", 0, "file_name", ""), "image 9 has file_name '', expected the path of a file"),
    "file name a folder": (put("images", 0, "file_name", "sub/"), "image 9 has file_name 'sub/', expected the path"),
    "file name a dot": (put("images", 0, "file_name", "./"), "image 9 has file_name './', expected the path"),
    "file name absent": (put("images", 0, "file_name", "absent"), "image 9 has file_name None, expected str"),
    "unknown image": (put("annotations", 0, "image_id", 999), "annotation 5 has unknown image_id 999"),
    "unknown category": (put("annotations", 0, "category_id", 1), "annotation 5 has unknown category_id 1"),
    "image_id absent": (put("annotations", 0, "image_id", "absent"), "annotation 5 has image_id None, expected int"),
    "image_id a list": (put("annotations", 0, "image_id", [9]), r"annotation 5 has image_id \[9\], expected int"),
    "category_id absent": (put("annotations", 0, "category_id", "absent"), "annotation 5 has category_id None"),
    "area a text": (put("annotations", 0, "area", "15.5"), "annotation 5 has area '15.5', expected finite int or"),
    "category name empty": (put("categories", 0, "name", ""), "category 7 has name '', expected str with a name in it"),
    "category name blank": (put("categories", 1, "name", " \t"), r"category 90 has name ' \\t', expected str with a"),
    "file name blank": (put("images", 0, "file_name", "  "), "image 9 has file_name '  ', expected the path of a file"),
    "file name of two lines": (put("images", 0, "file_name", "a\nb.jpg"), r"image 9 has file_name 'a\\nb\.jpg', expec"),
    "file name with a null": (put("images", 0, "file_name", "a\0.jpg"), r"image 9 has file_name 'a\\x00\.jpg', expec"),
    "file name not of Unicode": (
        put("images", 0, "file_name", "\ud800.jpg"),
        r"image 9 has file_name '\\ud800\.jpg'",
    ),
    "area NaN": (put("annotations", 0, "area", math.nan), "annotation 5 has area nan, expected finite"),
    "area infinite": (put("annotations", 0, "area", -math.inf), "annotation 5 has area -inf, expected finite"),
    "area that no float holds": (
        put("annotations", 0, "area", 10**400),
        "annotation 5 has area 10+\\.\\.\\., expected finite",
    ),
    "iscrowd a text": (put("annotations", 0, "iscrowd", "0"), "annotation 5 has iscrowd '0', expected int"),
    "bbox absent": (put("annotations", 0, "bbox", "absent"), "annotation 5 has bbox None, expected four finite"),
    "bbox of 3": (put("annotations", 0, "bbox", [1, 2, 3]), r"annotation 5 has bbox \[1, 2, 3\], expected four"),
    "bbox of 8": (put("annotations", 0, "bbox", [1] * 8), r"annotation 5 has bbox \[1, 1, .*\], expected four"),
    "bbox of 500": (put("annotations", 0, "bbox", [1] * 500), r"annotation 5 has bbox .{97}\.\.\., expected four"),
    "bbox NaN": (put("annotations", 0, "bbox", 2, math.nan), r"annotation 5 has bbox \[.*nan.*\], expected four"),
    "bbox infinite": (put("annotations", 0, "bbox", 2, math.inf), r"annotation 5 has bbox \[.*inf.*\], expected"),
    "bbox of texts": (put("annotations", 0, "bbox", ["1", "2", "3", "4"]), "annotation 5 has bbox .* finite numbers"),
    "path upwards": (
        put("images", 0, "file_name", "../../etc/passwd"),
        r"image 9 has file_name '\.\./\.\./etc/passwd', expected the path of a file inside the images folder; ",
    ),
    "path upwards inside": (
        put("images", 0, "file_name", "a/../../b.jpg"),
        "image 9 has file_name 'a/../../b.jpg', exp",
    ),
    "path upwards and back": (
        put("images", 1, "file_name", "../x/b.jpg"),
        "image 4 has file_name '../x/b.jpg', expected",
    ),
    "absolute path": (put("images", 0, "file_name", "/etc/passwd"), "image 9 has file_name '/etc/passwd', expected"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    value = content()
    change, message = FAULTS[fault]
    change(value)
    path = write(tmp_path, value)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}:? {message}") as error:
        AnnotationFile(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


DEEP = "[" * 3000 + "1" + "]" * 3000
"""Python's stack ends at a third of it; newer releases may follow it, and then read the file."""


def with_text(entry: str, text: str) -> str:
    """The content with a text as an entry of the last annotation, or of the file."""
    value = json.dumps(content())
    if entry == "area":
        return value.replace("56.0", text)
    return (
        value[:-1] + f', "{entry}": {text}' + "}"
        if entry == "info"
        else value.replace("56.0", f'56, "{entry}": {text}')
    )


HOSTILE: dict[str, tuple[str, str]] = {
    "deep mask": (
        with_text("segmentation", DEEP),
        r": entry 2 of 'annotations' \(id 8\) is nested 3000 deep, expected",
    ),
    "deep attribute": (
        with_text("attributes", f'{{"a": {DEEP}}}'),
        r": entry 2 of 'annotations' \(id 8\) is nested 3001",
    ),
    "deep information": (with_text("info", DEEP), r": entry 0 of 'info' is nested 2998 deep"),
    "deep list alone": (DEEP, ": entry 0 of 0 is nested 2997 deep"),
    "deep list cut off": ("[" * 100_000, r" is not a json file \(.*; it may be truncated"),
    "area of 5,000 digits": (
        with_text("area", "9" * 5000),
        ": annotation 8 has area inf, expected finite int or float",
    ),
    "id of 5,000 digits": (
        json.dumps(content()).replace('"id": 4', '"id": ' + "9" * 5000),
        ": entry 1 of 'images' has no integer id of 64 bits, found inf",
    ),
    "box of 5,000 digits": (
        json.dumps(content()).replace("[5,", "[" + "9" * 5000 + ","),
        r": annotation 8 has bbox \[inf, 6, 7, 8\], expected four finite numbers",
    ),
    "width of 5,000 digits": (
        json.dumps(content()).replace('"width": 20', '"width": ' + "9" * 5000),
        ": image 4 has width inf, expected int in 1",
    ),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_texts_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    text, message = HOSTILE[fault]
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}{message}") as error:
        AnnotationFile(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_integers_of_any_length_where_nobody_looks(tmp_path: Path) -> None:
    for entry in ("info", "score"):
        assert len(AnnotationFile(write(tmp_path, with_text(entry, "9" * 5000))).boxes) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a json file .* copy it again"),
        ('{"images": [', "is not a json file .* copy it again"),
        ("[1, 2]", r"holds a list, expected a COCO instances file \(a json object\)"),
        ("3", "holds a int, expected"),
    ],
)
def test_files_that_are_no_json_object(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} {message}"):
        AnnotationFile(path)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16-LE"), ("utf-16-be", "UTF-16-BE"), ("utf-32", "UTF-32")],
)
def test_files_of_another_encoding_are_named_with_a_remedy(encoding: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()), encoding=encoding)
    with pytest.raises(DataError) as error:
        AnnotationFile(path)
    assert str(error.value) == (
        f"{path} is {name} text, as Windows writes it, expected UTF-8; save it as UTF-8, with: iconv -f {name} -t UTF-8"
    )


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(json.dumps(content()).replace("cat", "Zürich").encode("latin-1").replace(b"\\u00fc", b"\xfc"))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is not UTF-8 text .*; save it as UTF-8, or copy it"):
        AnnotationFile(path)


@pytest.mark.parametrize("text", [b'"area"', b'"counts"', b'"images"', b'"info"'])
def test_a_byte_that_is_no_text_in_a_key(text: bytes, tmp_path: Path) -> None:
    """It would make another key of it, which is not looked at."""
    value = content()
    value["annotations"][1]["segmentation"] = {"size": [30, 20], "counts": "1"}
    path = tmp_path / "instances.json"
    path.write_bytes(json.dumps({**value, "info": {}}).encode().replace(text, b'"\x80' + text[1:], 1))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is not UTF-8 text .*byte 0x80"):
        AnnotationFile(path)


SQUARE = [[2.0, 2.0, 8.0, 2.0, 8.0, 7.0, 2.0, 7.0]]


@pytest.mark.parametrize("value", ["absent", None])
def test_missing_areas_are_those_of_the_boxes_and_said(value: object, tmp_path: Path) -> None:
    records = content()
    for place in (0, 2):
        put("annotations", place, "area", value)(records)
    path = write(tmp_path, records)
    for _ in range(2):  # built, and from the cache
        file = AnnotationFile(path)
        assert str(file.missing_areas()) == (
            f"{path}: 2 of 3 annotations have no area; that of their box, width x height, is taken, or that of the "
            "mask where masks are read (5, 8)"
        )
        assert file.annotation_ids.tolist() == [0, 5, 8] and file.area.tolist() == [99, 3.3 * 4.7, 56]
    assert AnnotationFile(path, max_images=1).missing_areas() is None


def test_missing_areas_of_masks_are_pycocotools(tmp_path: Path) -> None:
    records = content()
    code = coco_mask.encode(np.asfortranarray(np.tri(40, 60, 3, dtype=np.uint8)))
    masks = [{"size": [40, 60], "counts": code["counts"].decode()}, SQUARE, SQUARE]
    for annotation, mask in zip(records["annotations"], masks, strict=True):
        annotation["segmentation"] = mask
    del records["annotations"][0]["area"], records["annotations"][2]["area"]
    path = write(tmp_path, records)
    for _ in range(2):
        file = AnnotationFile(path)
        file.check_masks()
        areas = [99, int(coco_mask.area(code)), int(coco_mask.area(coco_mask.frPyObjects(SQUARE, 40, 60))[0])]
        assert file.area.tolist() == areas and areas[1] > 700 and areas[2] == 30
        assert pickle.loads(pickle.dumps(file)).area.tolist() == areas


def test_areas_of_odd_boxes(tmp_path: Path) -> None:
    records = content()
    records["annotations"] = [
        {"id": number, "image_id": 9, "category_id": 7, "bbox": [0, 0, *sides]}
        for number, sides in enumerate([(1e200, 1e200), (-3, -5), (-3, 5), (0, 5), (0.5, 0.25)])
    ]
    file = AnnotationFile(write(tmp_path, records))
    assert file.area.tolist() == [sys.float_info.max, 0, 0, 0, 0.125]


def test_trial_without_areas(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("trials") / "no_area" / "annotations" / "instances_train2017.json"
    file = AnnotationFile(path)
    assert "8 of 8 annotations have no area; that of their box" in str(file.missing_areas())
    boxes = [record["bbox"] for record in json.loads(path.read_text())["annotations"]]
    assert sorted(file.area.tolist()) == sorted(width * height for _, _, width, height in boxes)


def test_missing_file_tells_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no COCO annotation file at .*none\.json; .* python -m datamodules\.shapes"):
        AnnotationFile(tmp_path / "none.json")


@pytest.mark.parametrize(
    "mask",
    [[], [[]], [[1, 2, 3, 4]], [[1, 2]], [[1, 2, 3]], {"size": [40, 60], "counts": [5, 5]}, {"counts": "é"}, "", 3],
)
def test_masks_that_are_none_cost_no_box(mask: object, tmp_path: Path) -> None:
    """Boxes are trained on, masks are not: they stay as they stand for whoever asks."""
    value = content()
    value["annotations"][0]["segmentation"] = mask
    file = AnnotationFile(write(tmp_path, value))
    assert file.annotation_ids.tolist() == [0, 5, 8] and file.segmentation(1) == mask


def test_clipped_corners() -> None:
    boxes = np.array([[1, 2, 3, 4], [-1, -1, 5, 100], [50, 2, 3, 4]], dtype=np.float64)
    expected = [[1, 2, 4, 6], [0, 0, 4, 10], [20, 2, 20, 6]]
    assert clipped_corners(boxes, np.array([10, 20])).tolist() == expected
    assert clipped_corners(boxes, np.array([[10, 20]] * 3)).tolist() == expected
    assert clipped_corners(boxes[:0], np.array([10, 20])).shape == (0, 4)
