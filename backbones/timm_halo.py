"""The halo and bottleneck attention networks of timm (Ross Wightman), on this package's attention.

Timm trained ResNets with halo attention (arXiv 2103.12731) and bottleneck attention (arXiv 2101.11605) in some of their
blocks. Its networks take multiples of their image size at best; these take every size with the same weights.
"""

import re
from types import ModuleType
from typing import Any, Literal, get_args

from torch import Tensor, nn

from attention.base import Mixer, check_choice
from attention.bottleneck import BottleneckAttention
from attention.halo import HaloAttention
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.weights import load_weights

Network = Literal[
    "halonet26t",
    "halonet50ts",
    "sehalonet33ts",
    "eca_halonext26ts",
    "haloregnetz_b",
    "halonet_h1",
    "halo2botnet50ts_256",
    "botnet26t_256",
    "botnet50ts_256",
    "sebotnet33ts_256",
    "eca_botnext26ts_256",
]


class TimmHaloNet(Backbone):
    """A residual network of timm's with halo or bottleneck attention in place of some of its 3x3 convolutions.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32; the network's last 1x1 convolution, where it
    has one, ends stage 4. Images of every size are accepted. At the sizes that timm's networks take, the features are
    theirs; parameters have timm's names, and its weights load.

    Where the last block of queries sticks out of a map, halo attention counts the map as extended by zeros, as timm
    counts the halo around it. Tables of bottleneck attention belong to the grid of a 256 x 256 image: a smaller map
    takes their middle, and on a larger one all offsets beyond a table take its last entry.

    Parameters without classifier: halonet26t 10,431,288, halonet50ts 20,684,280, sehalonet33ts 12,410,712,
    eca_halonext26ts 8,707,885, halo2botnet50ts_256 20,586,360. In halo attention, some entries of timm's tables are of
    offsets that never occur; they get gradients of zero.

    Args:
        network: Timm's name of the network.
        drop_path: Probability of skipping the last block's branch in training; it rises from 0 at the first stage.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train` statistics and affine parameters, `eval` affine parameters only,
            `frozen` nothing.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's default weights of the network, one of its names such as
            `halonet50ts.a1h_in1k`, or the path of a file; see `backbones.load_weights`. None leaves the random
            initialisation.
    """

    def __init__(
        self,
        network: Network = "halonet26t",
        drop_path: float = 0.0,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("network", network, get_args(Network))
        check_choice("norms", norms, get_args(Norms))
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is no probability below 1; give one such as 0.1")
        self.network = network
        self.checkpointing = checkpointing
        self.host = _timm().create_model(network, num_classes=0, drop_path_rate=drop_path)
        self.host.head = nn.Identity()
        for name, module in [*self.host.named_modules()]:
            ours = _ours(module)
            if ours is not None:
                self.host.set_submodule(name, ours)
        self.channels = tuple(stage[-1].conv3_1x1.conv.out_channels for stage in self.host.stages)
        self.channels = (*self.channels[:-1], self.host.num_features)
        self.strides = (4, 8, 16, 32)
        self.classifier_prefixes = (*self.classifier_prefixes, "head.")
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = self.host.stem(x)
        features = []
        for stage in self.host.stages:
            for block in stage:
                x = checkpointed(block, x) if self.checkpointing else block(x)
            features.append(x)
        features[-1] = self.host.final_conv(x)
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the blocks of each stage; a last 1x1 convolution ends the last stage."""
        stages: list[list[nn.Module]] = [[self.host.stem], *(list(stage) for stage in self.host.stages)]
        stages[-1].append(self.host.final_conv)
        return stages

    @property
    def label(self) -> str:
        """Timm's name of the network."""
        return self.network

    def published_weights(self) -> str:
        """Timm's name of the network, which stands for its default weights."""
        return self.network

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Nothing is inserted: the attention is part of timm's network."""
        return ()

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of timm's networks, whole or `features_only`, under our names."""
        converted = {}
        for name, value in state.items():
            name = re.sub(r"^(stem|stages)_", r"\1.", name)
            name = re.sub(r"^(stem|stages|final_conv)\.", r"host.\1.", name)
            converted[re.sub(r"^head\.fc\.", "fc.", name)] = value
        return converted


def _ours(module: Any) -> Mixer | None:
    """Our operator in the place of an attention module of timm's; None for every other module."""
    from timm.layers.bottleneck_attn import BottleneckAttn
    from timm.layers.halo_attn import HaloAttn

    if isinstance(module, HaloAttn):
        averages = not isinstance(module.pool, nn.Identity)
        return HaloAttention(
            module.q.in_channels,
            module.dim_out_v,
            2 if averages else module.block_stride,
            module.num_heads,
            module.block_size,
            module.halo_size,
            key_channels=module.dim_out_qk,
            layout="timm",
            scaling="both" if module.scale_pos_embed else "content",
            subsampling="average" if averages else "queries",
        )
    if isinstance(module, BottleneckAttn):
        return BottleneckAttention(
            module.qkv.in_channels,
            module.dim_out_v,
            1 if isinstance(module.pool, nn.Identity) else 2,
            module.num_heads,
            (module.pos_embed.height, module.pos_embed.width),
            key_channels=module.dim_out_qk,
            scaling="both" if module.scale_pos_embed else "content",
        )
    return None


def _timm() -> ModuleType:
    """Timm, imported when a network is built: it takes a second."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("this network is built by timm, which is not installed; pip install timm") from error
    return timm
