"""The encoder that relates self-attention to convolutions (Cordonnier et al., ICLR 2020, arXiv 1911.03584)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least
from attention.quadratic import QuadraticSelfAttention
from backbones.base import Backbone
from backbones.checkpointing import checkpointed
from backbones.weights import load_weights

_PATCH = 2


class _Layer(nn.Module):
    """LN(x + W A(x)), then LN(x + MLP(x)): an encoder layer normalised behind its additions; maps channels last."""

    def __init__(
        self, channels: int, hidden_channels: int, mixer: Callable[[int, int, int], Mixer], dropout: float
    ) -> None:
        super().__init__()
        self.mixer = mixer(channels, channels, 1)
        self.project = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-12)
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.project, self.fc1, self.fc2):
            _initialise(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map (B, H, W, C)."""
        mixed = self.mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.norm1(x + self.dropout(self.project(mixed)))
        out: Tensor = self.norm2(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return out


class AttentionCNN(Backbone):
    """An encoder of BERT's kind over 2 x 2 blocks of pixels, whose attention stands where a network has convolutions.

    There is one feature, the output of the last layer at stride 2, with `channels` channels in the memory format
    channels_last. Images of every size are accepted, odd ones filled up with a row or column of zeros.

    Each block of pixels is one position of 12 numbers, brought to C channels by a linear layer. Every layer is LN(x +
    dropout(W A(x) + b)), then LN(x + dropout(MLP(x))) with GELU, A being the `mixer`. The paper has 6 layers, 400
    channels, 9 heads and 512 hidden channels; 16 x 16 positions for CIFAR's images. The dropout of attention weights
    (0.1 in the authors' code) is left out: `attention.quadratic` explains why.

    A reconstruction at its ends: layers and attention are those of the authors' code, but patches, embedding and the
    average in front of the classifier are known from a description of the paper only (assumption A25).

    Parameters without classifier: 12,082,834 with the default mixer.

    Args:
        mixer: Operator of every layer, made from (channels, channels, stride 1).
        layers: Number of layers, at least 1.
        embed_channels: Number of channels C, at least 1.
        hidden_channels: Number of channels inside the MLPs, at least 1.
        dropout: Probability of dropping a value at the end of the two branches of a layer, below 1.
        frozen_stages: Stages without training: 0 none, 1 the embedding, 2 the embedding and the first layer, and so on.
        checkpointing: Whether layers compute their intermediate results again in the backward pass to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """

    def __init__(
        self,
        mixer: Callable[[int, int, int], Mixer] = QuadraticSelfAttention,
        layers: int = 6,
        embed_channels: int = 400,
        hidden_channels: int = 512,
        dropout: float = 0.1,
        frozen_stages: int = 0,
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, layers=layers, embed_channels=embed_channels, hidden_channels=hidden_channels)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is no probability below 1; give one such as 0.1")
        self.channels = (embed_channels,)
        self.strides = (_PATCH,)
        self.checkpointing = checkpointing
        self.embed = nn.Linear(3 * _PATCH**2, embed_channels)
        _initialise(self.embed)
        self.layers = nn.ModuleList(_Layer(embed_channels, hidden_channels, mixer, dropout) for _ in range(layers))
        if weights is not None:
            load_weights(self, weights)
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The feature map (B, C, ceil(H / 2), ceil(W / 2)) of `x` (B, 3, H, W)."""
        below, right = -x.shape[2] % _PATCH, -x.shape[3] % _PATCH
        if torch.compiler.is_exporting() or below or right:
            x = F.pad(x, (0, right, 0, below))
        x = self.embed(F.pixel_unshuffle(x, _PATCH).permute(0, 2, 3, 1))
        for layer in self.layers:
            x = checkpointed(layer, x) if self.checkpointing else layer(x)
        return [x.permute(0, 3, 1, 2)]

    def stages(self) -> list[list[nn.Module]]:
        """The embedding, then every layer as a stage of its own."""
        return [[self.embed], *([layer] for layer in self.layers)]

    def inserted_prefixes(self) -> tuple[str, ...]:
        """None: the attention belongs to the published network."""
        return ()

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Encodings of offsets (2 P - 1, p) for maps of another size P, interpolated bicubically."""
        if not name.endswith("_encodings.weight") or value.dim() != 2 or value.shape[1:] != shape[1:]:
            return None
        line = value.T[None, :, :, None].float()
        resized = F.interpolate(line, (shape[0], 1), mode="bicubic", align_corners=False)
        return resized[0, :, :, 0].T.to(value.dtype).contiguous()


def _initialise(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
