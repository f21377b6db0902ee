"""`python -m tasks.analyse RUN --images FOLDER`: what the attention of a trained run does, as numbers and figures."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import resize

from attention import record_attention
from configs.mistakes import CommandParser, end_with
from configs.numbers import at_least
from configs.version import add_version
from tasks.analysis import figures, maps, scale
from tasks.errors import TaskError
from tasks.profile import recipes
from tasks.report.groups import rounded
from tasks.run.resume import newest_good_checkpoint
from tasks.weights import read_checkpoint

SUFFIXES = (".jpg", ".jpeg", ".png")


def load_model(run: Path) -> Any:
    """The model of a run with the weights of its newest good checkpoint, in evaluation mode.

    Raises:
        TaskError: The folder is no run, or has no checkpoint.
    """
    checkpoint = newest_good_checkpoint(run)
    if checkpoint is None:
        raise TaskError(f"{run} has no checkpoint; give the folder of a trained run, such as runs/detect/NAME")
    task = recipes.build(run, [], None)
    task.load_state_dict(read_checkpoint(checkpoint.path)["state_dict"])
    return task.model.eval(), task.image_size


def read_images(folder: Path, size: tuple[int, int], limit: int) -> list[Tensor]:
    """The first images of a folder by name, (3, H, W) uint8, brought to one size.

    Raises:
        TaskError: There are none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:limit]
    if len(files) < 2:
        raise TaskError(f"{folder} has {len(files)} images; give a folder with at least two of {', '.join(SUFFIXES)}")
    return [resize(decode_image(str(file), ImageReadMode.RGB), list(size), antialias=True) for file in files]


def read_objects(
    annotations: Path, folder: Path, size: tuple[int, int], limit: int
) -> list[tuple[Tensor, list[float], str]]:
    """The largest object of each of the first images of a COCO file: image, box and class, brought to one size.

    Raises:
        TaskError: It is no COCO file.
    """
    try:
        coco = COCO(str(annotations))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise TaskError(f"--annotations {annotations} is no COCO file ({type(error).__name__})") from error
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    found = []
    for number in sorted(coco.getImgIds())[:limit]:
        (about,) = coco.loadImgs([number])
        objects = coco.loadAnns(coco.getAnnIds([number], iscrowd=False))
        if not objects:
            continue
        largest = max(objects, key=lambda each: each["bbox"][2] * each["bbox"][3])
        image = decode_image(str(folder / about["file_name"]), ImageReadMode.RGB)
        down, across = size[0] / image.shape[1], size[1] / image.shape[2]
        x, y, width, height = largest["bbox"]
        box = [x * across, y * down, width * across, height * down]
        found.append((resize(image, list(size), antialias=True), box, names[largest["category_id"]]))
    return found


def analyse(model: nn.Module, images: Sequence[Tensor], objects: Sequence[tuple[Tensor, list[float], str]]) -> Any:
    """All numbers that a model's operators allow; empty where they allow none.

    Args:
        model: A detector or segmentor with `backbone` and `normalization`, in evaluation mode.
        images: Images (3, H, W), uint8, all of one size.
        objects: Objects for selective kernels, as `kernel_selection` takes them.
    """
    backbone: Any = model.backbone
    normalization: Any = model.normalization

    def prepare(image: Tensor) -> Tensor:
        size = torch.tensor([image.shape[1:]])
        prepared: Tensor = normalization(image.unsqueeze(0), size)
        return prepared

    with torch.inference_mode(), record_attention(backbone) as recorded:
        for image in images:
            backbone(prepare(image))
    height, width = images[0].shape[1:]
    names, matrix = maps.similarity(recorded)
    return {
        "images": len(images),
        "gates": {name: asdict(gate) for name, gate in maps.gate_variation(recorded).items()},
        "distances": maps.attended_distances(recorded, (height, width)),
        "similarity": {"layers": names, "matrix": matrix},
        "centres": maps.quadratic_centres(backbone),
        "selection": scale.kernel_selection(backbone, prepare, objects),
        "scales": list(scale.SCALES),
    }


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draws what there are numbers for; returns the files."""
    drawn = []
    gates = {name: maps.GateVariation(**gate) for name, gate in result["gates"].items()}
    layers, matrix = result["similarity"]["layers"], result["similarity"]["matrix"]
    for name, wanted, draw_one in (
        ("gates", gates, lambda file: figures.draw_gates(gates, file)),
        ("distances", result["distances"], lambda file: figures.draw_distances(result["distances"], file)),
        ("similarity", len(layers) > 1, lambda file: figures.draw_similarity(layers, matrix, file)),
        ("centres", result["centres"], lambda file: figures.draw_centres(result["centres"], file)),
        (
            "selection",
            result["selection"],
            lambda file: figures.draw_selection(result["selection"], result["scales"], file),
        ),
    ):
        if wanted:
            draw_one(folder / f"{name}.svg")
            drawn.append(folder / f"{name}.svg")
    return drawn


def _short(value: Any) -> Any:
    """The same with six digits of every number, which is more than the analyses know."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    return rounded(value) if isinstance(value, float) else value


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = CommandParser(prog="python -m tasks.analyse", description=__doc__)
    add_version(parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run, such as runs/detect/NAME")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="folder of images")
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="COCO file of these images, for selective kernels"
    )
    parser.add_argument("--output", type=Path, default=Path("analyses"), metavar="FOLDER", help="where to (analyses)")
    parser.add_argument("--limit", type=at_least(2), default=64, help="images at most (64)")
    options = parser.parse_args(args)
    try:
        model, size = load_model(options.run)
        images = read_images(options.images, size, options.limit)
        objects = read_objects(options.annotations, options.images, size, options.limit) if options.annotations else []
    except TaskError as error:
        end_with(error)
    result = analyse(model, images, objects)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        end_with(f"--output {options.output}: {error.strerror}; give a folder")
    (options.output / "analyses.json").write_text(json.dumps(_short(result)) + "\n")
    files = draw(result, options.output)
    if not files:
        end_with(f"{options.run} has no attention to analyse; give a run whose backbone has some")
    for file in files:
        print(file)  # noqa: T201


if __name__ == "__main__":
    main()
