"""Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv 1709.01507) with the ablations of the journal version."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels, check_choice
from attention.pooling import gated, global_max, global_mean

Pooling = Literal["avg", "max", "none"]
Hidden = Literal["relu", "relu6"]
Gate = Literal["sigmoid", "tanh", "relu"]

_HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6}
_GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": F.relu}


class SqueezeExcitation(Refine):
    """Channels weighted by a gate computed from their global averages.

        s = mean_{H,W} x                                (B, C, 1, 1)
        y = x * sigmoid(W2 relu(W1 s + b1) + b2)        W1: (m, C), W2: (C, m), m = floor(C / reduction)

    arXiv 1709.01507, equations 2 to 4; the two biases are those of the released networks. Rows of the paper's ablation
    are options: maximum or no squeeze at all (the gate is then computed at every position), tanh or ReLU as the gate.
    On MobileNetV2 the authors of coordinate attention (arXiv 2103.02907) use reduction 24 and a ReLU6 hidden layer.

    It compiles and exports: a pooling, small convolutions and a product.

    Parameters: 2 C m + m + C, without biases 2 C m. Cost: 2 C m multiply-accumulates (times H W without squeeze), one
    pass over the map for the squeeze and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Weights start at PyTorch's defaults and biases at zero, so that the gate starts near one half.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the hidden width m = floor(C / r), from 1 to C. The paper takes 16.
        pooling: Squeeze over positions: `avg` (the paper), `max`, or `none` (a gate for every position).
        gate: Function that bounds the weights: `sigmoid` (the paper), `tanh` or `relu`.
        hidden: Activation of the hidden layer: `relu` (the paper) or `relu6` (its MobileNetV2 variant).
        bias: Whether both fully connected layers have biases, as in the released networks.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pooling: Pooling = "avg",
        gate: Gate = "sigmoid",
        hidden: Hidden = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__(channels)
        check_choice("pooling", pooling, get_args(Pooling))
        check_choice("gate", gate, get_args(Gate))
        check_choice("hidden", hidden, get_args(Hidden))
        width = bottleneck_channels(channels, reduction)
        self.pooling: Pooling = pooling
        self.gate: Gate = gate
        self.hidden: Hidden = hidden
        self.fc1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.fc2 = nn.Conv2d(width, channels, 1, bias=bias)
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        squeezed = x  # (B, C, H, W) without squeeze, otherwise (B, C, 1, 1)
        if self.pooling == "avg":
            squeezed = global_mean(x)
        elif self.pooling == "max":
            squeezed = global_max(x)
        excited = self.fc2(_HIDDEN[self.hidden](self.fc1(squeezed)))
        weights = _GATES[self.gate](excited)
        if self.recording:
            self.record("channel", weights)
        return gated(x, weights)
