"""What detection and segmentation share: the steps of a LightningModule over batches, losses and metrics."""

from abc import abstractmethod
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from backbones import Backbone
from tasks.batch import Batch
from tasks.batch_norm import explain
from tasks.class_tensors import DenseModel
from tasks.errors import TaskError
from tasks.headline import Headline
from tasks.losses import Losses, sum_losses
from tasks.metrics import Metric, NamedMetrics
from tasks.optimization import group_table
from tasks.run.evaluation_file import Evaluation
from tasks.run.length import images_per_step, require_end
from tasks.same_network import require_same_network
from tasks.task_options import TaskOptions, build_options, saved_options
from tasks.validation_loss import ValidationLosses
from tasks.weights import DATA_KEY, FORMAT, FORMAT_KEY, arguments_without_weights, load_model_weights, read_checkpoint
from tasks.windows import OverWindows

Predictions = list[Any]


class VisionTask(pl.LightningModule):
    """Base of tasks: a subclass names its options and its headline, and builds a model and its metrics from them.

    Args:
        options: What the task is made from.

    Attributes:
        options_class: The options, as the command line offers them.
        headline: The number by which the best checkpoint is chosen and runs are compared, unless the options name one.
        results: All numbers of the last complete evaluation, per-class ones included, by their logged names.
        evaluation: What each image of that evaluation adds to them, where the task keeps it, until all callbacks have
            seen the end of the evaluation.
        loss_parts: Parts of the loss of the last training batch, by name.
        saved_options: The options as a checkpoint keeps them. From the command line these are class paths with their
            arguments, from which `load_from_checkpoint` rebuilds the task; one built in Python needs `options` again.

    Raises:
        ValueError: Two metrics give a number of the same name, or none gives the headline.
    """

    options_class: ClassVar[type[TaskOptions]]
    headline: Headline

    def __init__(self, options: TaskOptions) -> None:
        super().__init__()
        self.options = options
        self.class_names = options.class_names
        self.image_size = options.image_size
        self.model = self.build_model()
        self.metrics = NamedMetrics(self.build_metrics())
        if options.headline is not None:
            self.headline = Headline(options.headline, "min" if options.headline in self.metrics.falling else "max")
        if self.headline.score not in self.metrics.scores:
            raise ValueError(f"the headline {self.headline.score} is none of {', '.join(self.metrics.scores)}")
        self.results: dict[str, float] = {}
        self.evaluation: Evaluation | None = None
        self.loss_parts: dict[str, Tensor] = {}
        self.validation_losses = ValidationLosses() if options.validation_loss else None
        self.saved_options = options.plain()
        if options.weights is not None:
            load_model_weights(self.model, self.class_names, options.weights)
        if options.channels_last:
            self.model.to(memory_format=torch.channels_last)  # features follow the layout of the weights
        if options.compile_backbone:
            options.backbone.compile()

    @abstractmethod
    def build_model(self) -> DenseModel:
        """The model, around the backbone of the options."""

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """The metrics by what they score; all of them get the same predictions and ground truth."""

    def build_evaluation(self) -> Evaluation | None:
        """What is kept of the images that the metrics have seen, if anything; a collective call."""
        return None

    def main_scores(self) -> list[str]:
        """The numbers that are shown of a run where there is no room for all, the headline besides."""
        return [self.headline.score]

    @property
    def beside_headline(self) -> list[str]:
        """The main scores without the headline."""
        return [name for name in self.main_scores() if name != self.headline.score]

    @abstractmethod
    def describe_head(self) -> tuple[str, str]:
        """What the model puts on the backbone, for the summary of a run: its kind (`detector`) and its class."""

    @abstractmethod
    def metric_inputs(self, batch: Batch, predictions: Predictions) -> tuple[Predictions, list[Any]]:
        """Predictions and ground truth in the form of the metrics, one entry per image."""

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
        """Updates the metric and the loss, and hands the predictions to the callbacks."""
        if self.validation_losses is not None:
            self.validation_losses.update(self.model, batch)
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Updates the metric, and hands the predictions to the callbacks."""
        return self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Predictions, one per image."""
        return self.predictions(batch)

    def predictions(self, batch: Batch) -> Predictions:
        """What the model, in evaluation mode, finds in each image, in original pixels."""
        found: Predictions = self.model(batch)
        return found

    @property
    def over_windows(self) -> OverWindows | None:
        """What covers an image by windows and tells how far it is, if anything does."""
        return None

    def on_validation_epoch_end(self) -> None:
        """Scores the split."""
        self._score("val")
        if self.validation_losses is not None:
            losses = {f"val/{name}": value for name, value in self.validation_losses.compute().items()}
            self.results |= losses
            self.log_dict(losses)  # by every process, so that an early stopping may watch it

    def on_test_epoch_end(self) -> None:
        """Scores the split."""
        self._score("test")

    def on_validation_end(self) -> None:
        """Lets go of the images."""
        self.evaluation = None

    def on_test_end(self) -> None:
        """Lets go of the images."""
        self.evaluation = None

    def _evaluate(self, batch: Batch) -> Predictions:
        predictions = self.predictions(batch)
        found, expected = self.metric_inputs(batch, predictions)
        counted = [position for position, repeated in enumerate(batch["repeated"].tolist()) if not repeated]
        images = [(batch["targets"][place]["image_id"], batch["targets"][place]["file_name"]) for place in counted]
        self.metrics.update([found[place] for place in counted], [expected[place] for place in counted], images)
        return predictions

    def _score(self, split: str) -> None:
        numbers, self.evaluation = self.metrics.compute(), self.build_evaluation()
        self.metrics.reset()
        self.results = {f"{split}/{name}": value for name, value in numbers.items()}
        # Per-class numbers would flood the curves: they are in `results`, which the run summary reads.
        beside = self.beside_headline
        others = [name for name in self.metrics.scores if name not in (*beside, self.headline.score)]
        self.log_dict({f"{split}/{name}": numbers[name] for name in others}, rank_zero_only=True)
        self.log_dict({f"{split}/{name}": numbers[name] for name in beside}, prog_bar=True, rank_zero_only=True)
        self.log(self.headline.logged(split), numbers[self.headline.score], prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over all parameters that are not frozen, and a schedule over the run's steps."""
        images = images_per_step(self.trainer)
        optimizer = self.options.parameter_rules.build(self.options.optimizer, self.model, images)
        schedule = self.options.lr_schedule(optimizer, require_end(self.trainer))
        rank_zero_info(group_table(optimizer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the options, but for weights to start from, and what prediction needs of the data module."""
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint["hyper_parameters"] = {**self.saved_options, "weights": None}  # it has weights of its own
        data = None if self._trainer is None else self.trainer.datamodule
        if data is not None and hasattr(data, "for_prediction"):
            try:
                checkpoint[DATA_KEY] = data.for_prediction()
            except ValueError as error:  # a part of a user's own; training goes on without
                checkpoint[DATA_KEY] = {"unknown": str(error)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another network in one line.

        Raises:
            TaskError: It has other weights, or an optimiser of other parameters where training goes on.
        """
        if self._trainer is not None:  # `load_from_checkpoint` has rules of its own
            require_same_network(self, checkpoint, continues=self.trainer.state.fn == TrainerFn.FITTING)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, but as plain data whatever the environment says, and of parts of a model only.

        Raises:
            TaskError: The file is no checkpoint of this task, or names foreign code as a part of its model.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        saved: dict[str, Any] = {}
        if "options" not in kwargs:
            saved = saved_options(checkpoint, checkpoint_path, cls.options_class)
            kwargs["options"] = build_options(cls.options_class, saved | arguments_without_weights(saved))
        own = {"weights_only": True, "_instantiator": None}  # the latter is what format 1 was built with
        task = super().load_from_checkpoint(checkpoint_path, *args, **own | kwargs)
        task.saved_options = saved or task.saved_options  # for the next checkpoint
        return task


def auxiliary_losses(model: nn.Module) -> dict[str, Tensor]:
    """Losses that the model's backbone asks for by itself, for its last forward pass."""
    backbone = getattr(model, "backbone", None)
    loss = backbone.auxiliary_loss() if isinstance(backbone, Backbone) else None
    return {} if loss is None else {"loss_auxiliary": loss}
