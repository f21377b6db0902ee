"""What `benchmarks/attention.py` compares: one file per mechanism, each with a list `COMPARISONS`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Bounds:
    """Goals of a comparison, as ratios; none means that the number is only printed.

    A goal holds where the ratio is worst. For times that is AMD EPYC with AVX-512, where ELSA reaches 11.4 (forward)
    and 5.4 (training), quadratic self-attention 4.9 and 2.8, halo attention 1.6 and 1.4.

    Attributes:
        forward: Least time of the peer / our time, forward without gradients.
        training: The same, forward and backward.
        memory: Most peak memory of ours / the peer's, forward and backward.
        forward_memory: The same, forward without gradients.
    """

    forward: float | None = None
    training: float | None = None
    memory: float | None = None
    forward_memory: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One operator beside one peer that computes the same.

    Attributes:
        name: What is compared, unique: mechanism, peer and size.
        prepare: Makes `(ours, peer, inputs)`: two functions (or modules) of the inputs that share parameters where they
            have any, and the input tensors, float32 and requiring gradients where gradients count.
        bounds: Goals.
        tolerance: Largest relative and absolute difference of outputs and input gradients that counts as equal.
        channels_last: Whether inputs are given in channels_last as well, as a second line without goals.
    """

    name: str
    prepare: Callable[[], tuple[Call, Call, list[Tensor]]]
    bounds: Bounds = Bounds()
    tolerance: float = 1e-4
    channels_last: bool = False


LINEAR = (
    "BAM",
    "CBAM",
    "ChannelAttention",
    "CoordinateAttention",
    "ELSA",
    "EfficientChannelAttention",
    "GlobalContext",
    "HaloAttention",
    "SelectiveKernel",
    "SpatialAttention",
    "SqueezeExcitation",
    "StandAloneSelfAttention",
)
"""Operators whose time must grow like the number of positions (`python -m benchmarks.attention --resolution`)."""
