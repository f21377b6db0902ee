"""GE, gather-excite (Hu et al., NeurIPS 2018, arXiv 1810.12348)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels, check_at_least, check_choice
from attention.pooling import gated, global_mean, mean

Gather = Literal["average", "convolution"]


class GatherExcite(Refine):
    """Channels weighted around every position by what they hold in a neighbourhood of it.

        g = sigmoid(E(G(x)))            (B, C, h, w) with h = ceil(H / e), w = ceil(W / e); global extent: h = w = 1
        y_ij = x_ij * g_kl              nearest neighbour: k = floor(i h / H), l = floor(j w / W)

    arXiv 1810.12348, section 3. The gather operator G either averages windows of 2 e - 1 cells a side in steps of e
    (GE-theta^-), or chains log2(e) depth-wise 3x3 convolutions of stride 2, each with a batch normalisation and with a
    ReLU between two of them (GE-theta). The excite operator E is the identity or, with `mlp`, W2 relu(W1 . + b1) + b2
    with m = floor(C / reduction) hidden channels; convolutions with it are GE-theta^+, the global average with it is
    SqueezeExcitation. Behind convolutions the MLP reads their ReLU, as in the authors' network files; timm leaves it
    out. Windows average cells of the map only (assumption A35).

    A global extent with convolutions is one depth-wise kernel of the size of the map. On maps of another size it is
    resampled bilinearly and multiplied by h0 w0 / (H W) (assumption A36).

    It compiles and exports: poolings, convolutions, an interpolation and a product. In training a map with one cell of
    G needs two images, as any batch normalisation does.

    Parameters: averages none; convolutions 11 C log2(e), of global extent C (h0 w0 + 2) for a kernel of h0 x w0; the
    MLP 2 C m + m + C. Cost: averages one pass, convolutions less than 3 C H W multiply-accumulates (global: C H W), the
    MLP 2 C m h w; memory of a gate for the map and of the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Kernels start normally distributed with variance 2 / k^2, the MLP with deviation 0.01 and biases at zero, as in the
    authors' files.

    Args:
        channels: Number of channels C of the map, at least 1.
        extent: Extent ratio e of the gather operator, a power of two from 2 on, such as 2, 4 or 8; none is global, the
            best in the paper.
        gather: Gather operator: `average` (theta^-) or `convolution` (theta, and theta^+ with `mlp`).
        mlp: Whether 1x1 convolutions with a bottleneck stand between gather operator and gate.
        reduction: Divisor r of the MLP's hidden width m = floor(C / r), from 1 to C. The paper takes 16.
        size: Rows and columns (h0, w0) of the kernel of a global extent with convolutions, which needs them: those of
            most maps. Otherwise none.
    """

    def __init__(
        self,
        channels: int,
        extent: int | None = None,
        gather: Gather = "average",
        mlp: bool = False,
        reduction: int = 16,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(channels)
        check_choice("gather", gather, get_args(Gather))
        if extent is not None and (extent < 2 or extent & (extent - 1)):
            raise ValueError(f"extent={extent} is not a power of two from 2 on; give 2, 4, 8 or none for the whole map")
        if (size is not None) != (extent is None and gather == "convolution"):
            raise ValueError(
                f"size={size} does not go with extent={extent} and gather={gather!r}; "
                "give the size of the map to a global convolution and none otherwise"
            )
        self.extent = extent
        self.gather: Gather = gather
        self.kernel: nn.Conv2d | None = None  # of a global extent
        layers: list[nn.Module] = []
        if size is not None:
            check_at_least(1, rows=size[0], columns=size[1])
            self.kernel = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
            layers.append(nn.BatchNorm2d(channels))
        elif extent is not None and gather == "convolution":
            for _ in range(extent.bit_length() - 1):  # log2(e)
                layers.append(nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False))
                layers.extend([nn.BatchNorm2d(channels), nn.ReLU(inplace=True)])
            layers.pop()
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.mlp: nn.Sequential | None = None
        if mlp:
            width = bottleneck_channels(channels, reduction)
            fc1, fc2 = nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1)
            for layer in (fc1, fc2):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            before = [nn.ReLU(inplace=True)] if gather == "convolution" else []
            self.mlp = nn.Sequential(*before, fc1, nn.ReLU(inplace=True), fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W) around every position."""
        gathered = self._gathered(x)
        weights = torch.sigmoid(gathered if self.mlp is None else self.mlp(gathered))  # (B, C, h, w)
        if self.extent is not None:
            weights = F.interpolate(weights, x.shape[2:], mode="nearest")
        if self.recording:
            self.record("gate", weights)
        return gated(x, weights)

    def _gathered(self, x: Tensor) -> Tensor:
        """What G makes of `x` (B, C, H, W), as (B, C, h, w)."""
        if self.kernel is not None:
            weight = self.kernel.weight  # (C, 1, h0, w0)
            resampled = F.interpolate(weight.transpose(0, 1), x.shape[2:], mode="bilinear")
            x = mean(x * resampled, 2, 3) * (weight.shape[2] * weight.shape[3])
        elif self.gather == "average":
            if self.extent is None:
                return global_mean(x)
            reach = self.extent - 1
            return F.avg_pool2d(x, 2 * reach + 1, self.extent, reach, count_include_pad=False)
        gathered: Tensor = self.layers(x)
        return gathered
