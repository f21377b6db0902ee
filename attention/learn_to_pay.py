"""Learn to pay attention (Jetley et al., ICLR 2018, arXiv 1804.02391)."""

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Operator, check_at_least, check_choice
from attention.functional.logits import precise_logits

Compatibility = Literal["parametrised", "dot_product"]
Projection = Literal["descriptor", "local"]
Aggregation = Literal["concat", "independent", "independent_sum"]


class LearnToPayAttention(Operator):
    """A feature map pooled by its compatibility with a descriptor of the whole image.

        c = <u, l + g> + b   or   <l, g>                at every position: (B, 1, H, W)
        a = softmax_{H,W} c,   y = sum_{H,W} a * l      (B, 1, H, W) and (B, C)

    arXiv 1804.02391, section 3, for one level l (B, C, H, W) and the global descriptor g (B, D). Where C and D differ,
    the authors' code brings g down to C channels by a batch normalisation, ReLU, dropout and a linear layer, which is
    the default. The text of the paper maps l to D channels instead; as in the most used re-implementation, the mapped l
    is then also what is pooled, to a vector of D channels (`projection="local"`, assumption A15).

    The parametrised weights do not depend on g: <u, l + g> = <u, l> + <u, g>, the second part is the same everywhere
    and cancels in the softmax, as b does. It is computed all the same, as in every implementation, so that each
    parameter has a gradient, which is zero, in distributed training; the dot product does depend on g. With zero u, or
    zero g for the dot product, y is the mean of l. Scores and softmax are computed in float32 or better: sums over
    hundreds of channels leave the range of float16. Compilation and export need no care: there is no padding and no
    fixed size.

    Parameters: C + 1 for the parametrised form, none for the dot product; where C != D, 2 D + D C + C for the
    descriptor or C D for the local projection. Cost: 2 C H W multiply-accumulates, two passes over the map.

    Place: at a tap in front of a pooling layer of the backbone; `LearnToPayClassifier` joins several levels.

    Args:
        channels: Number of channels C of the level's map, at least 1.
        descriptor_channels: Number of channels D of the global descriptor, at least 1. The paper takes 512.
        compatibility: Score of a position: `parametrised` by a learned u (the paper's pc), or `dot_product` (dp).
        projection: What is brought to the channels of the other where they differ: `descriptor` or `local`.
        dropout: Probability of dropping a channel of the descriptor ahead of its projection, from 0 to below 1.
        bias: Whether the parametrised score has the bias b of the authors' code.
    """

    def __init__(
        self,
        channels: int,
        descriptor_channels: int = 512,
        compatibility: Compatibility = "parametrised",
        projection: Projection = "descriptor",
        dropout: float = 0.5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(1, channels=channels, descriptor_channels=descriptor_channels)
        check_choice("compatibility", compatibility, get_args(Compatibility))
        check_choice("projection", projection, get_args(Projection))
        _check_probability(dropout)
        self.compatibility: Compatibility = compatibility
        self.out_channels = channels
        self.project_descriptor: nn.Module = nn.Identity()
        self.project_local: nn.Module = nn.Identity()
        if channels != descriptor_channels and projection == "descriptor":
            self.project_descriptor = _normalised(descriptor_channels, dropout)
            self.project_descriptor.append(nn.Linear(descriptor_channels, channels))
        elif channels != descriptor_channels:
            self.project_local = nn.Conv2d(channels, descriptor_channels, 1, bias=False)
            self.out_channels = descriptor_channels
        if compatibility == "parametrised":
            self.score = nn.Linear(self.out_channels, 1, bias=bias)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        """Vector (B, C) that the map `x` (B, C, H, W) is pooled to under the `descriptor` (B, D)."""
        return self.attend(x, descriptor)[0]

    def attend(self, x: Tensor, descriptor: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vector (B, C), and the weights (B, 1, H, W) that it was pooled with."""
        height, width = x.shape[2:]
        local = self.project_local(x).flatten(2)  # (B, C, N)
        descriptor = self.project_descriptor(descriptor)
        if self.compatibility == "parametrised":
            towards = self.score.weight.expand(len(local), 1, -1)  # (B, 1, C)
            scores = precise_logits(towards, local.transpose(1, 2)) + precise_logits(towards, descriptor.unsqueeze(1))
            if self.score.bias is not None:
                scores = scores + self.score.bias  # (B, 1, N)
        else:
            scores = precise_logits(descriptor.unsqueeze(1), local.transpose(1, 2))
        weights = scores.softmax(2).to(local.dtype)
        attended = (local @ weights.transpose(1, 2)).squeeze(2)
        weights = weights.unflatten(2, (height, width))
        if self.recording:
            rows, columns = (torch.arange(size, device=x.device).unsqueeze(0) for size in (height, width))
            self.record("position", weights[:, :, None, None], rows, columns)
        return attended, weights


class LearnToPayClassifier(nn.Module):
    """Classes predicted from the attended levels of a backbone alone.

        y_s = LearnToPayAttention(l_s, g)                                   (B, C_s) for every level s
        v_s = dropout(relu(BN(y_s)))
        concat: logits = W [v_1 .. v_S] + b;    independent: log mean_s softmax(W_s v_s + b_s)

    arXiv 1804.02391, section 3: the descriptor g only guides the attention and is not classified itself. Levels that
    vote independently have their class probabilities averaged in the paper; the result is given as log-probabilities,
    which cross-entropy takes as they are. The authors' code adds instead logits (three levels) or log-probabilities
    (two levels), which differ by a constant per sample: `independent_sum`, as logits (assumption A16). The
    normalisation, ReLU and dropout of the pooled vectors are those of the code.

    Parameters: those of the levels, 2 sum C_s for the normalisation, and K sum C_s + K for K classes (S K biases for
    independent levels). Cost: that of the levels and K sum C_s multiply-accumulates.

    Place: at the end of a classification backbone, fed with its last maps ahead of the pooling layers.

    Args:
        channels: Numbers of channels C_s of the levels' maps, at least one level.
        classes: Number K of classes, at least 1.
        descriptor_channels: Number of channels D of the global descriptor, at least 1. The paper takes 512.
        compatibility: Score of a position: `parametrised` or `dot_product`.
        projection: What is brought to the channels of the other where they differ: `descriptor` or `local`.
        aggregation: How levels are joined: `concat`, `independent` (the paper) or `independent_sum` (its code).
        normalise: Whether pooled vectors pass batch normalisation, ReLU and dropout, as in the authors' code.
        dropout: Probability of dropping a channel, for pooled vectors and projected descriptors, from 0 to below 1.
        bias: Whether the parametrised score has a bias.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        descriptor_channels: int = 512,
        compatibility: Compatibility = "parametrised",
        projection: Projection = "descriptor",
        aggregation: Aggregation = "concat",
        normalise: bool = True,
        dropout: float = 0.5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(1, classes=classes, levels=len(channels))
        check_choice("aggregation", aggregation, get_args(Aggregation))
        _check_probability(dropout)
        self.aggregation: Aggregation = aggregation
        levels = [
            LearnToPayAttention(width, descriptor_channels, compatibility, projection, dropout, bias)
            for width in channels
        ]
        widths = [level.out_channels for level in levels]
        self.levels = nn.ModuleList(levels)
        self.normalise = nn.ModuleList(_normalised(width, dropout) if normalise else nn.Identity() for width in widths)
        joined = [sum(widths)] if aggregation == "concat" else widths
        self.classify = nn.ModuleList(nn.Linear(width, classes) for width in joined)

    def forward(self, maps: Sequence[Tensor], descriptor: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K) and every level's weights (B, 1, H_s, W_s).

        Args:
            maps: Map (B, C_s, H_s, W_s) of every level.
            descriptor: Global descriptor (B, D).

        Raises:
            ValueError: There are more or fewer maps than levels.
        """
        if len(maps) != len(self.levels):
            raise ValueError(f"{len(maps)} maps do not make {len(self.levels)} levels; give one map for every level")
        levels = cast("list[LearnToPayAttention]", list(self.levels))
        attended = [level.attend(each, descriptor) for level, each in zip(levels, maps, strict=True)]
        vectors = [layer(vector) for layer, (vector, _) in zip(self.normalise, attended, strict=True)]
        if self.aggregation == "concat":
            logits = self.classify[0](torch.cat(vectors, 1))
        else:
            votes = torch.stack([layer(each) for layer, each in zip(self.classify, vectors, strict=True)])  # (S, B, K)
            if self.aggregation == "independent":
                logits = F.log_softmax(votes, 2).logsumexp(0) - math.log(len(votes))
            else:
                logits = votes.sum(0)
        return logits, [weights for _, weights in attended]


def _normalised(channels: int, dropout: float) -> nn.Sequential:
    """What the authors' code puts ahead of linear layers."""
    return nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(dropout))


def _check_probability(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is no probability below 1; give a number from 0 to below 1, such as 0.5")
