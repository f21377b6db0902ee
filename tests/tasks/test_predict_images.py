"""`predict` on a folder as it is: sub-folders, broken files, ids; `test` on a split of its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ADE20K, COCO
from datamodules.ade20k import read_class_names
from datamodules.images import list_images
from tasks.callbacks.prediction_names import prediction_names
from tests.tasks.running import DATA, ROOT, run

Command = Callable[..., Path]
PHOTOGRAPHS = {"detect": "coco/val2017", "segment": "ade20k/images/validation"}


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Five photographs in two folders, of which the first and the fourth are broken, and a hidden file."""

    def make(task: str) -> Path:
        photographs = sorted((shapes / PHOTOGRAPHS[task]).iterdir())[:5]
        for number, photograph in enumerate(photographs):
            path = tmp_path / "in" / ("day" if number < 2 else "night") / f"{number}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photograph, path)
            if number in (0, 3):
                path.write_bytes(path.read_bytes()[: 1000 * number])
        (tmp_path / "in" / "day" / "._1.JPG").write_bytes(b"macOS")
        return tmp_path / "in"

    return make


def require_predictions(task: str, predictions: Path, folder: Path) -> None:
    """All that can be read, and nothing else."""
    expected = ["day/1.png", "night/2.png", "night/4.png"]
    for kind in {"detect": ["pictures"], "segment": ["pictures", "label_maps"]}[task]:
        assert (
            sorted(str(path.relative_to(predictions / kind)) for path in (predictions / kind).rglob("*.png"))
            == expected
        )
    if task == "detect":
        files = json.loads((predictions / "images.json").read_text())
        names = [(1, "day/1.JPG"), (2, "night/2.JPG"), (4, "night/4.JPG")]
        assert files == [{"id": number, "file_name": f"{folder}/{name}"} for number, name in names]
        assert {row["image_id"] for row in json.loads((predictions / "predictions.json").read_text())} <= {1, 2, 4}


@pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=pytest.mark.slow)])
def test_broken_files_are_counted_at_the_end(
    task: str, folder: Callable[[str], Path], trained: Command, fails: Callable[..., str], tmp_path: Path
) -> None:
    images = folder(task)
    options = f"--ckpt_path={trained(task)}/checkpoints/last.ckpt", f"--data.images={images}", "--data.recursive=true"
    message = fails(task, "predict", *options, "--data.val_batch_size=2")
    assert message.startswith(
        "error: 2 of 5 images could not be read and have no predictions, all others have; the first: image "
        f"{images}/day/0.JPG cannot be decoded ("
    )
    require_predictions(task, tmp_path / "runs" / task / "test" / "predictions", images)


def test_probabilities_are_those_of_the_label_maps(trained: Command, command: Command, shapes: Path) -> None:
    """In windows, of images in their own size."""
    run = command(
        "segment",
        "predict",
        f"--ckpt_path={trained('segment')}/checkpoints/last.ckpt",
        f"--data.images={shapes}/ade20k/images/validation/*[12].jpg",
        "--data.val_batch_size=2",
        "--data.pipeline.test_resize=false",
        "--model.segmentor.inference=SlideInference",
        "--model.segmentor.inference.window=[64,96]",
        "--model.segmentor.inference.stride=[48,96]",
        "--writer.probability_bits=16",
    )
    folder = run / "predictions"
    names = [path.stem for path in sorted((folder / "label_maps").iterdir())]
    assert names == ["ADE_val_00000001", "ADE_val_00000002"]
    for name in names:
        with np.load(folder / "probabilities" / f"{name}.npz") as content:
            shares = content["probabilities"] / 65535
            assert content["class_names"].tolist() == read_class_names(shapes / "ade20k")
        labels = np.asarray(Image.open(folder / "label_maps" / f"{name}.png")).astype(int) - 1
        assert shares.shape == (*labels.shape, len(read_class_names(shapes / "ade20k")))
        np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-3)
        first, second = np.moveaxis(np.sort(shares, axis=-1)[..., -2:], -1, 0)[::-1]
        clear = first - second > 3 / 65535  # a network that has seen 12 images is sure of nothing
        assert clear.mean() > 0.5 and (shares.argmax(axis=-1) == labels)[clear].all()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_go_past_broken_files_in_step(
    processes: int, task: str, folder: Callable[[str], Path], trained: Command, shapes: Path, tmp_path: Path
) -> None:
    images = folder(task)
    code, output = run(
        task,
        [
            "predict",
            f"--config={ROOT}/configs/{task}/quickstart.yaml",
            f"--data.root={shapes / DATA[task]}",
            f"--ckpt_path={trained(task)}/checkpoints/last.ckpt",
            f"--data.images={images}",
            "--data.recursive=true",
            "--data.num_workers=1",
            "--trainer.accelerator=cpu",
            f"--trainer.devices={processes}",
            "--trainer.strategy=ddp",
            f"--runs={tmp_path}/runs",
            "--name=several",
        ],
    )
    assert code == 2 and output.count("2 of 5 images could not be read") == 1, output
    require_predictions(task, tmp_path / "runs" / task / "several" / "predictions", images)


def test_trial_of_equal_names(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("trials") / "predict_same_name"
    for found in (list_images(f"{root}/*/*.png"), list_images(str(root), recursive=True)):
        assert list(prediction_names(found).values()) == ["cam1/0001", "cam2/0001"]


def test_the_test_split_is_scored_where_one_is_given(
    shapes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    splits = {"test_images": "train2017", "test_annotations": "annotations/instances_train2017.json"}
    given = (
        COCO(shapes / "coco", num_workers=0, **splits),
        ADE20K(shapes / "ade20k", num_workers=0, test_split="training"),
    )
    for module, without in zip(given, (COCO, ADE20K), strict=True):
        with caplog.at_level("INFO"):
            dataset = module.test_dataloader().dataset
            assert len(dataset) == 12 and not dataset.training
            assert "no test split" not in caplog.text + capsys.readouterr().err
            validation = without(module.root, num_workers=0).test_dataloader().dataset
        assert len(validation) == 7 and "no test split is given (--data.test_" in caplog.text + capsys.readouterr().err
        caplog.clear()
