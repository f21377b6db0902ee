"""Every image has predictions of its own, named like the image, or nothing is predicted."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tasks.callbacks.prediction_names import prediction_names
from tasks.errors import TaskError
from tests.tasks.conftest import Command

VALIDATION = {"detect": "coco/val2017", "segment": "ade20k/images/validation"}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/d/a.jpg"], ["a"]),
        (["/d/a.jpg", "/d/b.c.png"], ["a", "b.c"]),
        (["/d/cam1/1.png", "/d/cam2/1.png"], ["cam1/1", "cam2/1"]),
        (["/d/a/x.jpg", "/d/b/x.jpg", "/d/a/x.png"], ["a/x.jpg", "b/x", "a/x.png"]),
        (["/d/x.jpg", "/d/x/x.jpg", "/d/x/x/x.jpg"], ["x", "x/x", "x/x/x"]),
        (["x.jpg", "sub/x.JPG"], ["x", "sub/x"]),
        (["../here/x.jpg", "../there/x.jpg"], ["here/x", "there/x"]),
        (["/d/a/../x.jpg", "/d/y.jpg"], ["x", "y"]),
        (["/d/x.jpg", "/d/x.jpg"], ["x"]),  # two entries of a json that share a picture
        (["/d/x", "/d/x.jpg"], ["x", "x.jpg"]),
        (["/d/.jpg", "/d/a.b/x.jpg"], [".jpg", "a.b/x"]),
    ],
)
def test_names(files: list[str], names: list[str]) -> None:
    assert prediction_names(map(Path, files)) == dict(zip(dict.fromkeys(files), names, strict=True))


@pytest.mark.parametrize(
    "files",
    [
        ["x.jpg", "x.png", "x.jpg.webp"],  # x.jpg.png twice
        ["x.jpg", "x.png/y.jpg"],  # a picture where a folder must be
        ["x.png/a/y.jpg", "x.jpg"],
    ],
)
def test_what_cannot_be_named_apart_is_refused(files: list[str]) -> None:
    with pytest.raises(TaskError, match=r"^the predictions of .* and .* would both be x\.(jpg\.)?png; rename") as error:
        prediction_names(map(Path, files))
    assert "\n" not in str(error.value)


def crops(shapes: Path, folder: Path, names: list[str]) -> dict[str, tuple[int, int]]:
    """Pieces of one photograph, each of another size."""
    sizes = {name: (64 + 8 * number, 96) for number, name in enumerate(names)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(shapes / "coco" / "val2017" / "000000000001.jpg") as image:
            image.crop((0, 0, *size)).save(folder / name)
    return sizes


@pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=pytest.mark.slow)])
def test_images_of_equal_names_have_predictions_of_their_own(
    task: str,
    command: Command,
    trained: Command,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = f"--ckpt_path={trained(task)}/checkpoints/last.ckpt"
    sizes = crops(shapes, tmp_path / "in", ["a/x.jpg", "b/x.jpg", "a/x.png"])
    folder = command(task, "predict", checkpoint, f"--data.images={tmp_path}/in/*/*", name="all") / "predictions"
    expected = {"a/x.jpg.png": "a/x.jpg", "a/x.png.png": "a/x.png", "b/x.png": "b/x.jpg"}
    for kind in {"detect": ["pictures"], "segment": ["pictures", "label_maps"]}[task]:
        written = {str(path.relative_to(folder / kind)): path for path in (folder / kind).rglob("*.*")}
        assert sorted(written) == sorted(expected)
        for name, path in written.items():
            with Image.open(path) as picture:
                assert picture.size[1] >= 96 and picture.size[0] >= sizes[expected[name]][0]
                assert kind == "pictures" or picture.size == sizes[expected[name]]
    if task == "detect":
        files = {row["id"]: row["file_name"] for row in json.loads((folder / "images.json").read_text())}
        assert files == {number: f"{tmp_path}/in/{name}" for number, name in enumerate(sorted(sizes), start=1)}
        for row in json.loads((folder / "predictions.json").read_text()):
            assert (
                row["bbox"][0] + row["bbox"][2]
                <= sizes[files[row["image_id"]].removeprefix(f"{tmp_path}/in/")][0] + 1e-3
            )

    crops(shapes, tmp_path / "in", ["a/x.jpg.webp"])
    with pytest.raises(SystemExit) as stop:
        command(task, "predict", checkpoint, f"--data.images={tmp_path}/in/*/*", name="refused")
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith("would both be a/x.jpg.png; rename one of the images")
    assert not (folder.parents[1] / "refused" / "predictions").exists()

    folder = command(task, "predict", checkpoint, name="split") / "predictions" / "pictures"
    names = [path.with_suffix(".png").name for path in sorted((shapes / VALIDATION[task]).iterdir())]
    assert sorted(path.name for path in folder.iterdir()) == names
