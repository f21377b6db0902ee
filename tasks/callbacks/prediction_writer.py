"""What `predict` writes."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from tasks.base import VisionTask
from tasks.callbacks.pictures import Palette, draw_prediction, original_image, palette_of, save_picture
from tasks.callbacks.prediction_names import prediction_names
from tasks.callbacks.window_progress import WindowProgress
from tasks.detection import DetectionTask
from tasks.errors import TaskError
from tasks.run.files import write_text

T = TypeVar("T")


class PredictionWriter(BasePredictionWriter):
    """Base of writers: predictions go into `predictions/` of the run folder, with pictures unless told not to.

    Files are called as `prediction_names` says: `pictures/cam1/0001.png` for `.../cam1/0001.jpg`. Images that could
    not be read have no predictions: once all others have theirs, the command ends with their number. Where an image
    takes long, a line says every ten seconds how many of its windows are done.

    Args:
        pictures: Draw the predictions on the images.
    """

    def __init__(self, pictures: bool = True) -> None:
        super().__init__(write_interval="batch")
        self.pictures = pictures
        self.palette: Palette = None
        self._names: dict[str, str] = {}
        self._unreadable: list[str] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names all predictions, or stops before the first one is made."""
        self._names = prediction_names(trainer.predict_dataloaders.dataset.paths)
        self.palette = palette_of(trainer) if self.pictures else None

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begins to watch the windows of the batch."""
        assert isinstance(pl_module, VisionTask)
        bar, windows = trainer.progress_bar_callback, pl_module.over_windows
        if bar is not None and windows is not None:
            files = [Path(target["file_name"]).name for target in batch["targets"]]
            windows.progress = WindowProgress(", ".join(files), bar.print)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Writes the images of a batch; a sample that only fills up a distributed step is left to its first owner."""
        assert isinstance(pl_module, VisionTask)
        folder = Path(trainer.default_root_dir) / "predictions"
        for position, (found, target) in enumerate(zip(prediction, batch["targets"], strict=True)):
            if "unreadable" in target:
                self._unreadable.append(target["unreadable"])
            if batch["repeated"][position]:
                continue
            name = f"{self._names[target['file_name']]}.png"
            self.write(pl_module, found, target, folder, name)
            if self.pictures:
                picture = draw_prediction(pl_module, original_image(batch, position), found, self.palette)
                save_picture(picture, folder / "pictures" / name)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes the files, and counts the images that are not in them.

        Raises:
            TaskError: There are some. It comes last, so that all others have their predictions.
        """
        self.finish(trainer)
        trainer.strategy.barrier("predictions are written")
        unreadable = sorted(set(chain.from_iterable(gathered(self._unreadable))))
        if unreadable:
            images = len(trainer.predict_dataloaders.dataset)
            raise TaskError(
                f"{len(unreadable)} of {images} images could not be read and have no predictions, all others have; "
                f"{'the first: ' if len(unreadable) > 1 else ''}{unreadable[0]}"
            )

    @abstractmethod
    def write(self, task: VisionTask, prediction: Any, target: dict[str, Any], folder: Path, name: str) -> None:
        """Writes, or keeps for the end, the prediction of one image; `name` is what its picture is called."""

    @abstractmethod
    def finish(self, trainer: Trainer) -> None:
        """Writes what was kept, and says where it is; called in every process."""


def gathered(part: T) -> list[T]:
    """The part of every process, in all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return [part]
    parts = [part] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts


class DetectionWriter(PredictionWriter):
    """Writes `predictions.json` in COCO's result format: original category ids, boxes xywh in original pixels.

    Where the detector finds masks, each result has its `segmentation` as compressed RLE. `loadRes` of pycocotools reads
    the file; it gives a result that has both the area of its box, so take `bbox` out to score masks by their own sizes.
    """

    def __init__(self, pictures: bool = True) -> None:
        super().__init__(pictures)
        self._results: list[dict[str, Any]] = []
        self._files: list[dict[str, Any]] = []

    def write(self, task: VisionTask, prediction: Any, target: dict[str, Any], folder: Path, name: str) -> None:
        """Keeps the detections."""
        assert isinstance(task, DetectionTask)
        boxes = prediction["boxes"].double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        self._files.append({"id": target["image_id"], "file_name": target["file_name"]})
        ids, image = task.options.category_ids, target["image_id"]
        columns = zip(boxes.tolist(), prediction["scores"].tolist(), prediction["labels"].tolist(), strict=True)
        rows: list[dict[str, Any]] = [
            {"image_id": image, "category_id": ids[label], "bbox": box, "score": score} for box, score, label in columns
        ]
        if "masks" in prediction:
            for row, mask in zip(rows, prediction["masks"], strict=True):
                row["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
        self._results += rows

    def finish(self, trainer: Trainer) -> None:
        """Collects the detections of all processes and writes the files."""
        parts = gathered((self._results, self._files))
        if not trainer.is_global_zero:
            return
        results = sorted((row for part, _ in parts for row in part), key=lambda row: row["image_id"])
        files = sorted((row for _, part in parts for row in part), key=lambda row: row["id"])
        folder = Path(trainer.default_root_dir) / "predictions"
        write_text(folder / "predictions.json", json.dumps(results))
        write_text(folder / "images.json", json.dumps(files))
        print(f"{len(results)} detections in {len(files)} images: {folder / 'predictions.json'}")  # noqa: T201
