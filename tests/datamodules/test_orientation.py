"""EXIF orientations are found by the header alone, and turned where the annotations or the user say so."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from datamodules import COCO, DataError, FixedSize
from datamodules.images import exif_orientation, read_image
from datamodules.orientation import Orientation, chosen_turn, turn
from datamodules.sampling import SampleKey

SharedData = Callable[[str], Path]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, number: int, **options: Any) -> Path:
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = number
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_turned_as_pillow_does(number: int, suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"image.{suffix}", number)
    with Image.open(path) as image:
        stored, expected = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # Every decoder of TIFF files turns them, so that nothing is left to do.
    assert exif_orientation(path) == (1 if suffix == "tif" else number)
    assert (read_image(path, "apply") == expected).all() and (read_image(path) == stored).all()
    assert read_image(path, "apply").flags.c_contiguous
    for size in {(5, 7), (7, 5)}:
        fitting = expected if size == expected.shape[:2] and number > 4 and suffix != "tif" else stored
        assert (read_image(path, size=size) == fitting).all(), "the size tells, or nothing is turned"


def test_turning_is_a_group_of_eight() -> None:
    turned = [turn(PIXELS, number) for number in range(1, 9)]
    assert [pixels.shape[:2] for pixels in turned] == [(5, 7)] * 4 + [(7, 5)] * 4
    assert len({pixels.tobytes() for pixels in turned}) == 8
    for there, back in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)):
        assert (turn(turn(PIXELS, there), back) == PIXELS).all()


@pytest.mark.parametrize("orientation", ["stored", "apply", "refuse"])
@pytest.mark.parametrize(
    ("number", "stored", "annotated", "told"),
    [
        (6, (5, 7), (7, 5), 6),
        (5, (7, 5), (5, 7), 5),
        (8, (5, 7), (5, 7), 1),
        (6, (5, 5), (5, 5), None),
        (3, (5, 7), (5, 7), None),
        (2, (5, 7), None, None),
        (6, (5, 7), None, None),
        (7, (5, 7), (6, 8), None),  # fits neither: the caller says so
        (1, (5, 7), None, 1),
        (1, (5, 7), (7, 5), 1),
    ],
)
def test_sizes_tell_or_the_option(
    orientation: Orientation, number: int, stored: Any, annotated: Any, told: int | None
) -> None:
    if told is None and orientation == "refuse":
        with pytest.raises(DataError, match=rf"^has EXIF orientation {number}, .*--data\.orientation apply"):
            chosen_turn(number, stored, annotated, orientation)
        return
    option = {"stored": 1, "apply": number, "refuse": None}[orientation]
    assert chosen_turn(number, stored, annotated, orientation) == (option if told is None else told)


def test_every_orientation_of_real_files_is_pillows(shared_data: SharedData) -> None:
    found = []
    for path in sorted(shared_data("hostile-images").glob("*.jp*g")):
        with Image.open(path) as image:
            expected = image.getexif().get(ExifTags.Base.Orientation, 1)
        assert exif_orientation(path) == (expected if expected in range(1, 9) else 1), path
        found.append(exif_orientation(path))
    assert {*found} == {*range(1, 9)}


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(b"\xff\xe1" + struct.pack(">H", len(text) + 2) + text for text in segments)


TAG = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf:RDF tiff:Orientation="8"/>'


@pytest.mark.parametrize(
    ("segments", "number"),
    [
        ([b"Exif\0\0" + TAG], 6),
        ([b"Exif\0\0" + TAG.replace(b"\x06\0\0\0\0", b"\x09\0\0\0\0")], 1),
        ([b"Exif\0\0" + TAG[:12]], 1),
        ([b"Exif\0\0" + bytes(30)], 1),
        ([b"Exif\0\0"], 1),
        ([b"", b"Exif\0\0" + TAG], 6),
        ([XMP], 8),
        ([XMP, b"Exif\0\0" + TAG], 6),
        ([b"Exif\0\0" + TAG, XMP], 6),
    ],
)
def test_segments_of_a_jpeg(segments: list[bytes], number: int, tmp_path: Path) -> None:
    save(tmp_path / "plain.jpg", 1)
    plain = (tmp_path / "plain.jpg").read_bytes()
    path = tmp_path / "image.jpg"
    path.write_bytes(jpeg(*segments) + plain[plain.index(b"\xff\xdb") :])
    assert exif_orientation(path) == number
    path.write_bytes(jpeg(*segments))  # no picture behind them
    assert exif_orientation(path) in (1, number)


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "image.png", 6)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    assert exif_orientation(path) == 6
    assert exif_orientation(tmp_path / "none.png") == exif_orientation(tmp_path) == 1


def test_refused_with_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "image.jpg", 3)
    with pytest.raises(DataError, match=r"^image .*image\.jpg has EXIF orientation 3, and nothing tells") as error:
        read_image(path, "refuse")
    assert "\n" not in str(error.value)
    assert (read_image(save(tmp_path / "plain.jpg", 1), "refuse") == read_image(path)).all()


def validation_of(root: Path, orientation: Orientation) -> list[tuple[Any, Any]]:
    """Boxes of the validation images with the colours in their middles, and the shapes of the images."""
    pipeline = FixedSize(64, 64, flip=0.0)
    dataset = COCO(root, pipeline=pipeline, num_workers=0, orientation=orientation).val_dataset()
    samples = [dataset[SampleKey(0, index, False)] for index in range(len(dataset))]  # type: ignore[arg-type]
    return [
        (sample["target"]["original_size"].tolist(), sample["image"][:, int(y + b) // 2, int(x + a) // 2].tolist())
        for sample in samples
        for x, y, a, b in sample["target"]["boxes"].tolist()
    ]


def is_coloured(colour: list[int]) -> bool:
    """The objects of the trials are red and green, the ground is grey."""
    return max(colour) - min(colour) > 100


@pytest.mark.parametrize("orientation", ["stored", "apply", "refuse"])
def test_trial_of_a_quarter_turn(orientation: Orientation, shared_data: SharedData) -> None:
    """The json says the size of the turned picture: its boxes lie on their objects, whatever the option."""
    found = validation_of(shared_data("trials") / "exif_90", orientation)
    assert len(found) == 4 and all(size == [48, 64] and is_coloured(colour) for size, colour in found)


def test_trial_of_a_half_turn(shared_data: SharedData) -> None:
    """Squares, where nothing tells: the option does, and the count is said."""
    root = shared_data("trials") / "exif_180"
    for orientation, expected in (("stored", False), ("apply", True)):
        found = validation_of(root, orientation)  # type: ignore[arg-type]
        assert len(found) == 4 and all(is_coloured(colour) is expected for _, colour in found)
    with pytest.raises(DataError, match=r"val_001\.jpg has EXIF orientation 3"):
        validation_of(root, "refuse")
    for orientation, severity in (("stored", "warning"), ("apply", "note"), ("refuse", "error")):
        data = COCO(root, num_workers=0, orientation=orientation)  # type: ignore[arg-type]
        (finding,) = [one for one in data.look_through("training", whole=True).findings if one.kind == "orientation"]
        assert (finding.severity, finding.count, finding.total) == (severity, 4, 4)
        assert finding.examples[0] == "train_001.jpg: 3"
