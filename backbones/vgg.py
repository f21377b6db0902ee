"""VGG for small images (Simonyan and Zisserman, arXiv 1409.1556) as the host of "Learn to pay attention".

The network is that of the paper's authors (Jetley et al., ICLR 2018, arXiv 1804.02391): normalised, without VGG's first
two pooling layers, and with two convolutions more at its end.
"""

from collections.abc import Callable
from typing import cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_choice
from attention.learn_to_pay import Aggregation, Compatibility, LearnToPayClassifier, Projection
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.places import Blocks, Refinements, check_stages, places
from backbones.weights import load_weights

# Channels of every convolution by block, and stride of the block's map; pooling layers are where the stride changes.
_BLOCKS = (
    ((64, 64), 1),
    ((128, 128), 1),
    ((256, 256, 256), 1),
    ((512, 512, 512), 2),
    ((512, 512, 512), 4),
    ((512,), 8),
    ((512,), 16),
)
_STAGES = tuple(range(1, len(_BLOCKS) + 1))
_CHANNELS = {1: 256, 2: 512, 4: 512, 8: 512, 16: 512, 32: 512}  # of the finished map of each stride


class VGG(Backbone):
    """VGG of "Learn to pay attention": 15 convolutions, of which the first seven see the image at full resolution.

    Features are the maps in front of the pooling layers, at strides 1 (256 channels), 2, 4, 8 and 16 (512 each), and
    the output of the last pooling layer at stride 32 (512); `out_strides` chooses. Images of every size are accepted:
    pooling layers round up, as the authors' do, and an image of 32 x 32 pixels ends in a single cell.

    Convolutions have biases and are followed by batch normalisation (eps 1e-3) and ReLU. Dropout stands, as in the
    authors' code, behind the first convolution (0.3) and behind all others (0.4) but the last of a block; behind the
    last two convolutions it acts on what is pooled, not on the features.

    A pixel of the image costs 3.7 million multiply-accumulates, of which 1.7 million are in the maps at stride 1; those
    have 256 values per pixel.

    Where operators go is said as in other hosts: its seven stages have 2, 2, 3, 3, 3, 1 and 1 convolutions, which are
    what other hosts have blocks for.

    Parameters without classifier: 19,444,800, plus those of the inserted attention.

    Args:
        attention: Operator behind the ReLU of convolutions, made from the number of channels it refines, or a list with
            one for each of the seven stages; none gives the published network, whose attention is in its classifier,
            `LearnToPayNetwork`.
        attention_stages: Stages that receive attention, numbers from 1 to 7.
        attention_blocks: Convolutions of these stages that do: `every`, the `last`, a number n for every n-th, or a
            list of numbers from 1.
        attention_between: Operator behind the last convolution of stages, and behind its attention, made from their
            channels; what it makes is pooled.
        between_stages: Stages that have one, numbers from 1 to 7; as usual those with a pooling layer between them and
            the next one.
        out_strides: Strides of the features, an ascending choice of 1, 2, 4, 8, 16 and 32 that ends with 16 or 32, so
            that every convolution is in use.
        dropout: Probabilities of dropping a value behind the first convolution and behind the others, below 1.
        frozen_stages: Stages without training: 0 none, 1 the first one, up to 7, everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """

    def __init__(
        self,
        attention: Refinements = None,
        attention_stages: tuple[int, ...] = _STAGES,
        attention_blocks: Blocks = "last",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (3, 4, 5, 6),
        out_strides: tuple[int, ...] = (4, 8, 16, 32),
        dropout: tuple[float, float] = (0.3, 0.4),
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if sorted({*out_strides} & _CHANNELS.keys()) != list(out_strides) or not {16, 32} & {*out_strides[-1:]}:
            raise ValueError(
                f"out_strides={tuple(out_strides)} is no ascending choice of 1, 2, 4, 8, 16, 32 that ends with 16 or "
                "32; give one such as (4, 8, 16, 32)"
            )
        if not all(0 <= probability < 1 for probability in dropout):
            raise ValueError(
                f"dropout={tuple(dropout)} is no pair of probabilities below 1; give one such as (0.3, 0.4)"
            )
        check_choice("norms", norms, get_args(Norms))
        check_stages(_STAGES, between_stages=between_stages)
        self.strides = self.out_strides = tuple(out_strides)
        self.channels = tuple(_CHANNELS[stride] for stride in out_strides)
        self.checkpointing = checkpointing
        self.dropout = nn.Dropout(dropout[1])
        self.blocks = nn.ModuleList()
        before = 3
        for widths, _ in _BLOCKS:
            layers: list[nn.Module] = []
            for channels in widths:
                if layers:
                    layers.append(nn.Dropout(dropout[0 if before == 64 and len(self.blocks) == 0 else 1]))
                layers.append(_layer(before, channels))
                before = channels
            self.blocks.append(nn.Sequential(*layers))
        convolutions = [[layer for layer in stage if isinstance(layer, nn.Sequential)] for stage in self.stages()]
        for layer, refine in places(convolutions, attention, attention_stages, attention_blocks):
            layer.append(refine(cast(nn.Conv2d, layer[0]).out_channels))
        if attention_between is not None:
            for number in between_stages:
                widths, _ = _BLOCKS[number - 1]
                cast(nn.Sequential, self.blocks[number - 1]).append(attention_between(widths[-1]))
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) at `strides`, finest first."""
        maps: dict[int, Tensor] = {}
        at = 1
        for block, (widths, stride) in zip(self.blocks, _BLOCKS, strict=True):
            if stride > self.strides[-1]:
                break
            if stride > at:
                x, at = F.max_pool2d(x, 2, ceil_mode=True), stride
            x = checkpointed(block, x) if self.checkpointing else block(x)
            maps[stride] = x  # of several blocks at a stride the last one's
            if len(widths) == 1:
                x = self.dropout(x)
        if self.strides[-1] == 32:
            maps[32] = F.max_pool2d(x, 2, ceil_mode=True)
        return [maps[stride] for stride in self.out_strides if stride in maps]

    def stages(self) -> list[list[nn.Module]]:
        """The layers of each of the seven blocks; those of the first are the stem."""
        return [list(cast(nn.Sequential, block)) for block in self.blocks]

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """The layers of all blocks behind the last map."""
        last = self.out_strides[maps[-1]]
        late = [stage for stage, (_, stride) in zip(self.stages(), _BLOCKS, strict=True) if stride > last]
        return [module for stage in late for module in stage]


class LearnToPayNetwork(nn.Module):
    """The classification network of "Learn to pay attention" (arXiv 1804.02391) on a backbone.

        g = W dropout(average of the last map) + b                               (B, D)
        scores = LearnToPayClassifier(maps at the tapped strides, g)             (B, K)

    The last map of the published network is a single cell; for larger images it is averaged (assumption A17). Three,
    two and one attended levels (the paper's att3, att2 and att1) are strides (1, 2, 4), (2, 4) and (4,) of `VGG`.

    With parametrised compatibility the weights do not depend on g: the parameters of the backbone behind the last
    tapped map and those that make g have gradients of zero. In the published networks they only decay.

    Parameters with VGG, 100 classes, concat and parametrised: 19,971,751 (att3), 19,813,030 (att2), 19,760,293 (att1).

    Args:
        backbone: Network that supplies the maps.
        num_classes: Number of classes K, at least 1. CIFAR has 10 or 100.
        tapped_strides: Strides of the backbone's maps that are attended to.
        compatibility: Score of a position: `parametrised` (the paper's pc) or `dot_product` (dp).
        aggregation: How levels are joined: `concat`, `independent` (the paper's indep) or `independent_sum` (as in the
            authors' code).
        projection: What is brought to the channels of the other where they differ: `descriptor` or `local`.
        descriptor_channels: Number of channels D of the global descriptor, at least 1.
        dropout: Probability of dropping a value of the averaged map, of the pooled vectors and of projected
            descriptors, below 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 100,
        tapped_strides: tuple[int, ...] = (1, 2, 4),
        compatibility: Compatibility = "parametrised",
        aggregation: Aggregation = "concat",
        projection: Projection = "descriptor",
        descriptor_channels: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} leaves nothing to tell apart; give an integer of at least 1")
        lacking = [stride for stride in tapped_strides if stride not in backbone.strides]
        if lacking:
            raise ValueError(
                f"tapped_strides={tuple(tapped_strides)}: the backbone has maps of strides {backbone.strides}; choose "
                "among these, or build it with others (VGG: out_strides=(1, 2, 4, 32))"
            )
        self.backbone = backbone
        self.taps = [backbone.strides.index(stride) for stride in tapped_strides]
        self.describe = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.channels[-1], descriptor_channels))
        self.attend = LearnToPayClassifier(
            [backbone.channels[tap] for tap in self.taps],
            num_classes,
            descriptor_channels,
            compatibility,
            projection,
            aggregation,
            dropout=dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, K) of images `x` (B, 3, H, W)."""
        features = self.backbone(x)
        descriptor = self.describe(F.adaptive_avg_pool2d(features[-1], 1).flatten(1))
        scores, _ = self.attend([features[tap] for tap in self.taps], descriptor)
        return cast(Tensor, scores)


def _layer(in_channels: int, channels: int) -> nn.Sequential:
    """A convolution with its normalisation and ReLU; weights start normal by their fan-out, as in the authors' code."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(cast(nn.Parameter, conv.bias))
    return nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-3), nn.ReLU(inplace=True))
