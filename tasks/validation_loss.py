"""The loss of validation images: what training minimises, of a network in evaluation mode."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tasks.batch import Batch
from tasks.class_tensors import DenseModel
from tasks.metrics.over_processes import gathered
from tasks.reduction import of_this_process

SEED = 0
"""Of the random choices in a loss that no sample key decides: the same for every image and every evaluation."""


class ValidationLosses:
    """Mean loss of the images of a split, each for itself, so that it does not depend on who came in a batch with whom.

    The network is in evaluation mode, without dropout and with the statistics that its norms have gathered; only the
    modules that choose between losses and predictions are told to give losses. Nothing of training changes by it:
    neither statistics, nor random numbers, nor gradients.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._images: list[Tensor] = []

    @torch.no_grad()
    def update(self, model: DenseModel, batch: Batch) -> None:
        """Adds the images of a validation batch, but for repeated ones.

        Args:
            model: In evaluation mode.
            batch: As the data modules have it in validation.

        Raises:
            TaskError: The batch lacks what losses need.
        """
        for position, repeated in enumerate(batch["repeated"].tolist()):
            if not repeated:
                views = [self._losses(model, view) for view in model.as_training(batch, position)]
                self._images.append(torch.stack(views).double().mean(dim=0))

    def compute(self) -> dict[str, float]:
        """`loss`, their sum, and `loss_NAME` of each; empty without an image. Forgets the images; a collective call."""
        own = torch.stack(self._images).tolist() if self._images else []
        parts: list[tuple[list[str], list[list[float]]]] = gathered((self._names, own))
        names = next((names for names, rows in parts if rows), [])
        rows = [row for _, of_process in parts for row in of_process]
        self._images = []
        if not rows:
            return {}
        means = [exact_mean(column) for column in zip(*rows, strict=True)]
        return {"loss": math.fsum(means), **dict(zip(map(_prefixed, names), means, strict=True))}

    def _losses(self, model: DenseModel, batch: Batch) -> Tensor:
        device = batch["image"].device
        with (
            _asked_for_losses(model.loss_modules()),
            of_this_process(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            torch.manual_seed(SEED)
            losses = model(batch)
        self._names = list(losses)
        return torch.stack([value.float().mean() for value in losses.values()])


def exact_mean(values: Sequence[float]) -> float:
    """The mean, rounded once: the same in whatever order the processes have the images."""
    return math.fsum(values) / len(values)


def _prefixed(name: str) -> str:
    return name if name.startswith("loss_") else f"loss_{name}"


@contextmanager
def _asked_for_losses(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Tells modules, and none of their children, that they train."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
