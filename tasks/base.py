"""What detection and segmentation share: the steps of a LightningModule over batches, losses and one metric object."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from backbones import Backbone
from tasks.batch_norm import explain
from tasks.class_tensors import DenseModel
from tasks.errors import TaskError
from tasks.losses import Losses, sum_losses
from tasks.optimization import ParameterRules, group_table
from tasks.run.length import require_end
from tasks.schedules import ScheduleBuilder
from tasks.weights import arguments_without_weights, load_model_weights, read_checkpoint

Batch = dict[str, Any]
Predictions = list[Any]


class Metric(Protocol):
    """One object that scores a whole split: updated in every step, computed once, equal for any number of processes."""

    def update(self, predictions: Predictions, targets: list[Any]) -> None:
        """Takes the predictions and the ground truth of some images."""

    def compute(self) -> dict[str, float]:
        """Scores everything since the last reset; a collective call in a distributed run."""

    def reset(self) -> None:
        """Forgets everything."""


class VisionTask(pl.LightningModule):
    """Base of tasks.

    Attributes:
        monitor: Logged name of the number by which the best checkpoint is chosen, larger is better.
        results: All numbers of the last complete evaluation, per-class ones included, by their logged names.
        loss_parts: Parts of the loss of the last training batch, by name.
    """

    monitor: str
    model: DenseModel

    def __init__(
        self,
        model: DenseModel,
        metric: Metric,
        class_names: list[str],
        image_size: tuple[int, int],
        optimizer: OptimizerCallable,
        lr_schedule: ScheduleBuilder,
        parameter_rules: ParameterRules,
        weights: Path | None,
        channels_last: bool,
        compile_backbone: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.metric = metric
        self.class_names = class_names
        self.image_size = image_size
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.parameter_rules = parameter_rules
        self.results: dict[str, float] = {}
        self.loss_parts: dict[str, Tensor] = {}
        if weights is not None:
            load_model_weights(self.model, class_names, weights)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # features follow the layout of the weights
        if compile_backbone:
            next(module for module in model.modules() if isinstance(module, Backbone)).compile()

    @abstractmethod
    def metric_inputs(self, batch: Batch, predictions: Predictions) -> tuple[Predictions, list[Any]]:
        """Predictions and ground truth in the metric's form, one entry per image."""

    def forward(self, batch: Batch) -> Any:
        """Losses in training mode, predictions otherwise."""
        return self.model(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sums and logs the losses; whether they are finite is asked by `tasks.run.guard`.

        Raises:
            TaskError: A batch norm gets one value per channel.
        """
        try:
            output = self.model(batch)
        except ValueError as error:
            if words := explain(self.model, error):
                raise TaskError(words) from error
            raise
        losses = {**output, **auxiliary_losses(self.model)}
        numbers = output.numbers if isinstance(output, Losses) else {}
        loss = sum_losses(losses)
        self.loss_parts = {name: value.detach() for name, value in losses.items()}
        scalars = {f"train/{name}": value.detach().mean() for name, value in {**losses, **numbers}.items()}
        self.log_dict(scalars, batch_size=len(batch["image"]))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Updates the metric, and hands the predictions to the callbacks."""
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Updates the metric, and hands the predictions to the callbacks."""
        return self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Predictions, one per image."""
        predictions: Predictions = self.model(batch)
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Scores the split."""
        self._score("val")

    def on_test_epoch_end(self) -> None:
        """Scores the split."""
        self._score("test")

    def _evaluate(self, batch: Batch) -> Predictions:
        predictions: Predictions = self.model(batch)
        found, expected = self.metric_inputs(batch, predictions)
        counted = [position for position, repeated in enumerate(batch["repeated"].tolist()) if not repeated]
        self.metric.update([found[position] for position in counted], [expected[position] for position in counted])
        return predictions

    def _score(self, prefix: str) -> None:
        self.results = {f"{prefix}/{name}": value for name, value in self.metric.compute().items()}
        self.metric.reset()
        # Per-class numbers would flood the curves: they are in `results`, which the run summary reads.
        curves = {name: value for name, value in self.results.items() if name.count("/") == 1}
        headline = f"{prefix}/{self.monitor.split('/')[1]}"
        self.log_dict({name: value for name, value in curves.items() if name != headline}, rank_zero_only=True)
        self.log(headline, curves[headline], prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over all parameters that are not frozen, and a schedule over the run's steps."""
        trainer = self.trainer
        accumulated = trainer.accumulate_grad_batches
        batch_size = getattr(trainer.datamodule, "batch_size", 1)
        images_per_step = batch_size * trainer.world_size * accumulated
        optimizer = self.parameter_rules.build(self.optimizer, self.model, images_per_step)
        schedule = self.lr_schedule(optimizer, require_end(trainer))
        rank_zero_info(group_table(optimizer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, but as plain data whatever the environment says, and of parts of a model only."""
        saved = read_checkpoint(checkpoint_path).get("hyper_parameters", {})
        arguments = {"weights_only": True, **arguments_without_weights(saved), **kwargs}
        return super().load_from_checkpoint(checkpoint_path, *args, **arguments)

    def forget_live_hyperparameters(self) -> None:
        """Takes modules and functions out of the saved constructor arguments: a checkpoint must hold plain data only.

        Under the command line there are none: arguments are saved as class paths with their arguments, from which
        `load_from_checkpoint` rebuilds the task. A task that was built in Python needs them again.
        """
        live = [name for name, value in self.hparams.items() if isinstance(value, nn.Module) or callable(value)]
        for name in live:
            del self.hparams[name]
        if "weights" in self.hparams:
            self.hparams["weights"] = None  # a checkpoint has weights of its own


def auxiliary_losses(model: nn.Module) -> dict[str, Tensor]:
    """Losses that the model's backbone asks for by itself, for its last forward pass."""
    backbone = getattr(model, "backbone", None)
    loss = backbone.auxiliary_loss() if isinstance(backbone, Backbone) else None
    return {} if loss is None else {"loss_auxiliary": loss}
