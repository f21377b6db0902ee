"""Selective kernels (Li et al., CVPR 2019, arXiv 1903.06586)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least
from attention.pooling import global_mean


class SelectiveKernel(Mixer):
    """Convolutions of different reach, weighted against each other for every channel.

        U_k = relu(BN(conv_{3 x 3, dilation k}(x))),   k = 1 .. M                   (B, C, H', W')
        z = relu(BN(W sum_k mean_{H',W'} U_k))                                      (B, d, 1, 1)
        y = sum_k a_k * U_k,   a = softmax_k(V_k z)                                 a_k: (B, C, 1, 1)

    arXiv 1903.06586, section 3.1; C is the number of output channels and d = max(floor(C / reduction), min_channels).
    Dilated 3 x 3 kernels stand for 5 x 5, 7 x 7, ... as in the paper. Following the authors' released networks, neither
    fully connected layer has a bias and the first has a batch normalisation (assumption A22). Borders are padded with
    zeros by the dilation, so that strides keep every first row and column.

    In training the batch normalisation behind the pooling sees one value per sample and channel: a batch of one raises
    PyTorch's error. Train with two or more samples per process, or freeze that normalisation (`operator.bn.eval()`).

    Parameters: M (9 C_in C / G + 2 C) + C d + 2 d + M C d for G groups, without selection the bracket alone. Cost: 9 M
    C_in C H' W' / G multiply-accumulates in the paths and (M + 1) C d for the weights; each path's map is read once for
    the pooling and once for the sum.

    Place: for the 3 x 3 convolution of a bottleneck together with its normalisation and activation; the 1 x 1
    convolution follows directly.

    Convolutions start normally distributed with variance 2 / fan-in, V with standard deviation 0.01, so that all paths
    first count alike; batch normalisation has momentum 0.05 (all as released).

    Args:
        in_channels: Number of channels C_in of the input map, a multiple of `groups`.
        out_channels: Number of channels C of the output map, a multiple of `groups`.
        stride: Subsampling factor of all paths, at least 1.
        paths: Number M of paths, at least 1; path k has dilation k. The paper takes 2 and compares with 3.
        groups: Groups G of every path's convolution, at least 1. The paper takes 32.
        reduction: Divisor r of the hidden width d, at least 1. The paper takes 16.
        min_channels: Lower bound L of the hidden width d, at least 1. The paper takes 32.
        dilations: Dilations of the paths instead of 1 to M, such as 1 and 3 for kernels of 3 and 7; `paths` then says
            how many there are.
        selection: Whether paths are weighted; without, their maps are added (the paper's table 7).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        paths: int = 2,
        groups: int = 32,
        reduction: int = 16,
        min_channels: int = 32,
        dilations: tuple[int, ...] | None = None,
        selection: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, paths=paths, groups=groups, reduction=reduction, min_channels=min_channels)
        if dilations is None:
            dilations = tuple(range(1, paths + 1))
        if len(dilations) != paths or min(dilations) < 1:
            raise ValueError(f"dilations={tuple(dilations)} does not fit paths={paths}; give {paths} numbers from 1 on")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} does not divide in_channels={in_channels} and out_channels={out_channels}; "
                "give a common divisor of both"
            )
        width = max(out_channels // reduction, min_channels)
        self.paths = nn.ModuleList(_Path(in_channels, out_channels, stride, dilation, groups) for dilation in dilations)
        self.selection = selection
        if not selection:
            return
        self.fc_reduce = nn.Conv2d(out_channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, momentum=0.05)
        self.fc_select = nn.Conv2d(width, paths * out_channels, 1, bias=False)  # rows: path by path, as released
        nn.init.kaiming_normal_(self.fc_reduce.weight, nonlinearity="relu")
        nn.init.normal_(self.fc_select.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C, ceil(H / stride), ceil(W / stride))."""
        maps = [path(x) for path in self.paths]
        if not self.selection:
            return torch.stack(maps).sum(0) if len(maps) > 1 else maps[0]
        gates = self._gates(maps)
        selected = maps[0] * gates[0]
        for each, gate in zip(maps[1:], gates[1:], strict=True):
            selected = torch.addcmul(selected, each, gate)
        return selected

    def _gates(self, maps: list[Tensor]) -> list[Tensor]:
        """Weight of every channel of every path's map (B, C, H', W'), each as (B, C, 1, 1)."""
        squeezed = global_mean(maps[0])
        for each in maps[1:]:
            squeezed = squeezed + global_mean(each)  # the mean of the sum, without the sum
        scores = self.fc_select(F.relu(self.bn(self.fc_reduce(squeezed))))
        scores = scores.unflatten(1, (len(maps), self.out_channels))  # (B, M, C, 1, 1)
        weights = scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))
        gates = list(weights.to(maps[0].dtype).unbind(1))
        if self.recording:
            for index, gate in enumerate(gates):
                self.record(f"path{index}", gate)
        return gates


class _Path(nn.Module):
    """A 3 x 3 convolution, its normalisation and activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, momentum=0.05)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)
