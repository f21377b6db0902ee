"""The ADE20K data module: labels are reduced once and exactly, and faults name both files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ADE20K, DataError, RandomRatioCrop
from datamodules.ade20k import read_class_names, reduce_zero_label
from datamodules.sampling import SampleKey

SharedData = Callable[[str], Path]
NAMES = ["wall", "sky", "tree"]


def write(root: Path, mask: Any = None, image_size: tuple[int, int] = (40, 30), names: str = "") -> Path:
    """One image per split, 40 x 30 (width x height) with its mask."""
    labels = np.zeros((30, 40), np.uint8) if mask is None else mask
    for split in ("training", "validation"):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        Image.new("RGB", image_size, "blue").save(root / "images" / split / "one.jpg")
        Image.fromarray(labels).save(root / "annotations" / split / "one.png")
    lines = names or "Idx,Name\n" + "".join(f"{number},{name}\n" for number, name in enumerate(NAMES, start=1))
    (root / "objectInfo3.csv").write_text(lines, encoding="utf-8")
    return root


def module(root: Path, **options: Any) -> ADE20K:
    pipeline = RandomRatioCrop(longest=200, shorter=60, crop=32)
    return ADE20K(root, **{"pipeline": pipeline, "num_workers": 0, "batch_size": 1, **options})


def key(index: int) -> SampleKey:
    return SampleKey(0, index, False)


def test_reduce_zero_label() -> None:
    stored = np.array([[0, 1, 2], [149, 150, 255]], dtype=np.uint8)
    assert reduce_zero_label(stored, 150).tolist() == [[255, 0, 1], [148, 149, 255]]
    assert stored.tolist() == [[0, 1, 2], [149, 150, 255]], "the input must stay"
    assert reduce_zero_label(np.array([[254, 255, 0]], np.uint8), 254).tolist() == [[253, 255, 255]]


@pytest.mark.parametrize("label", [4, 200, 254])
def test_label_above_the_classes_is_refused_with_its_file(label: int, tmp_path: Path) -> None:
    mask = np.full((30, 40), 3, np.uint8)
    mask[7, 9] = label
    root = write(tmp_path, mask)
    path = re.escape(str(root / "annotations" / "training" / "one.png"))
    with pytest.raises(DataError, match=rf"^{path}: label {label} found, expected 0\.\.3 or 255; ") as error:
        module(root).train_dataset()[key(0)]
    assert "\n" not in str(error.value)


def test_golden_masks_of_the_sample(shared_data: SharedData) -> None:
    root = shared_data("ade20k-sample")
    dataset = ADE20K(root, num_workers=0).val_dataset()
    assert len(dataset) == 3  # type: ignore[arg-type]
    for index in range(3):
        sample = dataset[key(index)]
        name = Path(sample["target"]["file_name"]).stem
        with Image.open(root / "annotations" / "validation" / f"{name}.png") as image:
            stored = np.asarray(image).astype(int)
        expected = np.where((stored == 0) | (stored == 255), 255, stored - 1)
        assert (sample["mask"].numpy() == expected).all() and sample["mask"].dtype == torch.uint8
        assert (expected == 255).any() and (expected < 150).any()


def test_validation_resizes_the_image_not_the_mask(shared_data: SharedData) -> None:
    pipeline = RandomRatioCrop(longest=2048, shorter=128)
    loader = ADE20K(shared_data("ade20k-sample"), pipeline=pipeline, num_workers=0, val_batch_size=3).val_dataloader()
    (batch,) = loader
    assert [tuple(mask.shape) for mask in batch["mask"]] == [(512, 683), (364, 500), (300, 400)]
    assert [target["original_size"].tolist() for target in batch["targets"]] == [[512, 683], [364, 500], [300, 400]]
    assert batch["size"].tolist() == [[128, 171], [128, 176], [128, 171]]
    assert batch["image"].shape == (3, 3, 128, 176) and not batch["image"][0, :, :, 171:].any()


def test_padding_is_ignored_in_the_mask_and_black_in_the_image(tmp_path: Path) -> None:
    root = write(tmp_path, np.full((30, 40), 2, np.uint8))
    pipeline = RandomRatioCrop(longest=40, shorter=30, ratio=(1.0, 1.0), crop=64, photometric=False)
    (batch,) = module(root, pipeline=pipeline).train_dataloader()
    image, mask = batch["image"][0], batch["mask"][0]
    assert image.shape == (3, 64, 64) and batch["size"].tolist() == [[30, 40]]
    assert (mask[:30, :40] == 1).all() and (mask[30:] == 255).all() and (mask[:, 40:] == 255).all()
    assert (image[2, :30, :40] > 200).all() and not image[:, 30:].any() and not image[:, :, 40:].any()


def test_class_lists_of_both_kinds_agree(shared_data: SharedData, tmp_path: Path) -> None:
    root, lists = shared_data("ade20k-sample"), []
    for suffix in ("csv", "txt"):
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"objectInfo150.{suffix}").write_bytes((root / f"objectInfo150.{suffix}").read_bytes())
        lists.append(read_class_names(folder))
    from_csv, from_txt = lists
    assert from_txt == read_class_names(root), "the text file goes first"
    assert len(from_txt) == len(from_csv) == len(set(from_txt)) == len(set(from_csv)) == 150
    assert from_txt[:2] == ["wall", "building"] and from_txt[-1] == "flag"
    assert [from_txt[label] for label in (58, 130, 141)] == ["screen door", "screen", "crt screen"]
    # The csv writes "screen door, screen" as "screen;door;screen": the same classes, by their first words.
    words = [re.split("[ ,]", name)[0] for name in from_txt]
    assert [re.split("[ ,]", name)[0] for name in from_csv] == words
    assert (from_csv[58], from_csv[130]) == ("screen, door, screen", "screen, silver, screen, projection, screen")


def test_a_data_set_of_another_kind_in_this_layout(shared_data: SharedData) -> None:
    ade = module(shared_data("coco-sem-free"))
    assert len(ade.class_names) == 133 and ade.class_names[0] == "person"
    for dataset in (ade.train_dataset(), ade.val_dataset()):
        mask = dataset[key(0)]["mask"]
        assert ((mask < 133) | (mask == 255)).all() and (mask < 133).any()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Idx,Label\n1,wall\n", "has no column Name, or an empty one"),
        ("", "has no column Name"),
        ("Idx,Name\n", "has no column Name"),
        ("Idx,Name\n1,wall\n2,\n3,tree\n", "or an empty one"),
        ("Idx,Name\n1\n", "or an empty one"),
        ("Idx,Name\n2,sky\n1,wall\n", r"the column Idx does not count 1, 2, \.\.\., 2; sort the lines"),
        ("Idx,Name\n0,wall\n1,sky\n", "the column Idx does not count"),
        ("Idx,Name\n1,door\n2,door\n", r"names several classes \['door'\]"),
    ],
)
def test_faulty_class_lists_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "objectInfo2.csv"
    path.write_text(lines)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}:? .*{message}") as error:
        read_class_names(tmp_path)
    assert "\n" not in str(error.value)


def test_class_list_with_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    text = '\ufeffIdx,Name\r\n1,"building, edifice"\r\n2,sky\r\n'
    (tmp_path / "objectInfo2.csv").write_text(text, encoding="utf-8", newline="")
    assert read_class_names(tmp_path) == ["building", "sky"]


def test_class_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "objectInfo2.csv").write_bytes("Idx,Name\n1,Möbel\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"objectInfo2\.csv is not UTF-8 text .* save it as UTF-8"):
        read_class_names(tmp_path)


def test_missing_class_list_tells_the_remedy(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "objectInfo3.csv").unlink()
    with pytest.raises(DataError, match=r"^no objectInfo.* in .* set --data\.root, or write the sample data set"):
        module(root).train_dataset()


def test_given_class_names_need_no_list(tmp_path: Path) -> None:
    assert module(tmp_path / "none", class_names=["a", "b"]).class_names == ["a", "b"]
    root = write(tmp_path, np.full((30, 40), 2, np.uint8))
    (root / "objectInfo3.csv").unlink()
    ade = module(root, class_names=["a", "b"])
    assert (ade.val_dataset()[key(0)]["mask"] == 1).all()
    assert (
        ade.class_mapping() == f"{root} has no objectInfo: its masks are taken to number the classes as the model does"
    )


def test_swapped_lines_of_the_class_list_are_matched_by_name(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 10:20], mask[:, 20:30], mask[:, 30:], mask[0] = 1, 2, 3, 255
    root = write(tmp_path, mask)
    ade = module(root, class_names=["tree", "wall", "sky"])
    assert ade.class_names == ["tree", "wall", "sky"]
    stored = ade.val_dataset()[key(0)]["mask"]
    assert stored[1].tolist() == [255] * 10 + [1] * 10 + [2] * 10 + [0] * 10 and (stored[0] == 255).all()
    drawn = set(ade.train_dataset()[key(0)]["mask"].unique().tolist())
    assert drawn <= {0, 1, 2, 255} and drawn & {0, 1, 2}
    assert ade.class_mapping() == (
        f"{root} numbers its classes differently from the model; mapped by name: 0 tree = 3, 1 wall = 1, 2 sky = 2"
    )
    assert module(root, class_names=NAMES).class_mapping() is module(root).class_mapping() is None
    mask[5, 5] = 4
    Image.fromarray(mask).save(root / "annotations" / "validation" / "one.png")
    with pytest.raises(DataError, match=r"one\.png: label 4 found, expected 0\.\.3 or 255"):
        ade.val_dataset()[key(0)]


def test_other_classes_are_refused_with_both_lists(shared_data: SharedData, tmp_path: Path) -> None:
    ade = module(write(tmp_path), class_names=["wall", "sky"])
    for make in (ade.train_dataset, ade.val_dataset, ade.class_mapping):
        with pytest.raises(DataError) as error:
            make()
        assert str(error.value).startswith(
            f"the model has 2 classes (wall, sky), but {tmp_path}/objectInfo has 3 classes (tree, wall, sky); expected"
        )
    names = read_class_names(shared_data("ade20k-sample"))
    with pytest.raises(DataError) as error:
        module(shared_data("ade20k-sample"), class_names=[*names[:-1], "pennant"]).val_dataset()
    message = str(error.value)
    assert "the model has 150 classes (pennant, wall, building, " in message and len(message) < 500
    assert "has 150 classes (flag, wall, building, " in message and "\n" not in message


@pytest.mark.parametrize("split", ["training", "validation"])
def test_missing_folder_tells_the_remedy(split: str, tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "images" / split).rename(root / "elsewhere")
    ade = module(root)
    with pytest.raises(DataError, match=rf"^no images in .*images/{split}; .* set --data\.root, or write the sample"):
        ade.train_dataset() if split == "training" else ade.val_dataset()


def test_mask_of_another_size_is_refused_with_both_files(tmp_path: Path) -> None:
    root = write(tmp_path, image_size=(41, 30))
    with pytest.raises(DataError, match=r"one\.png is \(30, 40\).*one\.jpg is \(30, 41\); expected equal sizes"):
        module(root).train_dataset()[key(0)]


def test_missing_mask_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "annotations" / "validation" / "one.png").unlink()
    with pytest.raises(DataError, match=r"validation/one\.png does not exist; every image needs a mask"):
        module(root).val_dataset()[key(0)]


@pytest.mark.parametrize("linked", ["images/training/one.jpg", "annotations/training/one.png"])
def test_links_out_of_the_folder(linked: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root, elsewhere = write(tmp_path), tmp_path_factory.mktemp("elsewhere") / "file"
    (root / linked).rename(elsewhere)
    (root / linked).symlink_to(elsewhere)
    module(root).train_dataset()[key(0)]
    module(root, follow_links=False).val_dataset()[key(0)]
    with pytest.raises(DataError, match=rf"{linked} is a link to {re.escape(str(elsewhere))}, expected a file inside"):
        module(root, follow_links=False).train_dataset()[key(0)]


def test_max_images(shapes: Path) -> None:
    ade = ADE20K(shapes / "ade20k", max_images=2, num_workers=0)
    assert len(ade.train_dataset()) == len(ade.val_dataset()) == 2  # type: ignore[arg-type]
    assert Path(ade.val_dataset()[key(1)]["target"]["file_name"]).name == "ADE_val_00000002.jpg"


def test_masks_of_crops_hold_known_labels_only(shapes: Path) -> None:
    dataset = module(shapes / "ade20k").train_dataset()
    for index in range(len(dataset)):  # type: ignore[arg-type]
        mask = dataset[SampleKey(1, index, False)]["mask"]
        assert mask.shape[0] <= 32 and mask.shape[1] <= 32
        assert ((mask < 9) | (mask == 255)).all()
