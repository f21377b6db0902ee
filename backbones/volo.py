"""VOLO (Yuan et al., arXiv 2106.13112) as a host of attention in place of its outlookers'.

The network is timm's and keeps timm's parameter names. What is written here is its first stage, and the rest of what
dense prediction needs: images of every size, and normalised feature maps.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from attention.base import Mixer, check_at_least, check_choice
from attention.outlook import OutlookAttention
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.weights import load_weights


class _Outlooker(nn.Module):
    """x + A(LN(x)), then x + MLP(LN(x)), with outlook attention or any other operator as A; maps channels last."""

    def __init__(self, channels: int, attention: Mixer, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        hidden = int(channels * mlp_ratio)
        layers = {"fc1": nn.Linear(channels, hidden), "act": nn.GELU(), "fc2": nn.Linear(hidden, channels)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.mlp.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map (B, H, W, C)."""
        x = x + self.attn(self.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Merging(nn.Module):
    """Non-overlapping 2x2 convolution, then the position embedding, interpolated to the map; maps channels last."""

    position_tables = ("pos_embed",)

    def __init__(self, proj: nn.Module, pos_embed: nn.Parameter) -> None:
        super().__init__()
        self.proj = proj
        self.pos_embed = pos_embed  # (1, rows, columns, C)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C')."""
        x = self.proj(_filled_up(x.permute(0, 3, 1, 2), 2))
        embedding = self.pos_embed.permute(0, 3, 1, 2)
        positions = F.interpolate(embedding, x.shape[2:], mode="bicubic", align_corners=False)  # itself at its own size
        return (x + positions).permute(0, 2, 3, 1)


class VOLO(Backbone):
    """Vision Outlooker, or the same network with another operator in place of outlook attention.

    Features are the output of the first stage at stride 8 and that of the last transformer stage at stride 16; VOLO has
    no others. Images of every size are accepted: maps are filled up with zeros before each strided convolution, and the
    position embedding is interpolated bicubically.

    Each block of the first stage is x + A(LN(x)) followed by x + MLP(LN(x)), where A is outlook attention of 3 x 3
    cells around every second position. A `mixer` takes its place.

    The class token and its attention belong to the classifier, `VOLOClassifier`; dense prediction does without. With
    them the networks have 26,632,040 (D1), 58,678,336 (D2), 86,325,072 (D3), 192,961,520 (D4) and 295,455,584 (D5)
    parameters.

    The weights of a VOLO of timm or of its authors load, with a mixer as initialised. In training, `pos_embed` is
    published without weight decay.

    Args:
        depths: Number of blocks: of outlookers at stride 8, and of three transformer stages at stride 16.
        embed_channels: Number of channels at stride 8 and at stride 16.
        heads: Number of heads at stride 8 and at stride 16.
        mlp_ratio: Hidden channels of the MLPs per channel.
        stem_channels: Number of channels of the stem's convolutions.
        mixer: Operator instead of outlook attention, made from (channels, channels, stride 1); none keeps the latter.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last transformer block's branches in training; it rises linearly over all
            blocks, but VOLO does not skip those of the first stage.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5,
            everything.
        norms: What the stem's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing.
        checkpointing: Whether blocks compute their intermediate results again in the backward pass to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (4, 4, 8, 2),
        embed_channels: tuple[int, int] = (192, 384),
        heads: tuple[int, int] = (6, 12),
        mlp_ratio: float = 3.0,
        stem_channels: int = 64,
        mixer: Callable[[int, int, int], Mixer] | None = None,
        out_norms: bool = True,
        drop_path: float = 0.1,
        image_size: int = 224,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, depths=min(depths), stem_channels=stem_channels)
        check_at_least(16, image_size=image_size)
        check_choice("norms", norms, get_args(Norms))
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is no probability below 1; give one such as 0.1")
        self.channels = tuple(embed_channels)
        self.strides = (8, 16)
        self.heads, self.mlp_ratio, self.checkpointing = heads[1], mlp_ratio, checkpointing
        local, *transformers = depths
        host = _timm_volo().VOLO(
            [1, *transformers],  # its outlooker is replaced below, so that mixers and all sizes of images fit
            image_size,
            num_classes=0,
            stem_hidden_dim=stem_channels,
            embed_dims=[embed_channels[0], *[embed_channels[1]] * 3],
            num_heads=[heads[0], *[heads[1]] * 3],
            mlp_ratio=mlp_ratio,
            post_layers=None,
        )
        self.patch_embed = nn.ModuleDict({"conv": host.patch_embed.conv, "proj": host.patch_embed.proj})
        self.network = nn.ModuleList(host.network)
        fine, self.mixed = embed_channels[0], mixer is not None
        make: Callable[[int, int, int], Mixer] = mixer or partial(OutlookAttention, heads=heads[0])
        self.network[0] = nn.Sequential(*(_Outlooker(fine, make(fine, fine, 1), mlp_ratio) for _ in range(local)))
        self.network[1] = _Merging(host.network[1].proj, host.pos_embed)
        transformer_blocks = (block for stage in self.network[2:] for block in stage.children())
        for index, block in enumerate(transformer_blocks, start=local):
            rate = drop_path * index / (sum(depths) - 1)
            block.drop_path1, block.drop_path2 = StochasticDepth(rate, "row"), StochasticDepth(rate, "row")
        self.out_norms = out_norms
        if out_norms:
            self.norm0, self.norm1 = map(nn.LayerNorm, self.channels)
        self.classifier_prefixes = (
            *self.classifier_prefixes,
            *("head.", "aux_head.", "norm.", "cls_token", "post_network."),
        )
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of `x` (B, 3, H, W) at strides 8 and 16."""
        x = self.patch_embed["proj"](_filled_up(self.patch_embed["conv"](x), 4))
        local, merging, *transformers = self.network
        fine = self._through(local, x.permute(0, 2, 3, 1))
        coarse = merging(fine)
        for stage in transformers:
            coarse = self._through(stage, coarse)
        if self.out_norms:
            fine, coarse = self.norm0(fine), self.norm1(coarse)
        return [fine.permute(0, 3, 1, 2), coarse.permute(0, 3, 1, 2)]

    def stages(self) -> list[list[nn.Module]]:
        """The stem; the blocks at stride 8; the merging and the blocks of the three transformer stages."""
        local, first, second, third = (list(self.network[index].children()) for index in (0, 2, 3, 4))
        stages: list[list[nn.Module]] = [[self.patch_embed], local, [self.network[1], *first], second, third]
        if self.out_norms:
            local.append(self.norm0)
            third.append(self.norm1)
        return stages

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """Everything at stride 16, or the normalisation of the map at stride 8."""
        if maps == (0,):
            return [module for stage in self.stages()[2:] for module in stage]
        return [self.norm0] if self.out_norms else []

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names that weights of VOLO lack: mixers, and normalisations of feature maps."""
        mixers = super().inserted_prefixes() if self.mixed else ()
        return (*mixers, *(("norm0.", "norm1.") if self.out_norms else ()))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of a VOLO of timm or of its authors under our names."""
        names = {"pos_embed": "network.1.pos_embed", "head.weight": "fc.weight", "head.bias": "fc.bias"}
        return {names.get(name, name): value for name, value in state.items()}

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """The position embedding for images of another size."""
        if not name.endswith("pos_embed") or value.dim() != 4 or value.shape[3] != shape[3]:
            return None
        grid = value.permute(0, 3, 1, 2).float()
        resized = F.interpolate(grid, shape[1:3], mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1).to(value.dtype).contiguous()

    def _through(self, stage: nn.Module, x: Tensor) -> Tensor:
        for block in stage.children():
            x = checkpointed(block, x) if self.checkpointing else block(x)
        return x


class VOLOClassifier(nn.Module):
    """VOLO's classification head: a class token that attends to the last map twice, and a score of every cell.

    The scores are those of the class token plus half the largest of the cells, which token labelling trains. Weights of
    the parts behind the backbone have timm's names, but for the class token's linear layer, `fc`.

    Args:
        backbone: Network that supplies the features, without output normalisations; only its last map is used.
        num_classes: Number of classes K, at least 1.
    """

    def __init__(self, backbone: VOLO, num_classes: int = 1000) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} leaves nothing to tell apart; give an integer of at least 1")
        channels = backbone.channels[-1]
        block = _timm_volo().ClassBlock
        self.backbone = backbone
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, channels), std=0.02))
        self.post_network = nn.ModuleList(
            block(channels, backbone.heads, mlp_ratio=backbone.mlp_ratio) for _ in range(2)
        )
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.aux_head = nn.Linear(channels, num_classes)
        for module in (self.post_network, self.fc, self.aux_head):
            module.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, K) of images `x` (B, 3, H, W)."""
        tokens = self.backbone(x)[-1].flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.post_network:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        scores: Tensor = self.fc(tokens[:, 0]) + 0.5 * self.aux_head(tokens[:, 1:]).amax(1)
        return scores


def _timm_volo() -> ModuleType:
    """Timm's module of VOLO, imported when a network is built: nothing else here needs timm."""
    try:
        from timm.models import volo
    except ImportError as error:
        raise ImportError("VOLO is built on that of timm, which is not installed; pip install timm") from error
    return volo


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """A map (B, C, H, W) with zeros below and right up to multiples of a number of cells."""
    below, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, below)) if torch.compiler.is_exporting() or below or right else x
