"""`tasks.load`: the numbers of `predict` on the command line, from a checkpoint alone, for images of any kind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from datamodules import ADE20K, COCO, DataError, FixedSize, RandomRatioCrop
from tasks.detection import DetectionTask
from tasks.errors import TaskError
from tasks.inference import DetectionPredictor, SegmentationPredictor
from tasks.predicted import FoundObjects
from tasks.segmentors import SlideInference
from tests.tasks.conftest import MAINS, command_arguments

Command = Callable[..., Path]
IMAGES = {"detect": "coco/val2017", "segment": "ade20k/images/validation"}


@pytest.fixture
def alone(trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Copies the best checkpoint of a task to an empty folder, which becomes the working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def copied(task: str) -> Path:
        return Path(shutil.copy(trained(task) / "checkpoints/best.ckpt", f"{task}.ckpt"))

    return copied


@pytest.fixture(scope="module")
def trained_masks(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a detector of masks."""
    runs = tmp_path_factory.mktemp("masks")
    options = ["--model.detector=MaskRCNN", "--model.detector.channels=32", "--model.detector.score_threshold=0.001"]
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    MAINS["detect"]([*command_arguments("detect", "fit", shapes, runs, "masks"), *options, *short])
    return runs / "detect/masks/checkpoints/last.ckpt"


def rows_of(found: list[FoundObjects], ids: dict[str, int], category_ids: list[int]) -> list[dict[str, Any]]:
    """Objects in COCO's result format, as the command line writes them."""
    rows = []
    for image in found:
        boxes = image.boxes.double()
        boxes[:, 2:] -= boxes[:, :2]
        for place, box in enumerate(boxes.tolist()):
            row = {"image_id": ids[image.image], "category_id": category_ids[int(image.labels[place])], "bbox": box}
            row["score"] = image.scores[place].item()
            if image.encoded_masks is not None:
                mask = image.encoded_masks[place]
                row["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
            rows.append(row)
    return sorted(rows, key=lambda row: row["image_id"])


def require_written(model: DetectionPredictor, paths: list[Path], folder: Path) -> list[FoundObjects]:
    """What a detector finds is what the command line has written, to the last bit."""
    found = model.predict(paths)
    ids = {image["file_name"]: image["id"] for image in json.loads((folder / "images.json").read_text())}
    written = json.loads((folder / "predictions.json").read_text())
    assert rows_of(found, ids, model.task.options.category_ids) == written and len(written) > 20
    return found


@pytest.mark.parametrize("options", [[], ["--data.val_batch_size=3", "--trainer.precision=bf16-mixed"]])
def test_detections_are_those_of_the_command_line(
    options: list[str], alone: Callable[[str], Path], shapes: Path
) -> None:
    """The command takes nothing but the checkpoint and the images, either."""
    checkpoint, paths = alone("detect"), sorted((shapes / IMAGES["detect"]).glob("*.jpg"))
    images = f"--data.images={shapes / IMAGES['detect']}"
    MAINS["detect"](["predict", f"--ckpt_path={checkpoint}", images, "--trainer.accelerator=cpu", *options])
    more = {"batch_size": 3, "precision": "bf16-mixed"} if options else {}
    model = tasks.load(checkpoint, device="cpu", **more)
    require_written(model, paths, Path("runs/detect/run/predictions"))


def test_options_of_the_moment_are_those_of_the_command_line(alone: Callable[[str], Path], shapes: Path) -> None:
    """Windows over images in their own size, and a threshold; others keep what was trained."""
    checkpoint, paths = alone("detect"), sorted((shapes / IMAGES["detect"]).glob("*[12].jpg"))
    options = {"model.windows.size": 96, "model.windows.overlap": 32, "data.pipeline.test_scale": 1.5}
    options["model.detector.score_threshold"] = 0.02
    words = [f"--{name}={value}" for name, value in options.items()]
    images = f"--data.images={shapes / IMAGES['detect']}/*[12].jpg"
    MAINS["detect"](["predict", f"--ckpt_path={checkpoint}", images, "--trainer.accelerator=cpu", *words])
    model = tasks.load(checkpoint, device="cpu", options=options)
    require_written(model, paths, Path("runs/detect/run/predictions"))
    assert min(image.scores.min().item() for image in model.predict(paths)) >= 0.02
    with pytest.raises(
        TaskError,
        match=r"model\.windws\.size is no option that this checkpoint leaves open; did you mean model\.windows\?",
    ):
        tasks.load(checkpoint, options={"model.windws.size": 96})
    with pytest.raises(TaskError, match=r"model\.backbone is no option that this checkpoint leaves open; expected"):
        tasks.load(checkpoint, options={"model.backbone": "VGG"})


def test_masks_are_those_of_the_command_line(
    trained_masks: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = sorted((shapes / IMAGES["detect"]).glob("*[12].jpg"))
    images = f"--data.images={shapes / IMAGES['detect']}/*[12].jpg"
    arguments = ["predict", f"--ckpt_path={trained_masks}", images, "--name=here", "--runs=runs"]
    MAINS["detect"]([*arguments, "--trainer.accelerator=cpu"])
    found = require_written(tasks.load(trained_masks, device="cpu"), paths, Path("runs/detect/here/predictions"))
    masks = found[0].masks
    assert masks is not None and masks.dtype == torch.bool and masks.shape == (len(found[0]), *found[0].size)
    for mask, (left, top, right, bottom) in zip(masks, found[0].boxes.tolist(), strict=True):
        down, across = mask.nonzero().unbind(dim=1)
        if len(down):
            assert left - 1 <= across.min() and across.max() <= right and top - 1 <= down.min() and down.max() <= bottom


@pytest.mark.parametrize("probabilities", [False, True])
def test_label_maps_are_those_of_the_command_line(
    probabilities: bool, alone: Callable[[str], Path], shapes: Path
) -> None:
    checkpoint, paths = alone("segment"), sorted((shapes / IMAGES["segment"]).glob("*.jpg"))
    bits = ["--writer.probability_bits=16"] if probabilities else []
    images = f"--data.images={shapes / IMAGES['segment']}"
    arguments = ["predict", f"--ckpt_path={checkpoint}", images, "--trainer.accelerator=cpu", "--data.val_batch_size=2"]
    MAINS["segment"]([*arguments, *bits])
    model = tasks.load(checkpoint, device="cpu", batch_size=2, probabilities=probabilities)
    assert isinstance(model, SegmentationPredictor)
    folder = Path("runs/segment/run/predictions")
    for path, found in zip(paths, model.each(paths), strict=True):
        written = np.asarray(Image.open(folder / "label_maps" / f"{path.stem}.png"))
        assert np.array_equal(found.labels.numpy() + 1, written) and found.size == written.shape
        assert sum(found.shares.values()) == pytest.approx(1) and {*found.shares} <= {*model.class_names}
        if not probabilities:
            assert found.probabilities is None
            continue
        assert found.probabilities is not None and found.probabilities.dtype == torch.float32
        with np.load(folder / "probabilities" / f"{path.stem}.npz") as content:
            assert np.array_equal((found.probabilities * 65535).round().numpy(), content["probabilities"])


def test_files_pictures_and_arrays_are_the_same(alone: Callable[[str], Path], shapes: Path) -> None:
    model = tasks.load(alone("segment"), device="cpu", batch_size=4)
    path = sorted((shapes / IMAGES["segment"]).glob("*.jpg"))[0]
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
        found = model.predict(iter([path, str(path), picture, pixels]))
    assert [each.image for each in found] == [str(path), str(path), "image 2", "image 3"]
    assert all(torch.equal(each.labels, found[0].labels) for each in found)
    assert torch.equal(model.predict(path).labels, found[0].labels) and model.predict([]) == []
    grey = pixels[:, :, 0]
    three = np.stack([grey] * 3, axis=2)
    assert torch.equal(model.predict(grey).labels, model.predict(three).labels)
    assert np.array_equal(np.asarray(found[2].draw()), np.asarray(found[0].draw()))
    assert not np.array_equal(np.asarray(found[0].draw(opacity=0.1)), np.asarray(found[0].draw()))


def test_pictures_have_what_is_sure_enough(alone: Callable[[str], Path], shapes: Path) -> None:
    found = tasks.load(alone("detect"), device="cpu").predict(np.full((40, 60, 3), 9, np.uint8))
    sure = FoundObjects(
        image=found.image,
        size=found.size,
        boxes=torch.tensor([[5.0, 5.0, 50.0, 30.0]]),
        labels=torch.tensor([3]),
        scores=torch.tensor([0.5]),
        class_names=found.class_names,
        read_pixels=found.read_pixels,
    )
    assert sure.names == ["star"] and sure.masks is None and len(sure) == 1
    plain, drawn = (np.asarray(sure.draw(score)) for score in (0.6, 0.4))
    assert (plain == 9).all() and plain.shape == drawn.shape and (drawn != 9).mean() > 0.01


def test_what_is_no_image_is_named(alone: Callable[[str], Path], shapes: Path, tmp_path: Path) -> None:
    model = tasks.load(alone("detect"), device="cpu")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for given, words in (
        (tmp_path / "gone.jpg", f"image {tmp_path}/gone.jpg does not exist"),
        (str(tmp_path / "broken.jpg"), f"image {tmp_path}/broken.jpg cannot be decoded"),
        (tmp_path, f"image {tmp_path} is a folder, expected a file; give a list of its files"),
        (np.zeros((3, 40, 60), np.uint8), r"image 0 is an array of uint8 and shape \(3, 40, 60\), expected uint8"),
        (np.zeros((40, 60, 3)), "image 0 is an array of float64"),
        ([np.zeros((40, 60), np.uint8), np.zeros((0, 60), np.uint8)], "image 1 is an array of uint8 and shape"),
        ([3], "image 0 is of type int, expected a path, a picture of Pillow's or a numpy array"),
        (3, "image 0 is of type int"),
    ):
        with pytest.raises(DataError, match=f"^{words}"):
            model.predict(given)


def test_a_checkpoint_that_does_not_say_how_images_are_prepared(
    alone: Callable[[str], Path], fails: Callable[..., str], shapes: Path
) -> None:
    checkpoint = alone("detect")
    content = torch.load(checkpoint, weights_only=True)
    path = sorted((shapes / IMAGES["detect"]).glob("*.jpg"))[0]
    expected = tasks.load(checkpoint, device="cpu").predict(path)
    del content["attndense_data"]
    torch.save(content, "old.ckpt")
    with pytest.raises(
        TaskError, match=r"old.ckpt does not say how images are prepared.*tasks.load\(checkpoint, data="
    ):
        tasks.load("old.ckpt")
    with pytest.raises(SystemExit) as ended:
        MAINS["detect"](["predict", "--ckpt_path=old.ckpt", f"--data.images={path}"])
    assert ended.value.code == 2
    data = COCO(Path("."), pipeline=FixedSize(96, 96), val_batch_size=16)
    assert torch.equal(tasks.load("old.ckpt", data=data, device="cpu").predict(path).boxes, expected.boxes)


def test_what_a_checkpoint_names_is_not_run(alone: Callable[[str], Path]) -> None:
    checkpoint = alone("detect")
    content = torch.load(checkpoint, weights_only=True)
    for place in (content["attndense_data"], content["attndense_data"]["init_args"]["pipeline"]):
        kept, place["class_path"] = place["class_path"], "os.system"
        torch.save(content, "foreign.ckpt")
        with pytest.raises(TaskError, match=r"foreign.ckpt names os.system as a part of its data module"):
            tasks.load("foreign.ckpt")
        place["class_path"] = kept


def test_mistakes_are_one_line(alone: Callable[[str], Path], fails: Callable[..., str], tmp_path: Path) -> None:
    checkpoint = alone("detect")
    for options, words in (
        ({"device": "tpux"}, "device is 'tpux', expected auto, cpu, or a GPU of this machine"),
        ({"device": "cuda:97"}, "device is 'cuda:97'"),
        ({"precision": "fp32"}, "precision is 'fp32', expected bf16-mixed, .* here fp32 is 32-true"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of images, at least 1"),
        ({"batch_size": "2"}, "batch_size is '2', expected"),
        ({"probabilities": True}, "probabilities=True is for segmentors"),
        ({"task": DetectionTask}, "task is <class .*, expected a VisionTask, made already"),
        (
            {"options": {"model.detector.score_threshold": "abc"}},
            "--model.detector.score_threshold is 'abc', expected a",
        ),
        ({"options": {"model.windows": {"size": 96}}}, "overlap of the windows is 128, expected 0..95"),
        ({"options": {"data.pipeline.heigt": 32}}, "heigt is no option .* did you mean --data.pipeline.height"),
        (
            {"options": {"model.segmentor.inference": "x"}},
            "model.segmentor.inference is no option that this checkpoint",
        ),
    ):
        with pytest.raises(TaskError, match=words) as refused:
            tasks.load(checkpoint, **options)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    assert tasks.load(checkpoint, device="cpu", precision=32).batch_size > 0
    with pytest.raises(TaskError, match="checkpoint is None, expected the path"):
        tasks.load(None)
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(TaskError, match=r"cut.ckpt is damaged"):
        tasks.load(tmp_path / "cut.ckpt")
    with pytest.raises(TaskError, match=r"gone.ckpt does not exist"):
        tasks.load("gone.ckpt")


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("detect", [], "detect.ckpt alone says nothing of images; give --data.images, such as 'photos/*.jpg'"),
        ("segment", ["--data.images=x.jpg"], "detect.ckpt is the checkpoint of tasks.detect: python -m tasks.detect; "),
    ],
)
def test_a_command_says_what_a_checkpoint_alone_lacks(
    task: str, options: list[str], words: str, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[task](["predict", f"--ckpt_path={alone('detect')}", *options])
    assert ended.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith(f"error: {words}")


def test_a_data_module_is_what_the_checkpoint_says(alone: Callable[[str], Path]) -> None:
    data = tasks.load(alone("segment"), device="cpu").data
    assert type(data) is ADE20K and type(data.pipeline) is RandomRatioCrop and data.pipeline.shorter == 96
    assert "attndense_data" in torch.load("segment.ckpt", weights_only=True)


def test_sliding_inference_by_its_name(alone: Callable[[str], Path], shapes: Path) -> None:
    """As on the command line: a class by its name, its options behind it; numpy's numbers, and a path of a run."""
    name, options = "model.segmentor.inference", {"window": np.int64(64), "stride": [40, 48]}
    given = {name: "SlideInference", **{f"{name}.{option}": value for option, value in options.items()}}
    model = tasks.load(alone("segment"), device=torch.device("cpu"), options=given)
    inference = model.task.model.inference
    assert isinstance(inference, SlideInference) and (inference.window, inference.stride) == ((64, 64), (40, 48))
    same = tasks.load(
        alone("segment"),
        device="cpu",
        options={name: SlideInference, f"{name}.window": 64, **{f"{name}.stride": [40, 48]}},
    )
    path = next((shapes / IMAGES["segment"]).glob("*.jpg"))
    assert torch.equal(model.predict(path).labels, same.predict(path).labels)


def test_nothing_global_moves(alone: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    tasks.load(alone("detect"), device="cpu")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_one_image_is_one_for_each_too(task: str, alone: Callable[[str], Path], shapes: Path) -> None:
    path = next((shapes / IMAGES[task]).glob("*.jpg"))
    model = tasks.load(alone(task), device="cpu")
    pixels = np.asarray(Image.open(path)).copy()
    size = pixels.shape[:2]
    for image in (path, str(path), Image.open(path), pixels):
        (found,) = model.each(image)
        assert found.size == size == model.predict(image).size
    for no_image in (path.read_bytes(), {"a": path}, path.open("rb"), 3, None):
        with pytest.raises(DataError, match=r"^image 0 is of type "):
            model.predict(no_image)
    assert model.predict([]) == list(model.each(())) == []


def test_results_are_ordinary_tensors_of_what_was_seen(
    alone: Callable[[str], Path], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next((shapes / IMAGES["detect"]).glob("*.jpg"))
    model = tasks.load(alone("detect"), device="cpu")
    monkeypatch.chdir(path.parent)
    pixels = np.asarray(Image.open(path)).copy()
    of_file, of_array = model.predict(path.name), model.predict(pixels)
    monkeypatch.chdir("/")
    before = of_file.boxes.clone()
    of_file.boxes[:, 2:] -= of_file.boxes[:, :2]
    (of_file.scores * torch.ones(1, requires_grad=True)).sum().backward()
    assert torch.equal(before[:, 2:] - before[:, :2], of_file.boxes[:, 2:]) and of_file.image == path.name
    of_file.boxes[:, 2:] += of_file.boxes[:, :2]
    assert np.array_equal(of_file.draw(), of_array.draw())
    pixels[:] = 0
    with pytest.raises(DataError, match="image 0 is an array that has changed since it was predicted on"):
        of_array.draw()
    seen = tasks.load(alone("segment"), device="cpu").predict(Image.new("RGB", (70, 60)))
    seen.labels[seen.labels == 0] = 1


def test_the_package_alone_is_imported_in_no_time() -> None:
    code = "import sys, tasks; assert {'load', 'fit', 'TrainedRun'} < {*dir(tasks)}; "
    code += "assert not {'torch', 'lightning', 'datamodules'} & {*sys.modules}; tasks.nothing"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'tasks' has no attribute 'nothing'" in ended.stderr
