"""BAM, the bottleneck attention module (Park et al., BMVC 2018, arXiv 1807.06514)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, bottleneck_channels, check_at_least, check_choice
from attention.pooling import global_mean

Fusion = Literal["product", "sum", "max", "channel", "spatial"]

_FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": torch.mul,
    "sum": torch.add,
    "max": torch.maximum,
}


class BAM(Refine):
    """A map amplified by one gate that joins a score per channel with a score per position.

        c = W2 relu(BN(W1 mean_{H,W} x + b1)) + b2                                          (B, C, 1, 1)
        s = conv_{1x1}(D(D(relu(BN(conv_{1x1} x))))),  D = relu(BN(conv_{3x3, dilated}))    (B, 1, H, W)
        y = x * (1 + sigmoid(c * s))          `sum`: c + s, `max`: max(c, s), `channel`: c, `spatial`: s

    arXiv 1807.06514, equations 1 to 4, with hidden width m = floor(C / reduction) in both branches. The equation joins
    the branches by a sum; the authors' code multiplies them, and their released weights give their accuracy only so
    (assumption A18). The product is therefore the default and `sum` the paper. The paper also ends both branches with a
    norm; the code, and this class, have norms only behind hidden layers (assumption A19). Averages are taken over the
    whole map, where the code pools a square window of side H. Zeros surround the map in the dilated convolutions.

    The maximum and each branch alone are rows of the paper's ablation, read as one sigmoid of what is left of the
    scores (assumption A43); a branch that is not needed is not made.

    In training the norm of the channel branch sees one value per channel and image, so that a batch of one image (per
    process, unless norms are synchronised) raises PyTorch's error: there is no variance of one value. Freeze the norms
    (`eval`) or take two images.

    It compiles and exports: linear layers, convolutions and point-wise functions.

    Parameters: 18 m^2 + 3 C m + C + 13 m + 1, of which the channel branch has 2 C m + C + 3 m. Cost: 2 C m + H W (C m +
    18 m^2 + m) multiply-accumulates and four passes over the map; memory of three maps in training besides m channels
    of hidden layers.

    Place: between the stages of a network, before each downsampling, and not behind the last.

    Convolutions start normally distributed with variance 2 / (C_out k^2), all biases at zero, the linear layers at
    PyTorch's defaults, as in the authors' code.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the hidden width m = floor(C / r), from 1 to C. The paper takes 16.
        dilation: Distance between the cells that a 3x3 kernel reads, in cells, at least 1. The paper takes 4 and
            compares with 1, 2 and 6.
        fusion: How the branches are joined: `product` (released weights), `sum` (the paper's equation) or `max`; or the
            branch that is alone, `channel` or `spatial`.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4, fusion: Fusion = "product") -> None:
        super().__init__(channels)
        check_at_least(1, dilation=dilation)
        check_choice("fusion", fusion, get_args(Fusion))
        width = bottleneck_channels(channels, reduction)
        self.fusion: Fusion = fusion
        self.channel = None if fusion == "spatial" else _channel_branch(channels, width)
        self.position = None if fusion == "channel" else _position_branch(channels, width, dilation)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Amplifies `x` (B, C, H, W)."""
        scores: list[Tensor] = []
        if self.channel is not None:
            scores.append(self.channel(global_mean(x).flatten(1)).unsqueeze(2).unsqueeze(3).to(x.dtype))  # (B, C, 1, 1)
        if self.position is not None:
            scores.append(self.position(x).to(x.dtype))  # (B, 1, H, W)
        gate = torch.sigmoid(scores[0] if len(scores) == 1 else _FUSIONS[self.fusion](scores[0], scores[1]))
        if self.recording:
            self.record("gate", gate)
        return x * (1 + gate)


def _channel_branch(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, channels)
    )


def _position_branch(channels: int, width: int, dilation: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers.append(nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation))
        layers.extend([nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
