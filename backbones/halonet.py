"""HaloNet (Vaswani et al., CVPR 2021, arXiv 2103.12731): residual networks whose spatial operator is halo attention.

The authors released no code; the network is read from the paper's text and tables, and confirmed by the parameters that
they print.
"""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from attention.base import Mixer, Refine, check_at_least, check_choice
from attention.halo import HaloAttention, Positions
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.places import STAGES, Blocks, Refinements, check_stages, place_between, places
from backbones.weights import load_weights

Activation = Literal["silu", "relu"]

_ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


class _Block(nn.Module):
    """A bottleneck: 1x1 convolution, halo attention or 3x3 convolution, 1x1 convolution, and a shortcut around them.

    `HaloNet` sets `attention`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        spatial: nn.Module,
        spatial_channels: int,
        stride: int,
        projects: bool,
        drop_path: float,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.activate = _ACTIVATIONS[activation]
        self.conv1 = _convolution(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = spatial
        self.bn2 = nn.BatchNorm2d(spatial_channels)
        self.conv3 = _convolution(spatial_channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.bn3.weight, 0.02)
        self.attention: nn.Module = nn.Identity()
        self.stochastic_depth = StochasticDepth(drop_path, "row")
        self.downsample = None
        if projects:
            self.downsample = nn.Sequential(
                _convolution(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        branch = self.activate(self.bn1(self.conv1(x)))
        branch = self.activate(self.bn2(self.conv2(branch)))
        branch = self.stochastic_depth(self.attention(self.bn3(self.conv3(branch))))
        return self.activate(branch + (x if self.downsample is None else self.downsample(x)))


class HaloNet(Backbone):
    """HaloNet: a residual network of bottlenecks with halo attention in place of every 3x3 convolution.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32, with r_b w, 2 r_b w, 4 r_b w and 8 r_b w
    channels. Images of every size are accepted: attention masks what is outside its map, so that nothing depends on how
    a map is cut into blocks at its end. The paper does not say how its networks treat borders (assumption A7).

    A stage of width d (w, 2 w, 4 w, 8 w) consists of blocks

        x -> f(BN(W_3 f(BN(A(f(BN(W_1 x)))))) + P(x))       W_1: d, A: r_v d, W_3: r_b d channels; f = SiLU

    with halo attention A of d query and key channels, which also makes the stride of the stage's first block by fewer
    queries. P is a 1x1 convolution with normalisation in the first block of a stage, the identity elsewhere and where
    stage 1 keeps the stem's channels. The stem is that of ResNets, with w channels. Stage 4 may end in a 1x1
    convolution with normalisation and activation.

    In stages with convolutions ("hybrids"), a 3x3 convolution of d channels is in the place of A, whatever r_v.

    Blocks start close to their shortcuts: the weights of their last normalisation start at 0.02 (at 0 in Goyal et
    al., arXiv 1706.02677, which leaves the branches without gradient in the first step). The paper is silent on it.
    From 1, gradients grow from block to block until the large networks learn nothing: at the start attention is an
    average, and the normalisation behind it enlarges what little variance a small map has left.

    The paper names squeeze and excitation in its hybrids and detectors, but no place for it; here every refinement is
    at the end of the residual branch.

    Parameters without classifier (H1, the defaults): 7,568,288.

    Args:
        block: Side of a block of queries in cells, at least 1.
        halo: Cells around a block that its queries see as well, at least 0.
        value_ratio: Value channels per width d of the stage, r_v.
        bottleneck_ratio: Output channels of a block per width d of the stage, r_b.
        depths: Number of blocks of each stage.
        heads: Number of heads of each stage; a divisor of half its width, and of its value channels.
        width: Width w of stage 1 and channels of the stem; later stages have 2, 4 and 8 times as many.
        final_channels: Channels of a 1x1 convolution behind stage 4; none leaves it out. The last feature map then has
            this number of channels.
        conv_stages: Stages that have 3x3 convolutions in place of the attention, numbers from 1 to 4.
        attention: Operator at the end of residual branches, made from their number of channels, or a list with one for
            each of the four stages; none leaves them as published.
        attention_stages: Stages that receive `attention`, numbers from 1 to 4.
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        activation: The function f: `silu` (H0 to H7), or `relu` as in the paper's ResNet-50 comparison.
        drop_path: Probability of skipping the last block's branch in training; it rises linearly from 0 at the first
            block.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file, see `backbones.load_weights`; tables of another block or halo
            are interpolated. None leaves the random initialisation; the authors published no weights.
        positions: What attention knows of places: `relative` tables (the paper), `absolute` sines, or `none`.
    """

    def __init__(
        self,
        block: int = 8,
        halo: int = 3,
        value_ratio: float = 1.0,
        bottleneck_ratio: float = 1.0,
        depths: tuple[int, int, int, int] = (3, 3, 10, 3),
        heads: tuple[int, int, int, int] = (4, 8, 8, 8),
        width: int = 64,
        final_channels: int | None = None,
        conv_stages: tuple[int, ...] = (),
        attention: Refinements = None,
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        activation: Activation = "silu",
        drop_path: float = 0.0,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
        positions: Positions = "relative",
    ) -> None:
        super().__init__()
        check_at_least(1, width=width, depths=min(depths), heads=min(heads))
        check_choice("norms", norms, get_args(Norms))
        check_choice("activation", activation, get_args(Activation))
        for name, ratio in (("value_ratio", value_ratio), ("bottleneck_ratio", bottleneck_ratio)):
            if ratio <= 0 or ratio * width % 1:
                raise ValueError(
                    f"{name}={ratio} gives {ratio * width:g} channels of width={width}; give e.g. {name}=1.0"
                )
        check_stages(conv_stages=conv_stages)
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is no probability below 1; give one such as 0.1")
        if final_channels is not None:
            check_at_least(1, final_channels=final_channels)
        self.checkpointing = checkpointing
        self.activate = _ACTIVATIONS[activation]
        self.conv1 = _convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)

        channels = [int(bottleneck_ratio * width) * 2**index for index in range(4)]
        in_channels, number, last = width, 0, max(1, sum(depths) - 1)
        stages: list[list[_Block]] = []
        for index, (depth, out_channels) in enumerate(zip(depths, channels, strict=True)):
            d = width * 2**index
            blocks: list[_Block] = []
            for position in range(depth):
                stride = 2 if index and position == 0 else 1
                if index + 1 in conv_stages:
                    mixed_channels = d
                    spatial: nn.Module = _convolution(d, d, 3, stride)
                else:
                    mixed_channels = int(value_ratio * width) * 2**index
                    spatial = HaloAttention(d, mixed_channels, stride, heads[index], block, halo, positions=positions)
                blocks.append(
                    _Block(
                        in_channels,
                        d,
                        out_channels,
                        spatial,
                        mixed_channels,
                        stride,
                        position == 0 and (stride > 1 or in_channels != out_channels),
                        drop_path * number / last,
                        activation,
                    )
                )
                in_channels, number = out_channels, number + 1
            stages.append(blocks)
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in stages)
        for bottleneck, refine in places(stages, attention, attention_stages, attention_blocks):
            bottleneck.attention = refine(bottleneck.bn3.num_features)
        place_between([stage[-1] for stage in stages], channels, attention_between, between_stages)
        self.final_conv = None
        if final_channels is not None:
            self.final_conv = nn.Sequential(_convolution(in_channels, final_channels), nn.BatchNorm2d(final_channels))
            channels[-1] = final_channels
        self.channels = tuple(channels)
        self.strides = (4, 8, 16, 32)
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = F.max_pool2d(self.activate(self.bn1(self.conv1(x))), 3, 2, 1)  # (B, w, ceil(H / 4), ceil(W / 4))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = checkpointed(block, x) if self.checkpointing else block(x)
            features.append(x)
        if isinstance(self.final_conv, nn.Sequential):
            features[-1] = self.activate(self.final_conv(x))
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the blocks of each stage; a last 1x1 convolution ends the last stage."""
        stages = [list(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        if self.final_conv is not None:
            stages[-1].append(self.final_conv)
        return [[self.conv1, self.bn1], *stages]

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names of refinements; halo attention belongs to the published network."""
        mixers = {f"{name}." for name, module in self.named_modules() if isinstance(module, Mixer)}
        return tuple(prefix for prefix in super().inserted_prefixes() if prefix not in mixers)

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Tables of relative positions for another block or halo, interpolated linearly end to end, as the paper does.

        Both have an odd number of entries, so that the vector of distance zero stays what it is.
        """
        if ".pos_embed." not in name or value.dim() != 2 or value.shape[1] != shape[1]:
            return None
        table = F.interpolate(value.T.unsqueeze(0).float(), shape[0], mode="linear", align_corners=True)
        return table[0].T.to(value.dtype).contiguous()


def _convolution(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size up to its stride."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
