"""ELSA-VOLO: VOLO (Yuan et al., arXiv 2106.13112) with enhanced local self-attention (Zhou et al., arXiv 2112.12786).

A reconstruction: the ELSA paper reports ELSA-VOLO-D1 to -D5, but neither code nor weights of them were released.
"""

from torch import Tensor

from attention.base import Mixer
from attention.elsa import ELSA
from backbones.base import Norms
from backbones.conversions.elsa import with_flat_ghost_heads
from backbones.volo import VOLO

_GROUP_WIDTH = 8


class ELSAVOLO(VOLO):
    """VOLO with ELSA in place of outlook attention in its first stage: a reconstruction, not the authors' network.

    Features are the output of the first stage at stride 8 and that of the last transformer stage at stride 16, of
    images of every size; see `VOLO`.

    What the ELSA paper says of these networks is their accuracy. Read into it here: each outlooker's attention becomes
    ELSA with the defaults of the authors' code (k = 5, lambda = gamma = 1, groups of 8 channels, no bias in the
    projection, scale 1), all else is VOLO's. Neither kernel size nor width is confirmed by a published number of
    parameters; the counts are ours (assumption A27).

    Args:
        depths: Number of blocks: of ELSA at stride 8, and of three transformer stages at stride 16.
        embed_channels: Number of channels at stride 8 and at stride 16.
        heads: Number of heads at stride 8 and at stride 16.
        mlp_ratio: Hidden channels of the MLPs per channel.
        stem_channels: Number of channels of the stem's convolutions.
        kernel_size: Side k of ELSA's neighbourhood in cells, odd.
        mul_power: Exponent lambda of ELSA's multiplicative kernels; 0 means that there are none, which is several times
            faster.
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
        kernel_size: int = 5,
        mul_power: int = 1,
        out_norms: bool = True,
        drop_path: float = 0.1,
        image_size: int = 224,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        def mixer(in_channels: int, out_channels: int, stride: int) -> Mixer:
            return ELSA(
                in_channels,
                out_channels,
                stride,
                heads[0],
                kernel_size,
                _GROUP_WIDTH,
                mul_power=mul_power,
                bias=False,
            )

        super().__init__(
            depths,
            embed_channels,
            heads,
            mlp_ratio,
            stem_channels,
            mixer,
            out_norms,
            drop_path,
            image_size,
            frozen_stages,
            norms,
            checkpointing,
            weights,
        )

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of a VOLO of timm or of its authors, or of an ELSA-VOLO, under our names."""
        return with_flat_ghost_heads(super().convert(state))
