"""Pictures of ground truth and prediction, of the same validation images after every epoch."""

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchvision.io import write_png
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import resize

from tasks.base import VisionTask
from tasks.batch import Batch
from tasks.callbacks.report import Report
from tasks.drawing import Colour, draw_detections, draw_label_map, pad_to_equal, side_by_side
from tasks.ranges import check_range
from tasks.run.summary_file import SUMMARY, read_summary
from tasks.run.wandb_run import WandbRun

PICTURES, OF_THE_BEST = "pictures", "best"
TRAINING_PICTURE = "training.png"
Palette = Sequence[Colour] | None
"""Colours of the classes, where the data set has some."""


class Pictures(Report):
    """Base of pictures: `pictures/<image id>.png` (ground truth left, prediction right), also sent to W&B.

    The first images of the validation split are taken, so every epoch and every run shows the same ones. Those of the
    best epoch of a training, whose numbers `summary.json` holds, are in `pictures/best` too. Before the first step
    there is `pictures/training.png`: a training image as the network gets it, and its ground truth. Classes that are
    mistaken for one another in the data show there.

    Args:
        images: Number of images; 0 writes none.
        every_n_epochs: Epochs between pictures.
    """

    def __init__(self, images: int = 8, every_n_epochs: int = 1) -> None:
        check_range("--pictures.images", images, 0)
        check_range("--pictures.every_n_epochs", every_n_epochs, 1)
        self.images, self.every_n_epochs = images, every_n_epochs
        self.palette: Palette = None
        self._drawn: dict[int, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Asks the data module for the colours of the classes."""
        if self.images and trainer.is_global_zero:
            self.palette = palette_of(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draws the ground truth of the first training image."""
        assert isinstance(pl_module, VisionTask)
        if self.images and trainer.global_step == batch_idx == 0 and trainer.is_global_zero:
            height, width = batch["size"][0].tolist()
            picture = self.draw_truth(pl_module, batch["image"][0, :, :height, :width].cpu(), batch, 0)
            save_picture(picture, Path(trainer.default_root_dir) / PICTURES / TRAINING_PICTURE)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the images that the first process sees, until there are enough."""
        assert isinstance(pl_module, VisionTask)
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for position, target in enumerate(batch["targets"]):
            if len(self._drawn) < self.images:
                image = original_image(batch, position)
                self._drawn[target["image_id"]] = self.draw(pl_module, image, outputs[position], batch, position)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the pictures."""
        drawn, self._drawn = self._drawn, {}
        if not drawn:
            return
        folder = Path(trainer.default_root_dir) / PICTURES
        if trainer.state.fn == "fit" and _is_best(trainer):
            shutil.rmtree(folder / OF_THE_BEST, ignore_errors=True)
            save_pictures(drawn, folder / OF_THE_BEST)
        if trainer.current_epoch % self.every_n_epochs:
            return
        save_pictures(drawn, folder)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                pictures = [picture.permute(1, 2, 0).numpy() for picture in pad_to_equal(list(drawn.values()))]
                logger.log_pictures("val/pictures", pictures, list(map(str, drawn)), trainer.global_step - 1)

    @abstractmethod
    def draw_truth(self, task: VisionTask, image: Tensor, batch: Batch, position: int) -> Tensor:
        """The ground truth of a training image (3, H, W)."""

    @abstractmethod
    def draw(self, task: VisionTask, image: Tensor, prediction: Any, batch: Batch, position: int) -> Tensor:
        """Ground truth and prediction of one image (3, H, W), side by side."""


class DetectionPictures(Pictures):
    """Boxes and masks with class names and scores; crowd regions are striped."""

    def draw_truth(self, task: VisionTask, image: Tensor, batch: Batch, position: int) -> Tensor:
        """The boxes that are left after augmentation."""
        target = batch["targets"][position]
        return draw_detections(image, target["boxes"].cpu(), target["labels"].cpu(), task.class_names)

    def draw(self, task: VisionTask, image: Tensor, prediction: Any, batch: Batch, position: int) -> Tensor:
        """What is annotated, and detections of score 0.3 and above."""
        truth = batch["targets"][position]["ground_truth"]
        boxes, labels, iscrowd = (torch.as_tensor(truth[name]) for name in ("boxes", "labels", "iscrowd"))
        corners = box_convert(boxes, "xywh", "xyxy")
        masks = truth.get("masks")
        expected = draw_detections(image, corners, labels, task.class_names, masks=masks, iscrowd=iscrowd)
        return side_by_side(expected, draw_prediction(task, image, prediction))


class SegmentationPictures(Pictures):
    """Classes in colours, with a legend."""

    def draw_truth(self, task: VisionTask, image: Tensor, batch: Batch, position: int) -> Tensor:
        """The mask after augmentation."""
        height, width = image.shape[-2:]
        labels = batch["mask"][position, :height, :width].cpu()
        return draw_label_map(image, labels, task.class_names, palette=self.palette)

    def draw(self, task: VisionTask, image: Tensor, prediction: Any, batch: Batch, position: int) -> Tensor:
        """The mask, and the predicted label map."""
        expected = draw_label_map(image, batch["mask"][position].cpu(), task.class_names, palette=self.palette)
        return side_by_side(expected, draw_prediction(task, image, prediction, self.palette))


def palette_of(trainer: Trainer) -> Palette:
    """The colours that the data module knows for the classes, if any."""
    return getattr(getattr(trainer, "datamodule", None), "class_colours", None)


def draw_prediction(task: VisionTask, image: Tensor, prediction: Any, palette: Palette = None) -> Tensor:
    """Draws what a detector or a segmentor predicts for an image (3, H, W)."""
    if isinstance(prediction, Tensor):
        return draw_label_map(image, prediction.cpu(), task.class_names, palette=palette)
    boxes, labels, scores = (prediction[name].cpu() for name in ("boxes", "labels", "scores"))
    return draw_detections(image, boxes, labels, task.class_names, scores, prediction.get("masks"))


def original_image(batch: Batch, position: int) -> Tensor:
    """One image of a batch as (3, H, W) uint8, without padding and resized back to its original size."""
    height, width = batch["size"][position].tolist()
    image = batch["image"][position, :, :height, :width].cpu()
    return resize(image, batch["targets"][position]["original_size"].tolist())


def _is_best(trainer: Trainer) -> bool:
    """Whether the summary, which is written before, is of the evaluation that has just ended."""
    summary = Path(trainer.default_root_dir) / SUMMARY
    return summary.exists() and read_summary(summary).get("step") == trainer.global_step


def save_pictures(pictures: Mapping[int, Tensor], folder: Path) -> None:
    """Writes pictures (3, H, W) uint8, called by the ids of their images."""
    for image_id, picture in pictures.items():
        save_picture(picture, folder / f"{image_id}.png")


def save_picture(picture: Tensor, path: Path) -> None:
    """Writes a picture (3, H, W) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture.contiguous(), str(path))
