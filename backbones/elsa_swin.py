"""ELSA-Swin (Zhou et al., arXiv 2112.12786): Swin with enhanced local self-attention in its first three stages."""

from torch import Tensor
from torchvision.models import WeightsEnum

from attention.base import Mixer
from attention.elsa import ELSA
from backbones.conversions.elsa import from_authors_elsa_swin
from backbones.swin import OutNorms, Swin


class ELSASwin(Swin):
    """Swin whose stages 1 to 3 mix with ELSA instead of windows; stage 4 keeps window attention.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32, with C, 2 C, 4 C and 8 C channels, in the
    memory format channels_last. Images of every size are accepted, and ELSA itself depends on no size: cells outside
    the map have value zero but take part in its softmax, as the released weights expect.

    Parameters without classifier: 28,373,322 (T), 52,106,970 (S), 91,659,256 (B), with four output normalisations.

    The authors train with weight decay on everything but normalisations and biases, so with decay on `ghost_head` and,
    unlike in Swin, on the tables of relative positions: their code exempts these by a name that its window attention
    does not use (assumption A28).

    The released weights for classification do not shift the windows of stage 4 at 224 pixels, nor along either side
    where one is of at most 224 (`shift_together`, as for 448 x 224); those for detection and segmentation always do
    (`shift_small_maps`).

    Args:
        embed_channels: Number of channels C of the first stage, a multiple of 32.
        depths: Number of blocks of each stage.
        group_width: Channels per group of ELSA's k x k convolution: 4 in ELSA-Swin-T, 8 in S and B.
        kernel_size: Side k of ELSA's neighbourhood in cells, odd.
        window: Side of a window of stage 4 in cells.
        out_norms: `each`: layer normalisation of every feature map, as published detectors and segmentors have it;
            `last`: of the last one only, as the classification network has it.
        out_indices: Numbers of the maps to return, from 0; none returns all four. The detectors and segmentors of this
            package choose what they read by themselves, among these.
        drop_path: Probability of skipping the last block's branches in training; it rises linearly from 0 at the first
            block.
        shift_small_maps: Whether to shift windows along sides that one window covers.
        shift_together: Whether to shift windows along no side where one window covers a side.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        checkpointing: Whether blocks compute their intermediate results again in the backward pass to save memory.
        weights: Path of a file in the authors' layout or in ours; none leaves the random initialisation.
    """

    def __init__(
        self,
        embed_channels: int = 96,
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        group_width: int = 4,
        kernel_size: int = 7,
        window: int = 7,
        out_norms: OutNorms = "each",
        out_indices: tuple[int, ...] | None = None,
        drop_path: float = 0.1,
        shift_small_maps: bool = False,
        shift_together: bool = False,
        frozen_stages: int = 0,
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        def mixer(in_channels: int, out_channels: int, stride: int) -> Mixer:
            heads = out_channels // 32
            return ELSA(in_channels, out_channels, stride, heads, kernel_size, group_width)

        super().__init__(
            embed_channels,
            depths,
            window,
            mixer=mixer,
            mixer_stages=(1, 2, 3),
            out_norms=out_norms,
            out_indices=out_indices,
            drop_path=drop_path,
            shift_small_maps=shift_small_maps,
            shift_together=shift_together,
            frozen_stages=frozen_stages,
            checkpointing=checkpointing,
            weights=weights,
        )

    @property
    def label(self) -> str:
        """Name of the network."""
        return f"ELSA-{super().label}"

    def published_weights(self) -> WeightsEnum | None:
        """None: the authors' weights are no part of torchvision."""
        return None

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names that the classification network lacks: normalisations of feature maps."""
        return ("norm0.", "norm1.", "norm2.", "norm3.") if self.out_norms == "each" else ()

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries in the authors' layout under our names."""
        return from_authors_elsa_swin(state)
