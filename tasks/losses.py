"""What a model hands out in training: losses, which are summed, and numbers beside them, which are only logged."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Losses(dict[str, Tensor]):
    """Losses by name, all of which are summed and minimised.

    Args:
        losses: The parts of the loss.
        numbers: What was measured besides, an accuracy for instance; not summed, whatever its name.
    """

    def __init__(self, losses: Mapping[str, Tensor], numbers: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(losses)
        self.numbers = dict(numbers or {})


def sum_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The scalar to minimise: the sum of all parts, each of which counts by its mean."""
    return torch.stack([value.mean() for value in losses.values()]).sum()


def split_by_name(found: Mapping[str, Tensor | list[Tensor]], prefix: str = "") -> Losses:
    """What a head of MMSegmentation returns, by the rule of `mmengine.model.BaseModel.parse_losses`.

    Losses are what has `loss` in its name; a list of them, one for each stage of a head, counts by its sum.

    Args:
        found: Losses and other numbers by name.
        prefix: Put before all names; it says nothing about what they are.
    """
    parts: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
    for name, value in found.items():
        total = torch.stack([part.mean() for part in value]).sum() if isinstance(value, list) else value
        parts["loss" in name][prefix + name] = total
    return Losses(parts[True], parts[False])
