"""Parts of a user's own for `python -m tasks.find`: what an optimiser is asked for, and a network that fills memory."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from backbones import MobileNetV2


class WatchedSGD(torch.optim.SGD):
    """Notes the rates with which its groups take their steps."""

    taken: ClassVar[list[dict[str, float]]] = []

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure: Any = None) -> Any:
        self.taken.append({group["name"]: group["lr"] for group in self.param_groups})
        return super().step(closure)


class FivePlaces(MobileNetV2):
    """Asks the allocator for more than any machine has when it gets more than five images."""

    def forward(self, x: Tensor) -> list[Tensor]:
        if len(x) > 5:
            torch.empty(2**62, dtype=torch.uint8)
        return super().forward(x)
