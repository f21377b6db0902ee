"""Files changed at random: an error that names file and record, or exactly what pycocotools and Pillow read."""

import contextlib
import copy
import io
import json
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as Reference

from datamodules import DataError
from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_columns import pack
from datamodules.coco_dataset import COCODataset
from datamodules.coco_json import read_columns
from datamodules.coco_records import read_records
from datamodules.geometry import ResizeShorterSide
from datamodules.images import exif_orientation, read_image, read_mask
from datamodules.sampling import SampleKey

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Content = dict[str, Any]
DELETED, TWICE, DEEP = object(), object(), "@deep@"
CULPRIT = re.compile(
    r"(image|annotation|category) -?\d+ has |entry \d+ of |ids of (images|annotations|categories) occur twice|"
    r"category names occur twice|has no '(images|annotations|categories)'|holds a \w+, expected|"
    r"is not a json file|is not UTF-8 text|is UTF-(16|32)(-[LB]E)? text|annotation -?\d+ has segmentation"
)


def sound(seed: int) -> Content:
    """Up to three images, two classes and five annotations with all kinds of masks, ids out of order."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 30, (int(random.integers(1, 4)), 2)).tolist()
    ids = random.permutation(100).tolist()
    images = [
        {"id": ids[place], "file_name": f"s/{place}.jpg", "height": height, "width": width}
        for place, (height, width) in enumerate(sizes)
    ]
    annotations = []
    for number in range(int(random.integers(0, 6))):
        image = images[int(random.integers(len(images)))]
        height, width = image["height"], image["width"]
        box = np.round(random.random(4) * [width, height, width, height], 2).tolist()
        polygon = np.round(random.random(2 * int(random.integers(3, 6))) * max(height, width), 2).tolist()
        code = coco_mask.encode(np.asfortranarray(random.random((height, width)) < 0.5, dtype=np.uint8))
        first = int(random.integers(0, height * width + 1))
        mask = [
            [polygon, polygon[::-1]],
            {"size": [height, width], "counts": code["counts"].decode()},
            {"size": [height, width], "counts": [first, height * width - first]},
        ][int(random.integers(3))]
        annotation = {"id": ids[50 + number], "image_id": image["id"], "category_id": int(random.choice([3, 7]))}
        annotation |= {"bbox": box, "segmentation": mask, "iscrowd": int(random.random() < 0.2)}
        annotations.append(annotation if random.random() < 0.2 else {**annotation, "area": box[2] * box[3]})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of a structure, as the container and the key."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


ODD = st.one_of(
    st.sampled_from([DELETED, TWICE, DEEP, None, True, False, 0, 1, -1, "", " ", "a\\b.jpg", "../x", "\ud800", "é"]),
    st.sampled_from([2**31, 2**63, -(2**63), 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, 0.5, [], {}, [[]]]),
    st.integers(-3, 100),
    st.floats(),
    st.text(max_size=5),
    st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=4), max_leaves=8),
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """The bytes of an annotation file with up to three odd entries, and sometimes a damage to the text."""
    content = sound(draw(st.integers(0, 10**6)))
    for _ in range(draw(st.integers(0, 3))):
        where = list(places(content))
        container, key = where[draw(st.integers(0, len(where) - 1))]
        value = draw(ODD)
        if value is TWICE:
            container[f"{key}2" if isinstance(container, dict) else slice(key, key)] = (
                container[key] if isinstance(container, dict) else [copy.deepcopy(container[key])]
            )
        elif value is DELETED:
            del container[key]
        else:
            container[key] = copy.deepcopy(value)
        if not content:
            break
    text = json.dumps(content, indent=draw(st.sampled_from([None, None, 1]))).replace(
        f'"{DEEP}"', "[" * 3000 + "]" * 3000
    )
    encoded = text.encode(draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-le"])))
    if draw(st.integers(0, 9)) == 0:
        cut = draw(st.integers(0, len(encoded)))
        return encoded[:cut] + draw(st.binary(max_size=1)) + encoded[cut + draw(st.integers(0, 1)) :]
    return encoded


def read_both(path: Path) -> None:
    """The fast and the slow reader give the same columns, or the same error."""
    found: list[Any] = []
    for reader in (read_columns, lambda path, write: pack(read_records(path, write))):
        blob = bytearray()
        try:
            columns = reader(path, blob.extend)
        except DataError as error:
            found.append(str(error))
            continue
        starts, lengths = columns.pop("segmentation_starts").tolist(), columns.pop("segmentation_lengths").tolist()
        masks = [json.loads(bytes(blob[s : s + n]) or b"null") for s, n in zip(starts, lengths, strict=True)]
        found.append(({name: column.tolist() for name, column in columns.items()}, repr(masks)))
    assert found[0] == found[1]


def require_equal_to_pycocotools(file: AnnotationFile, with_masks: bool) -> None:
    """The ground truth of every sample is what pycocotools loads, as are the masks that it can draw."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = Reference()
        reference.dataset = json.loads(file.path.read_text("utf-8-sig"))
        reference.createIndex()
    assert file.image_ids.tolist() == sorted(reference.imgs) and file.category_ids == sorted(reference.cats)
    assert file.class_names == [reference.cats[number]["name"] for number in file.category_ids]

    def read(path: Path, *, size: Any = None) -> Any:
        return np.zeros((*size, 3), np.uint8)

    labels = np.arange(len(file.category_ids))
    transforms = [ResizeShorterSide([8], 100)]
    dataset = COCODataset(Path(), file, labels, transforms, 0, False, masks=with_masks, read=read)  # type: ignore[arg-type]
    for place, image in enumerate(file.image_ids.tolist()):
        records = reference.imgToAnns[image]
        height, width = file.sizes[place].tolist()
        assert [height, width] == [reference.imgs[image][side] for side in ("height", "width")]
        if max(height, width) > 100:
            continue
        truth = dataset[SampleKey(0, place, False)]["target"]["ground_truth"]
        assert truth["boxes"].tolist() == [list(map(float, record["bbox"])) for record in records]
        assert [file.category_ids[label] for label in truth["labels"]] == [record["category_id"] for record in records]
        assert truth["iscrowd"].tolist() == [bool(record.get("iscrowd", 0)) for record in records]
        for row, record in enumerate(records):
            masks = _reference_mask(reference, record, height, width) if with_masks else None
            if masks is not None:
                assert (coco_mask.decode(truth["masks"][row]) == coco_mask.decode(masks)).all()
            if record.get("area") is not None:
                assert truth["area"][row] == float(record["area"])
            elif masks is not None:
                assert truth["area"][row] == coco_mask.area(masks)
            elif not with_masks:
                expected = max(record["bbox"][2], 0) * max(record["bbox"][3], 0)
                assert truth["area"][row] == min(expected, np.finfo(float).max)


def _reference_mask(reference: Reference, record: Content, height: int, width: int) -> Any:
    """pycocotools' mask, where it draws one: polygons of few corners it takes for boxes, far ones eat its memory."""
    mask = record["segmentation"]
    if isinstance(mask, list):
        numbers = [number for polygon in mask for number in polygon]
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask) or max(map(abs, numbers)) > 15 * height:
            return None
    return reference.annToRLE(record)


def check_text(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        monkeypatch.setenv("ATTNDENSE_CACHE", str(folder / "cache"))
        path = folder / "instances.json"
        path.write_bytes(content)
        read_both(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                file = AnnotationFile(path)
                require_equal_to_pycocotools(file, with_masks=False)
                file.check_masks()
                require_equal_to_pycocotools(file, with_masks=True)
            except DataError as error:
                message = str(error)
                assert message.startswith(str(path)) and "\n" not in message and len(message) < 600, message
                assert CULPRIT.search(message), message
    finally:
        shutil.rmtree(folder)


quiet = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False
)


@settings(quiet, max_examples=100)
@given(content=texts())
def test_odd_structures(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    check_text(content, monkeypatch)


@pytest.mark.slow
@settings(quiet, max_examples=10_000)
@given(content=texts())
def test_ten_thousand_odd_structures(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    check_text(content, monkeypatch)


KINDS = [
    ("jpg", "RGB", {}),
    ("jpg", "RGB", {"progressive": True}),
    ("jpg", "L", {}),
    ("jpg", "CMYK", {}),
    ("png", "RGB", {}),
    ("png", "P", {}),
    ("png", "L", {}),
    ("png", "I;16", {}),
    ("tif", "RGB", {"compression": "tiff_lzw"}),
    ("tif", "I;16", {}),
    ("webp", "RGB", {}),
    ("gif", "P", {}),
    ("bmp", "RGB", {}),
    ("avif", "RGB", {}),
    ("tga", "L", {}),
]


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_mutated_image_files(count: int, tmp_path: Path) -> None:
    """Decoded as Pillow decodes them and turned as EXIF says, or refused with their name."""
    random = np.random.default_rng(count)
    pixels = random.integers(0, 256, (24, 17, 3), dtype=np.uint8)
    read = 0
    for number in range(count):
        suffix, mode, options = KINDS[number % len(KINDS)]
        path = tmp_path / f"image.{suffix}"
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        exif = image.getexif()
        exif[274] = int(random.integers(1, 9))
        image.save(path, exif=exif, **options)
        path.write_bytes(mutated(path.read_bytes(), random))
        for reader in (read_image, read_mask):
            try:
                found = reader(path, max_pixels=10**6)
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error), error
                continue
            if reader is read_image:
                read += 1
                require_equal_to_pillow(path, found)
    assert count / 10 < read < count, "some are read, some are refused"


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, most of them in the header; cut, lengthened, or with a piece taken out."""
    changed = bytearray(content)
    reach = len(content) if random.random() < 0.5 else min(len(content), 300)
    for position in random.integers(0, reach, int(random.integers(0, 4))):
        changed[position] = random.integers(0, 256)
    kind, place = random.integers(0, 12), int(random.integers(0, len(content)))
    if kind == 0:
        return bytes(changed[:place])
    if kind == 1:
        return bytes(changed[:place] + changed[place + 5 :])
    return bytes(changed) + (b"\0" * 20 if kind == 2 else b"")


def require_equal_to_pillow(path: Path, found: Any) -> None:
    with Image.open(path) as image:
        if not image.mode.startswith(("I", "F")):
            assert (found == np.asarray(image.convert("RGB"))).all()
    height, width = found.shape[:2]
    number = exif_orientation(path)
    turned = read_image(path, "apply", max_pixels=10**6)
    assert turned.shape[:2] == ((width, height) if number > 4 else (height, width))
    assert (read_image(path, size=(height, width), max_pixels=10**6) == found).all()
