"""One rule for which files are images and masks; what else lies in a folder is counted."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import COCO, DataError
from datamodules.images import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    check_inside,
    is_image,
    is_mask,
    list_folder,
    list_images,
    read_image,
    read_mask,
    why_missing,
)
from datamodules.sampling import SampleKey

OTHER_NAMES = {".dib": "BMP", ".jfif": "JPEG", ".jpe": "JPEG", ".j2k": "JPEG2000", ".jpx": "JPEG2000", ".pnm": "PPM"}


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_kind_of_image_can_be_read(suffix: str, tmp_path: Path) -> None:
    """Of the formats with one bit, grey or colour, a picture of black and white survives every compression."""
    path = tmp_path / f"image{suffix.upper()}"
    picture = Image.new("1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB", (16, 8))
    picture.paste("white", (8, 0, 16, 8))
    picture.save(path, OTHER_NAMES.get(suffix))
    assert is_image(path) and list_folder(tmp_path).files == [path]
    pixels = read_image(path)
    assert pixels.shape == (8, 16, 3) and pixels[:, :7].max() < 40 and pixels[:, 9:].min() > 215


def test_what_pillow_opens_is_an_image_or_known_not_to_be_a_picture() -> None:
    """A new format of Pillow's is to be decided on."""
    Image.init()
    no_pictures = (
        ".apng .avifs .blp .bufr .bw .cur .dcx .dds .emf .eps .fit .fits .flc .fli .ftc .ftu .gbr .grib .h5 .hdf "
        ".icb .icns .ico .iim .im .j2c .jpc .jpf .mpeg .mpg .msp .palm .pcd .pcx .pdf .pfm .ps .psd .pxr .qoi .ras "
        ".rgb .rgba .sgi .vda .vst .wmf .xbm .xpm"
    )
    assert set(Image.registered_extensions()) - IMAGE_SUFFIXES <= set(no_pictures.split())
    assert set(Image.registered_extensions()) >= IMAGE_SUFFIXES >= MASK_SUFFIXES


def test_masks_are_kept_as_they_are_by_their_formats(tmp_path: Path) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for suffix in IMAGE_SUFFIXES - {".pbm", ".avif", ".mpo"}:
        path = tmp_path / f"mask{suffix}"
        Image.fromarray(labels).save(path, OTHER_NAMES.get(suffix))
        try:
            kept = bool((read_mask(path) == labels).all())
        except DataError:  # WebP has no grey levels
            kept = False
        assert not is_mask(path) or kept, suffix


@pytest.mark.parametrize(
    ("name", "image", "mask"),
    [
        ("a.jpg", True, False),
        ("a.JPG", True, False),
        ("a.b.PnG", True, True),
        ("a.jfif", True, False),
        ("a.tiff", True, True),
        ("._a.jpg", False, False),
        (".a.png", False, False),
        (".png", False, False),
        ("png", False, False),
        ("a.json", False, False),
        ("a.jpg.txt", False, False),
        ("a.heic", False, False),
    ],
)
def test_files_are_judged_by_name(name: str, image: bool, mask: bool) -> None:
    for path in (Path(name), Path("/x/.hidden") / name):
        assert is_image(path) is image and is_mask(path) is mask


def test_what_a_folder_holds(tmp_path: Path) -> None:
    for name in (
        *("b.jpg", "a.PNG", "._b.jpg", ".DS_Store", "Thumbs.db", "x.HEIC", "y.heic", "README"),
        *("sub/a.gif", "sub/._a.gif", "sub/deep/c.JFIF", ".cache/d.png", "__MACOSX/._e.jpg", "folder.jpg/f.txt"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    flat, deep = list_folder(tmp_path), list_folder(tmp_path, recursive=True)
    assert [path.name for path in flat.files] == ["a.PNG", "b.jpg", "broken.png"] and flat.hidden == 1
    assert flat.others == Counter({".heic": 2, ".db": 1, "": 1})
    names = [str(path.relative_to(tmp_path)) for path in deep.files]
    assert names == ["a.PNG", "b.jpg", "broken.png", "sub/a.gif", "sub/deep/c.JFIF"]
    assert deep.hidden == 4 and deep.others == flat.others + Counter({".txt": 1})


def test_linked_folders_are_walked(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "a.png").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "storage")
    assert list_folder(tmp_path / "data").files == []
    assert list_images(str(tmp_path / "data"), recursive=True) == [tmp_path / "data" / "linked" / "a.png"]
    for source in (tmp_path / "data", tmp_path / "data" / "*" / "*.png"):
        with pytest.raises(DataError, match=r"linked/a\.png is a link to .*storage/a\.png, expected .* .*data;"):
            list_images(str(source), recursive=True, follow_links=False)


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "c.txt", "._d.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"it has other files: 2 \.heic, 1 \.txt, 1 hidden; give .*--data\.recursive"):
        list_images(str(tmp_path))
    with pytest.raises(DataError, match="; 2 other files match; give an image"):
        list_images(str(tmp_path / "[ac]*"))


def test_trial_of_backslashes(shared_data: Callable[[str], Path]) -> None:
    data = COCO(shared_data("trials") / "labelstudio_backslash", num_workers=0)
    backslash = r"images\\val_001\.png does not exist; its name has a backslash, as Windows writes paths; write /"
    with pytest.raises(DataError, match=backslash):
        data.val_dataset()[SampleKey(0, 0, False)]
    with pytest.raises(DataError, match="its name has a backslash"):
        data.setup("fit")


def test_what_is_behind_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "A.JPG").touch()
    assert why_missing(tmp_path / "b.jpg") == why_missing(tmp_path / "none" / "b.jpg") == ""
    assert "has a backslash, as Windows writes paths; write /" in why_missing(tmp_path / "images\\b.jpg")
    assert "backslash" in why_missing(tmp_path / "images\\day" / "b.jpg")
    with pytest.raises(DataError, match=r"a\.jpg does not exist; the folder has A\.JPG: names are told apart"):
        read_image(tmp_path / "a.jpg")


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
    with pytest.raises(DataError, match=r"no image there.*; give an image, a folder"):
        list_images(source)


def test_a_web_address_is_an_error() -> None:
    with pytest.raises(DataError, match=r"--data.images https://a.org/b.jpg: .*; download it first"):
        list_images("https://a.org/b.jpg")


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
        assert str(folder / name) in str(error.value) and "\n" not in str(error.value)
