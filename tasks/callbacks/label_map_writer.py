"""What `predict` writes of a segmentor: label maps, pictures, probabilities."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from tasks.base import VisionTask
from tasks.batch import Batch, ignored_label
from tasks.callbacks.prediction_writer import PredictionWriter
from tasks.callbacks.probability_file import ProbabilityFile
from tasks.segmentation import SegmentationTask


class LabelMapWriter(PredictionWriter):
    """Writes `label_maps/<name of the image>.png` in ADE20K's convention: class k is stored as k + 1.

    The files have 8 bits, and 16 where the model has more than 254 classes. Pictures have the colours of the data set
    where it has some.

    Args:
        pictures: Draw the predictions on the images.
        probability_bits: Write `probabilities/<name of the image>.npz`, too, with so many bits a number: an array
            `probabilities` (H, W, K), of which the largest number, 255 or 65535, means 1, and `class_names`. It is
            compressed some rows at a time, to a quarter of a byte a number or less at 8 bits: at most 13 MB for 150
            classes at 512 x 683, which are 52 MB in memory. 16 bits need five times as much.
    """

    def __init__(self, pictures: bool = True, probability_bits: Literal[8, 16] | None = None) -> None:
        super().__init__(pictures)
        self.probability_bits = probability_bits
        self._task: SegmentationTask | None = None
        self._folder = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names all predictions, and asks the model for probabilities."""
        super().on_predict_start(trainer, pl_module)
        assert isinstance(pl_module, SegmentationTask)
        self._task, self._folder = pl_module, Path(trainer.default_root_dir) / "predictions"
        if self.probability_bits is not None:
            pl_module.see = self._see

    def write(self, task: VisionTask, prediction: Any, target: dict[str, Any], folder: Path, name: str) -> None:
        """Writes one label map at original resolution."""
        path = folder / "label_maps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bits = np.uint8 if ignored_label(len(task.class_names)) == 255 else np.uint16
        Image.fromarray(np.add(prediction.cpu().numpy(), 1, dtype=bits, casting="unsafe")).save(path)

    def finish(self, trainer: Trainer) -> None:
        """Says where the files are."""
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "predictions"
            print(f"label maps: {folder / 'label_maps'}")  # noqa: T201
            if self.probability_bits is not None:
                print(f"probabilities: {folder / 'probabilities'}")  # noqa: T201

    def _see(self, batch: Batch, position: int) -> ProbabilityFile | None:
        """The file of an image; none of one that another process writes, or that stands for a broken one."""
        if batch["repeated"][position]:
            return None
        assert self._task is not None and self.probability_bits is not None
        target = batch["targets"][position]
        path = self._folder / "probabilities" / f"{self._names[target['file_name']]}.npz"
        return ProbabilityFile(
            path, tuple(target["original_size"].tolist()), self._task.class_names, self.probability_bits
        )
