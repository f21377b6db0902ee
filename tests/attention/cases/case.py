"""What a case of the common tests says of an operator."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """An operator under the tests that hold for all.

    Attributes:
        name: Name of the case.
        make: Makes the operator; refinements get `channels`, mixers (`in_channels`, `out_channels`, `stride`), others
            nothing.
        parameters: Number of parameters by the formula in the docstring, from the same arguments.
        zero_factor: y / x of a refinement when all its parameters are zero, where that is a constant.
        strides: Strides of a mixer to test.
        channels: Pairs (in_channels, out_channels) of a mixer to test.
        inputs: Makes the inputs of an operator that takes more than one map, from (rows, columns).
        flips: Whether a refinement commutes with flips of the map once its convolutions have constant kernels.
        zero_gradient: Name endings of parameters whose gradient is zero by the equation (say why in a comment).
        sums_to_one: Whether recorded mixtures are softmaxes over the keys inside the map.
        padding_counts: Why zeros around the map are part of the definition, where they are.
        not_exportable: Why there is no ONNX export, in words that the class docstring has too.
    """

    name: str
    make: Callable[..., nn.Module]
    parameters: Callable[..., int]
    zero_factor: float | None = None
    strides: tuple[int, ...] = (1, 2)
    channels: tuple[tuple[int, int], ...] = ((16, 16), (16, 32), (32, 16))
    inputs: Callable[[int, int], tuple[Tensor, ...]] | None = None
    flips: bool = True
    zero_gradient: tuple[str, ...] = ()
    sums_to_one: bool = True
    padding_counts: str | None = None
    not_exportable: str | None = None
