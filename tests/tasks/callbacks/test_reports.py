"""Reports: those that every run has, and as many of a user's own as are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from tasks.callbacks import Report


class Counted(Report):
    """Writes how many detections have at least some score.

    Args:
        file: Name of the file in the run folder.
        threshold: Lowest score.
    """

    def __init__(self, file: str, threshold: float = 0.0) -> None:
        self.file, self.threshold, self.found = file, threshold, 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        self.found += sum(int((found["scores"] >= self.threshold).sum()) for found in outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (Path(trainer.default_root_dir) / self.file).write_text(str(self.found))


def test_reports_beside_the_pictures(command: Callable[..., Path], fails: Callable[..., str]) -> None:
    """Each has its own options, and none is an option of the run: it goes on with others."""
    own = f"--reports+={Counted.__module__}.Counted"
    several = (own, "--reports.file=all.txt", own, "--reports.file=sure.txt", "--reports.threshold=1.5")
    options = ("fit", "--model.detector.score_threshold=0.0", "--pictures.images=2", "--trainer.limit_train_batches=1")
    folder = command("detect", *options, *several)
    assert int((folder / "all.txt").read_text()) > 0 == int((folder / "sure.txt").read_text())
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["1.png", "2.png", "best", "training.png"]
    again = (own, "--reports.file=again.txt", "--trainer.max_epochs=2", "--resume=auto")
    assert command("detect", *options, *again) == folder and (folder / "again.txt").exists()
    assert json.loads((folder / "run.json").read_text())["epoch"] == 2
    assert "needs --reports.file" in fails("detect", *options, own)
