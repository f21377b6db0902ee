"""The contracts of attention operators: refinement of a feature map, and mixing in place of a convolution.

Hosts in `backbones` insert operators by these contracts alone, so an operator written elsewhere only has to subclass
one of the two to be usable in every host, configuration file and command line.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from attention.maps import AttentionMap


class Operator(nn.Module):
    """What all operators share: they note their attention maps down while `record_attention` asks for them.

    In `forward` a subclass writes

        if self.recording:
            self.record("channel", gate)

    with weights as `AttentionMap` describes them. What is only needed for the maps is computed inside that branch, so
    that nothing is paid otherwise.

    Attributes:
        position_tables: Names of its parameters that say something of places instead of contents; see
            `find_position_tables`.
    """

    position_tables: tuple[str, ...] = ()
    _maps: list[AttentionMap] | None = None

    @property
    def recording(self) -> bool:
        """Whether somebody wants this operator's maps."""
        return self._maps is not None

    def record(self, name: str, weights: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
        """Notes an attention map down; see `AttentionMap` for the arguments. Only to be called while recording."""
        if self._maps is None:
            raise RuntimeError(f"{type(self).__name__} is not recording; call record only where self.recording is true")
        self._maps.append(AttentionMap(name, weights.detach(), rows, columns))

    def start_recording(self) -> list[AttentionMap]:
        """Starts to record and returns the list that the maps are appended to."""
        self._maps = []
        return self._maps

    def stop_recording(self) -> None:
        """Stops recording."""
        self._maps = None


class Refine(Operator, ABC):
    """A feature map refined in place of itself: `(B, C, H, W) -> (B, C, H, W)`.

    A subclass is constructed as `Operator(channels, ...)` with plain typed options after `channels`, accepts every
    H, W >= 1, keeps dtype, device and memory format, and may therefore follow any convolution. Operators with batch
    normalisation need more than one value per channel in training, as any batch normalisation does.

    Args:
        channels: Number of channels C of the map, at least 1.

    Attributes:
        starts_as_identity: Whether it returns its map unchanged before it has learnt anything, as operators do whose
            last layer starts at zero. A second zero around it would leave neither with a gradient, see `IdentityStart`.
    """

    starts_as_identity: bool = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_at_least(1, channels=channels)
        self.channels = channels

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Refines `x` (B, C, H, W) and returns a tensor of the same shape."""


class Mixer(Operator, ABC):
    """A stand-in for a spatial convolution: `(B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))`.

    A subclass is constructed as `Operator(in_channels, out_channels, stride, ...)` with plain typed options after
    `stride` and accepts every H, W >= 1: where blocks or tokens must divide, it pads and masks internally, and the
    result does not depend on the padding.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Subsampling factor of the output map in both directions, at least 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C_out, ceil(H / stride), ceil(W / stride))."""


def find_position_tables(network: nn.Module) -> dict[str, nn.Parameter]:
    """Tables of positions in a network by name, which are published without weight decay like biases.

    Every module that owns some, operator or not, names them in an attribute `position_tables`, relative to itself; a
    name whose parameter an option leaves out counts for nothing.
    """
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in network.named_modules()
        if (declared := getattr(module, "position_tables", ()))
        for name, parameter in module.named_parameters()
        if name in declared
    }


def check_at_least(minimum: int, **arguments: int) -> None:
    """Raises `ValueError` naming the first of `arguments` that is smaller than `minimum`."""
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"{name}={value} is too small; give an integer of at least {minimum}")


def check_odd(**arguments: int) -> None:
    """Raises `ValueError` naming the first of `arguments` that is not a positive odd number and so has no centre."""
    for name, value in arguments.items():
        if value < 1 or value % 2 == 0:
            raise ValueError(f"{name}={value} has no centre; give a positive odd integer such as 7")


def check_divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises `ValueError` if argument `name` has a `value` that its `divisor` does not divide."""
    if value % divisor:
        raise ValueError(f"{name}={value} is not a multiple of {divisor_name}={divisor}; change one of the two")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises `ValueError` if argument `name` has a `value` that is none of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")


def bottleneck_channels(channels: int, reduction: int) -> int:
    """Width m = floor(channels / reduction) of a gate's bottleneck; `ValueError` if nothing would be left."""
    check_at_least(1, reduction=reduction)
    if channels < reduction:
        raise ValueError(
            f"reduction={reduction} leaves no hidden channel of channels={channels}; give a value of at most {channels}"
        )
    return channels // reduction
