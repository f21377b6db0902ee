"""One decoder for everything: an (H, W, 3) image, or an error that names the file."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError, images
from datamodules.geometry import ResizeShorterSide
from datamodules.image_dataset import ImageDataset, to_tensor
from datamodules.images import check_inside, list_images, read_image, read_mask
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


@pytest.mark.parametrize("name", ["12in16bit.tif", "16_bit_noise.tif", "16bit.cropped.tif", "i_trns.png"])
def test_16_bit_images_are_neither_black_nor_white(name: str, shared_data: SharedData) -> None:
    pixels = read_image(shared_data("hostile-images") / name)
    assert pixels.max() > 100 and len(np.unique(pixels)) > 5
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 256, 32767, 65535], [0, 1, 127, 255]),  # the full range keeps its high byte
        ([0, 1, 128, 255], [0, 1, 128, 255]),  # 8 bits in a 16-bit file
        ([0, 1000, 2048, 4095], [0, 62, 128, 255]),  # 12 bits
        ([0, 1, 2, 3], [0, 64, 128, 192]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_grey_levels_above_8_bit(stored: list[int], expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([stored], dtype=np.uint16)).save(path)
    assert read_image(path)[0, :, 0].tolist() == expected


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "1"])
def test_masks_of_other_modes_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new(mode, (2, 2)).save(path)
    with pytest.raises(DataError, match=rf"^mask .*mask\.png has mode {mode}, expected one 8-bit channel") as error:
        read_mask(path)
    assert_names_file(error, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "c.txt", "sub/d.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name, "png")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (".", ["a.PNG", "b.jpg"]),
        ("b.jpg", ["b.jpg"]),
        ("c.txt", ["c.txt"]),  # named explicitly: the decoder decides
        ("*", ["a.PNG", "b.jpg"]),
        ("?.jpg", ["b.jpg"]),
        ("*/*.jpeg", ["d.jpeg"]),
        ("**/*.jp*g", ["b.jpg", "d.jpeg"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_list_images(
    source: str, names: list[str], absolute: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = list_images(str(folder / source) if absolute else source)
    assert [path.name for path in found] == names
    assert all(path.is_file() for path in found)


@pytest.mark.parametrize("source", ["nothing", "*.tif", "/nothing/here/*.jpg", "**x"])
def test_nothing_found_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no image found at .* give an image, a folder"):
        list_images(source)


def test_links_out_of_the_folder_are_found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "secret.png").write_bytes((folder / "a.PNG").read_bytes())
    (folder / "out.png").symlink_to(elsewhere / "secret.png")
    (folder / "away").symlink_to(elsewhere)
    (folder / "gone.png").symlink_to("../../nothing.png")
    (folder / "within.png").symlink_to(folder / "sub" / "d.jpeg")
    (elsewhere / "whole").symlink_to(folder)
    for inside in (folder / "a.PNG", folder / "within.png", folder / "sub/d.jpeg", folder / "none.png"):
        check_inside(folder, inside)
        check_inside(elsewhere / "whole", elsewhere / "whole" / inside.relative_to(folder))
    for name in ("out.png", "away/secret.png", "gone.png"):
        with pytest.raises(
            DataError, match=r"is a link to /.*, expected a file inside .*--data\.follow_links"
        ) as error:
            check_inside(folder, folder / name)
        assert_names_file(error, folder / name)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "000000000285.jpg"], [139, 285]),
        (["ADE_val_1.jpg", "ADE_val_2.jpg"], [1, 2]),
        (["7.jpg", "cat.jpg"], [1, 2]),
        (["a/5.jpg", "b/5.jpg"], [1, 2]),
    ],
)
def test_image_ids(names: list[str], ids: list[int]) -> None:
    assert ImageDataset([Path(name) for name in names], []).image_ids == ids


def test_image_dataset_resizes_and_keeps_the_original_size(folder: Path) -> None:
    dataset = ImageDataset([folder / "b.jpg"], [ResizeShorterSide([8], 100)])
    sample = dataset[SampleKey(0, 0, True)]
    assert len(dataset) == 1 and sample["image"].shape == (3, 8, 12) and sample["key"].repeated
    assert sample["target"]["original_size"].tolist() == [2, 3]
    assert sample["target"]["file_name"] == str(folder / "b.jpg")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_to_tensor_copies(size: tuple[int, int]) -> None:
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    pixels.flags.writeable = False  # as Pillow's are
    tensor = to_tensor(pixels)
    assert tensor.is_contiguous() and (tensor.permute(1, 2, 0).numpy() == pixels).all()
    tensor.zero_()
    assert pixels.any()
