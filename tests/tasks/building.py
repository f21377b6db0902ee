"""Tasks as the command line builds them, without running anything."""

from pathlib import Path
from typing import Any

import torch

from datamodules import ADE20K, COCO
from tasks.base import VisionTask
from tasks.callbacks import DetectionPictures, DetectionWriter, LabelMapWriter, SegmentationPictures
from tasks.class_options import own_defaults
from tasks.cli import VisionCLI
from tasks.detection import DetectionTask
from tasks.segmentation import SegmentationTask

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*CONFIGS.glob("detect/*.yaml"), *CONFIGS.glob("segment/*.yaml")])
BACKBONES = sorted(CONFIGS.glob("backbones/*.yaml"))
DATA = {"detect": "coco", "segment": "ade20k"}
COMMANDS: dict[str, tuple[Any, ...]] = {
    "detect": (DetectionTask, COCO, {"pictures": DetectionPictures}, DetectionWriter),
    "segment": (SegmentationTask, ADE20K, {"pictures": SegmentationPictures}, LabelMapWriter),
}


class _BuildingCLI(VisionCLI):
    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


def build_task(recipe: Path, shapes: Path, *options: str, device: str = "cpu") -> VisionTask:
    """The task of a recipe on the sample data set.

    Args:
        recipe: The recipe.
        shapes: The sample data set.
        options: Further options of the command line.
        device: `meta` builds without memory and initialisation.
    """
    task = recipe.parent.name
    arguments = ["fit", f"--config={recipe}", f"--data={CONFIGS}/data/shapes_{task}.yaml", *options]
    arguments += [f"--data.root={shapes / DATA[task]}", "--data.num_workers=0", "--trainer.fast_dev_run=1"]
    with own_defaults(), torch.device(device):
        cli = _BuildingCLI(task, *COMMANDS[task], arguments)
    assert isinstance(cli.model, VisionTask)
    return cli.model
