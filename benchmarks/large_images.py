"""Images far larger than the network: peak memory and time of `predict`, what a tile costs, what windows do to scores.

    python -m benchmarks.large_images [--scores] [--json] [--write docs/large-images.md]

A scene of 8,000 x 6,000 pixels (`datamodules.shapes_mosaic`) as JPEG, and an image of 2,200 x 2,200 of it, go through
the command line's `predict`, with and without pictures, each in a process of its own, by a detector and a segmentor.
Their checkpoints are given, or the quickstart recipes are trained for it. The goal is memory: without pictures the
scene may take no more than 400 MB above the small image, of which 144 MB are its pixels, which lie in a file. With
`--scores` the scene is also scored: its 100 parts as images of their own, the whole in windows that are these parts,
which has to give the same, and in windows with overlap.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import ROOT, Goal, finish, parse_options, processor, show_table, time_in_turn
from datamodules.decoded import KeptDecoded
from datamodules.images import read_image
from datamodules.shapes import write_shapes
from datamodules.shapes_mosaic import HEIGHT, WIDTH, write_mosaic

ROWS, COLUMNS, PART = 50, 50, 5
"""Scenes of the large image each way, and of a part."""
SMALL = 2200
"""Side of the small image, of which a row of windows is a batch of them, as in the large one."""
MOST = 400.0
"""MB that the large image may take above the small one."""
EQUAL = 1e-6
"""Difference of scores that are the same: they are written as 32 bits, and the order of sums changes the last ones."""
WINDOW, OVERLAP = 640, 128
DATA = {"detect": "coco", "segment": "ade20k"}
OWN_SIZE = {
    "detect": ["--data.pipeline.test_scale=1", "--data.max_pixels=4000000000"],
    "segment": ["--data.pipeline.test_resize=false", "--data.max_pixels=4000000000"],
}
SCORE = {"detect": "val/mAP", "segment": "val/mIoU"}
COLUMNS_OF_TABLE = ("task", "image", "seconds", "peak memory, MB", "above the small image, MB")


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: On the clock.
        megabytes: Peak of its resident memory.
    """

    seconds: float
    megabytes: float


def windows(task: str, size: tuple[int, int], overlap: int, blend: bool = False) -> list[str]:
    """Options of the command line for windows of a height and width."""
    if task == "detect":
        return [
            f"--model.windows.size=[{size[0]},{size[1]}]",
            f"--model.windows.overlap={overlap}",
            "--model.scored_detections=2000",
        ]
    inference = "--model.segmentor.inference"
    stride = [side - overlap for side in size]
    return [
        f"{inference}=SlideInference",
        f"{inference}.window=[{size[0]},{size[1]}]",
        f"{inference}.stride=[{stride[0]},{stride[1]}]",
        f"{inference}.blend={str(blend).lower()}",
    ]


_PROGRAM = """
import sys
from importlib import import_module
from pathlib import Path

import_module(f"tasks.{sys.argv[1]}").main(sys.argv[2:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")))
"""
"""The command line, and the peak of its memory; what the system counts of a child holds that of its parent, too."""


def run(task: str, command: str, checkpoint: Path | None, runs: Path, *options: str) -> Usage:
    """Runs the command line in a process of its own; Linux only."""
    arguments = [
        sys.executable, "-c", _PROGRAM, task, command, f"--config={ROOT}/configs/{task}/quickstart.yaml",
        "--data.num_workers=0", "--trainer.accelerator=cpu", "--wandb.mode=disabled", f"--runs={runs}", "--name=large",
        *([] if checkpoint is None else [f"--ckpt_path={checkpoint}"]), *options,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    answer = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"error: tasks.{task} {command} ended with {answer.returncode}\n{answer.stdout}{answer.stderr}")
    _, kilobytes, _ = answer.stdout.strip().splitlines()[-1].split()
    return Usage(time.perf_counter() - started, int(kilobytes) / 1024)


def train(task: str, folder: Path) -> Path:
    """Trains the quickstart recipe on the sample data set; minutes."""
    shapes = folder / "shapes"
    write_shapes(shapes)
    run(task, "fit", None, folder / "runs", f"--data.root={shapes / DATA[task]}", "--pictures.images=0")
    return folder / "runs" / task / "large" / "checkpoints" / "best.ckpt"


def predictions(task: str, checkpoint: Path, folder: Path, size: str) -> dict[str, Usage]:
    """What the small image takes, the large one, and the large one with its picture."""
    options = [
        *OWN_SIZE[task], *windows(task, (WINDOW, WINDOW), OVERLAP), f"--data.root={folder}/scene/whole/{DATA[task]}"
    ]  # fmt: skip
    looks = {
        f"{SMALL:,} x {SMALL:,}": ("small", "--writer.pictures=false"),
        size: ("scene", "--writer.pictures=false"),
        f"{size}, drawn on": ("scene", "--writer.pictures=true"),
    }
    return {
        look: run(task, "predict", checkpoint, folder / "runs", *options, f"--data.images={folder}/{name}.jpg", *more)
        for look, (name, *more) in looks.items()
    }


def score(task: str, checkpoint: Path, folder: Path, split: str, *options: str) -> float:
    """The headline of a split."""
    data = [f"--data.root={folder}/scene/{split}/{DATA[task]}", "--data.val_batch_size=1", *OWN_SIZE[task]]
    run(task, "validate", checkpoint, folder / "runs", *data, *options, "--pictures.images=0")
    table = (folder / "runs" / task / "large" / "metrics.validate.csv").read_text().splitlines()
    names, values = table[0].split(","), table[-1].split(",")
    return float(dict(zip(names, values, strict=True))[SCORE[task]])


def scores(task: str, checkpoint: Path, folder: Path) -> Iterator[Goal]:
    """Parts, the whole in aligned windows, and with overlap."""
    part = PART * HEIGHT, PART * WIDTH
    aligned = windows(task, part, 0)
    of_parts = score(task, checkpoint, folder, "parts", *aligned)
    name = SCORE[task]
    yield Goal(f"{task}, {name} of the parts", of_parts, None, "")
    in_windows = score(task, checkpoint, folder, "whole", *aligned)
    away = abs(in_windows - of_parts)
    yield Goal(f"{task}, {name} of the whole in these parts, away", away, EQUAL, "", at_least=False)
    overlapping = [windows(task, (WINDOW, WINDOW), OVERLAP)]
    if task == "segment":
        overlapping.append(windows(task, (WINDOW, WINDOW), OVERLAP, blend=True))
    else:
        overlapping.append([*overlapping[0], "--model.windows.merge=wbf"])
    for words, options in zip(("", ", blended" if task == "segment" else ", fused"), overlapping, strict=True):
        value = score(task, checkpoint, folder, "whole", *options)
        yield Goal(f"{task}, {name} in windows of {WINDOW} that overlap by {OVERLAP}{words}", value, None, "")


def write_photographs(folder: Path) -> Path:
    """The scene and a part of it as JPEG; gives the first."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(folder / "scene" / "whole" / "coco" / "val2017" / "000000000001.png") as scene:
        scene.save(folder / "scene.jpg", quality=95)
        scene.crop((0, 0, SMALL, SMALL)).save(folder / "small.jpg", quality=95)
    return folder / "scene.jpg"


def tile_goals(photograph: Path, folder: Path) -> Iterator[Goal]:
    """A tile of the scene: the whole decoded for it, or read from the decoded copy."""
    os.environ["ATTNDENSE_CACHE"] = str(folder / "cache")
    kept = KeptDecoded(read_image, "")
    kept(photograph)

    def cut(read: partial[np.ndarray]) -> None:
        np.ascontiguousarray(read()[3000:4024, 4000:5024])

    readers = {"whole": partial(read_image, photograph), "copy": partial(kept, photograph)}
    seconds = time_in_turn({name: partial(cut, read) for name, read in readers.items()}, 5)
    whole, copy = (1000 * statistics.median(seconds[name]) for name in ("whole", "copy"))
    yield Goal("a tile of 1024, the whole JPEG decoded", whole, None, "ms")
    yield Goal("a tile of 1024, of the decoded copy", copy, None, "ms")
    yield Goal("a tile of the decoded copy, faster", whole / copy, 10)


def table(usages: Mapping[tuple[str, str], Usage]) -> str:
    """The page's table: what each task took for the small image, and then for the large one."""
    lines = [f"| {' | '.join(COLUMNS_OF_TABLE)} |", "|" + " --- |" * len(COLUMNS_OF_TABLE)]
    small: dict[str, Usage] = {}
    for (task, image), usage in usages.items():
        above = f"{round(usage.megabytes) - round(small[task].megabytes):,}" if task in small else "-"
        small.setdefault(task, usage)
        lines.append(f"| {task} | {image} | {usage.seconds:.0f} | {usage.megabytes:,.0f} | {above} |")
    return "\n".join([*lines, "", f"On {processor()}."])


def measure(options: Namespace) -> Iterator[Goal]:
    """All goals; at the end the page's table is written."""
    usages: dict[tuple[str, str], Usage] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mosaic(folder / "scene", options.rows, options.columns, PART, PART)
        scene = write_photographs(folder)
        size = f"{options.columns * WIDTH:,} x {options.rows * HEIGHT:,}"
        yield from tile_goals(scene, folder)
        for task in options.tasks:
            given = getattr(options, task)
            checkpoint = train(task, folder) if given is None else given
            looks = predictions(task, checkpoint, folder, size)
            usages |= {(task, look): usage for look, usage in looks.items()}
            small, large, _ = looks.values()
            yield Goal(f"{task}, {size}, time of predict", large.seconds, None, "s")
            yield Goal(f"{task}, {size}, peak memory", large.megabytes, None, "MB")
            above = large.megabytes - small.megabytes
            yield Goal(f"{task}, {size}, peak memory above {SMALL} x {SMALL}", above, MOST, "MB", at_least=False)
            if options.scores:
                yield from scores(task, checkpoint, folder)
    if options.write is not None:
        show_table("large", table(usages), options.write)


def add_options(parser: ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--detect", type=Path, help="checkpoint of the detector; default: the quickstart is trained")
    parser.add_argument("--segment", type=Path, help="checkpoint of the segmentor; default: the quickstart is trained")
    parser.add_argument("--tasks", nargs="+", choices=[*DATA], default=[*DATA], help="what is measured")
    parser.add_argument("--rows", type=int, default=ROWS, help="scenes of 120 pixels below each other")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="scenes of 160 pixels beside each other")
    parser.add_argument("--scores", action="store_true", help="score the scene and its parts, too")
    parser.add_argument("--write", type=Path, help="put the table into this document, between <!-- large --> marks")


def main() -> None:
    """Runs the benchmark."""
    options = parse_options(__doc__, add_options)
    finish(measure(options), options.json)


if __name__ == "__main__":
    main()
