"""One decoder for everything: an (H, W, 3) image, or an error that names the file."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError, images
from datamodules.geometry import ResizeShorterSide
from datamodules.image_dataset import ImageDataset, to_tensor
from datamodules.images import is_mask, read_image, read_mask
from datamodules.preflight.greys import look_at_greys
from datamodules.preflight.headers import read_header
from datamodules.preflight.twins import ImageFiles
from datamodules.sampling import SampleKey

SharedData = Callable[[str], Path]
BROKEN = {
    "broken.png",
    "broken_data_stream.png",
    "decompression_bomb.gif",
    "decompression_bomb.ico",
    "truncated_end_chunk.png",
    "truncated_image.png",
    "truncated_jpeg.jpg",
    "zero_width.gif",
    "LICENSE.Pillow",
    "LICENSE.exif-orientation-examples",
    "PROVENANCE.md",
}


def assert_names_file(error: pytest.ExceptionInfo[DataError], path: Path) -> None:
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_images_decode_or_name_the_file(shared_data: SharedData) -> None:
    refused = set()
    for path in sorted(shared_data("hostile-images").iterdir()):
        try:
            pixels = read_image(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused.add(path.name)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, path
    assert refused == BROKEN


@pytest.mark.parametrize(
    ("name", "largest"),
    [("12in16bit.tif", 31), ("16_bit_noise.tif", 511), ("16bit.cropped.tif", 1023), ("i_trns.png", 255)],
)
def test_a_part_of_16_bits_is_neither_black_nor_white(name: str, largest: int, shared_data: SharedData) -> None:
    path = shared_data("hostile-images") / name
    files = ImageFiles(path.parent, [name.encode()])
    (finding,) = look_at_greys(files, None)
    assert finding.severity == "warning" and finding.text.endswith(f" --data.largest_grey {largest}")
    assert look_at_greys(files, largest) == []
    assert read_image(path).max() <= 2
    pixels = read_image(path, largest_grey=largest)
    assert pixels.max() > 100 and len(np.unique(pixels)) > 5
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("stored", "largest", "expected"),
    [
        ([0, 255, 256, 32767, 65535], None, [0, 0, 1, 127, 255]),  # the full range keeps its high byte
        ([0, 255, 256, 511, 512], None, [0, 0, 1, 1, 2]),  # whatever else is in the image
        ([0, 0, 0, 0, 0], None, [0, 0, 0, 0, 0]),
        ([0, 1, 128, 255, 256], 255, [0, 1, 128, 255, 255]),  # 8 bits in a 16-bit file
        ([0, 1000, 2048, 4095, 65535], 4095, [0, 62, 128, 255, 255]),  # 12 bits
        ([0, 1, 2, 3, 4], 3, [0, 64, 128, 192, 255]),
        ([0, 1, 500, 999, 1000], 999, [0, 0, 128, 255, 255]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_levels_above_8_bit(
    stored: list[int], largest: int | None, expected: list[int], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(np.array([stored], dtype=np.uint16)).save(path)
    pixels = read_image(path, largest_grey=largest)
    assert pixels.shape == (1, 5, 3) and (pixels == np.array(expected)[None, :, None]).all()


def test_a_tiff_file_of_12_bits_has_their_range(tmp_path: Path) -> None:
    """Levels 0, 256, 2048 and 4095 in 6 bytes, as the format packs them."""
    directory = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 6}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in directory.items())
    packed = bytes.fromhex("000100800fff")
    header = struct.pack("<2sHI", b"II", 42, 14) + packed + struct.pack("<H", len(directory))
    (tmp_path / "grey.tif").write_bytes(header + entries + bytes(4))
    assert read_image(tmp_path / "grey.tif")[0, :, 0].tolist() == [0, 16, 128, 255]


def test_one_hot_pixel_does_not_blacken_its_image(shared_data: SharedData) -> None:
    """The trial: a frame with a pixel of 60000, and one without; the object has level 500 in both."""
    frames = [shared_data("trials") / "grey_16bit_hot_pixel" / "val2017" / f"val_00{n}.png" for n in (1, 2)]
    stored = [np.asarray(Image.open(path)) for path in frames]
    assert [levels[30, 30] for levels in stored] == [500, 500]
    assert sorted(int(levels.max() >= 60_000) for levels in stored) == [0, 1]
    assert [read_image(path)[30, 30].tolist() for path in frames] == [[1] * 3] * 2
    assert [read_image(path, largest_grey=1000)[30, 30].tolist() for path in frames] == [[127] * 3] * 2


@pytest.mark.parametrize("value", [-1, 70000])
def test_32_bit_levels_out_of_range_are_refused(value: int, tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(path)
    with pytest.raises(DataError, match=r"^image .*grey\.tif has int32 grey levels .* expected integers") as error:
        read_image(path)
    assert_names_file(error, path)


def test_float_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray(np.array([[0.5, 1]], dtype=np.float32)).save(path)
    with pytest.raises(DataError, match="float32 grey levels"):
        read_image(path)


@pytest.mark.parametrize("name", ["photo_Portrait_6.jpg", "photo_Landscape_8.jpg", "orientation_rectangle.jpg"])
def test_stored_pixels_are_kept_whatever_exif_says(name: str, shared_data: SharedData) -> None:
    path = shared_data("hostile-images") / name
    with Image.open(path) as image:
        assert image.getexif()[274] in (6, 8)
        assert (read_image(path) == np.asarray(image)).all()


def test_jpeg_pixels_are_pillows(shared_data: SharedData) -> None:
    paths = sorted(path for path in shared_data("coco-free").glob("*2017/*.jpg"))
    assert len(paths) > 100
    for path in paths:
        assert images._read_jpeg(path) is not None, "photographs must take the fast way"
        with Image.open(path) as image:
            assert (read_image(path) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}]
)
def test_every_kind_of_jpeg_gives_pillows_pixels(mode: str, options: dict, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = tmp_path / "image.jpg"
    Image.fromarray(pixels).convert(mode).save(path, **options)
    with Image.open(path) as image:
        assert (read_image(path) == np.asarray(image.convert("RGB"))).all()
    assert (images._read_jpeg(path) is None) == (mode == "CMYK")


def test_damaged_jpegs_give_pillows_pixels_or_none(tmp_path: Path) -> None:
    content, draw, path = encoded("jpeg"), np.random.default_rng(0), tmp_path / "image.jpg"
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.integers(3, len(content))] = draw.integers(0, 256)
        path.write_bytes(damaged)
        fast = images._read_jpeg(path)
        if fast is not None:
            with Image.open(path) as image:
                assert (fast == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_gives_the_colours_of_the_picture(mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2), "black")
    picture.paste((255, 255, 255), (2, 0, 4, 2))
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    picture.convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (2, 4, 3) and pixels.dtype == np.uint8
    assert pixels[:, :2].max() <= 1 and pixels[:, 2:].min() >= 254


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == (200, 100, 50)).all()


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_decompression_bomb_is_refused_before_decoding(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (14000, 13000)).save(path)
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError) as error:
        read(path)
    assert_names_file(error, path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other packages do
    with pytest.raises(DataError, match="expected at most 178956970") as error:
        read(path)
    assert_names_file(error, path)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_limit_of_pixels_is_an_option(read: Callable[..., Any], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("L", (13, 11)).save(path)
    assert read(path, max_pixels=143).shape[:2] == (11, 13)
    with pytest.raises(
        DataError, match=r"\(13, 11\) pixels, expected at most 142; shrink it, .* with --data\.max_pixels"
    ):
        read(path, max_pixels=142)


def test_a_higher_limit_of_pixels_goes_beyond_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    path = tmp_path / "image.png"
    Image.new("L", (13, 11)).save(path)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(path, max_pixels=100)
    assert "more than --data.max_pixels 100 allows" in read_header(path, 100).fault
    assert read_image(path, max_pixels=143).shape == (11, 13, 3)


def encoded(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    content, path = encoded(suffix), tmp_path / f"image.{suffix}"
    for share in (0.0, 0.1, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError) as error:
            read_image(path)
        assert_names_file(error, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_damaged_files_never_raise_anything_else(suffix: str, tmp_path: Path) -> None:
    content, path, draw = encoded(suffix), tmp_path / f"image.{suffix}", np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(content)
        for position in draw.integers(0, min(200, len(content)), 3):
            damaged[position] = draw.integers(0, 256)
        path.write_bytes(damaged)
        for read in (read_image, read_mask):
            try:
                assert read(path).dtype == np.uint8
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_an_unexpected_decoder_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise IndexError("tile\nindex")

    monkeypatch.setattr(images.Image, "open", fail)
    with pytest.raises(DataError, match=r"^image a\.png cannot be decoded \(tile index\)"):
        read_image(Path("a.png"))


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_and_unreadable_paths(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist; "):
        read(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be decoded"):
        read(tmp_path)


def test_palette_masks_give_their_indices(shared_data: SharedData) -> None:
    masks = sorted((shared_data("openmmlab-samples") / "seg" / "pseudo_dataset" / "gts").glob("*.png"))
    assert len(masks) == 5
    for path in masks:
        with Image.open(path) as image:
            assert image.mode == "P"
        labels = read_mask(path)
        assert labels.ndim == 2 and labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "F", "I"])
def test_masks_of_other_modes_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    Image.new(mode, (2, 2), 70_000 if mode == "I" else 0).save(path)
    with pytest.raises(DataError, match=rf"^mask .*mask\.tif has mode {mode}, expected one channel of 8 bits") as error:
        read_mask(path)
    assert_names_file(error, path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_masks_of_16_bits_keep_their_labels(suffix: str, tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [256, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(labels).save(tmp_path / f"mask.{suffix}")
    found = read_mask(tmp_path / f"mask.{suffix}")
    assert found.dtype == np.uint16 and (found == labels).all()


@pytest.mark.parametrize("suffix", ["bmp", "pgm", "png", "tif", "tga"])
def test_every_kind_of_mask_keeps_its_labels(suffix: str, tmp_path: Path) -> None:
    labels = np.array([[0, 1, 7], [4, 130, 255]], dtype=np.uint8)
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(labels).save(path)
    assert is_mask(path) and read_mask(path).dtype == np.uint8 and (read_mask(path) == labels).all()


def test_image_dataset_resizes_and_keeps_the_original_size(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "b.jpg")
    dataset = ImageDataset([tmp_path / "b.jpg"], [ResizeShorterSide([8], 100)])
    sample = dataset[SampleKey(0, 0, True)]
    assert len(dataset) == 1 and sample["image"].shape == (3, 8, 12) and sample["key"].repeated
    assert sample["target"]["original_size"].tolist() == [2, 3]
    assert sample["target"]["file_name"] == str(tmp_path / "b.jpg")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_to_tensor_copies(size: tuple[int, int]) -> None:
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    pixels.flags.writeable = False  # as Pillow's are
    tensor = to_tensor(pixels)
    assert tensor.is_contiguous() and (tensor.permute(1, 2, 0).numpy() == pixels).all()
    tensor.zero_()
    assert pixels.any()
