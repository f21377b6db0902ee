"""The total of replaced training samples at the end of every epoch, over all processes."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.run.agreement import Agreement


class ReplacedSamples(Callback):
    """Has the data module add up what its processes have left out, where it leaves anything out."""

    def __init__(self) -> None:
        self._agreement: Agreement | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepares the collective call."""
        if _losses(trainer) is not None:
            self._agreement = Agreement()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds up."""
        losses = _losses(trainer)
        if losses is not None and self._agreement is not None:
            losses.add_up(self._agreement.gather(losses.end_epoch()), trainer.current_epoch)


def _losses(trainer: Trainer) -> Any:
    return getattr(getattr(trainer, "datamodule", None), "losses", None)
