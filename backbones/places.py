"""Where operators are inserted into a host: which of its stages and blocks, behind blocks, and for which convolutions.

All hosts have these options under the same names, so that a comparison of places is a comparison of options.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn

from attention.base import Mixer, Refine

Refinements = Callable[[int], Refine] | list[Callable[[int], Refine] | None] | None
"""One operator for all chosen stages, or a list with one for each stage of the host, none where it has null."""

Mixers = Callable[[int, int, int], Mixer] | list[Callable[[int, int, int], Mixer] | None] | None
"""The same for mixers."""

Blocks = Literal["every", "last"] | int | tuple[int, ...]
"""`every` block of a stage, its `last`, every n-th (n, 2 n, ...), or the blocks with these numbers, from 1."""

STAGES = (1, 2, 3, 4)
T = TypeVar("T")
B = TypeVar("B")


def check_stages(there: tuple[int, ...] = STAGES, **chosen: tuple[int, ...]) -> None:
    """Raises `ValueError` naming the first of `chosen` with numbers of stages that are not `there`."""
    for name, numbers in chosen.items():
        if not set(numbers) <= set(there):
            raise ValueError(f"{name}={tuple(numbers)} has no such stages; choose from {', '.join(map(str, there))}")


def by_stage(
    operators: T | list[T | None] | None, stages: tuple[int, ...], name: str, there: tuple[int, ...] = STAGES
) -> list[T | None]:
    """The operator of each of the stages that are `there`; none in those that are not among `stages`.

    Raises:
        ValueError: A list has not one entry for each; `name` is what the option is called.
    """
    if isinstance(operators, list):
        if len(operators) != len(there):
            raise ValueError(
                f"{name} has {len(operators)} entries; give one for each of the {len(there)} stages, null for none"
            )
        return [operator if number in stages else None for number, operator in zip(there, operators, strict=True)]
    return [operators if number in stages else None for number in there]


def chosen(blocks: Sequence[T], choice: Blocks, name: str) -> list[T]:
    """Those blocks of one stage that a choice names; numbers beyond the last count for nothing.

    Raises:
        ValueError: The choice is none of what `Blocks` describes; `name` is what the option is called.
    """
    if choice == "every":
        return list(blocks)
    if choice == "last":
        return list(blocks[-1:])
    numbers = (choice,) if isinstance(choice, int) else tuple(choice)
    if isinstance(choice, str) or min(numbers, default=1) < 1:
        raise ValueError(f"{name}={choice!r} names no blocks; give every, last, a number n for every n-th, or a list")
    if isinstance(choice, int):
        return list(blocks[choice - 1 :: choice])
    return [block for number, block in enumerate(blocks, start=1) if number in numbers]


def places(
    stages: Sequence[Sequence[B]],
    operators: T | list[T | None] | None,
    numbers: tuple[int, ...],
    blocks: Blocks,
    name: str = "attention",
) -> Iterator[tuple[B, T]]:
    """Every chosen block of the stages with the operator that goes there; `name` is what its option is called."""
    there = tuple(range(1, len(stages) + 1))
    check_stages(there, **{f"{name}_stages": numbers})
    for stage, operator in zip(stages, by_stage(operators, numbers, name, there), strict=True):
        picked = chosen(stage, blocks, f"{name}_blocks")
        if operator is not None:
            yield from ((block, operator) for block in picked)


def place_between(
    ends: Sequence[nn.Module],
    channels: Sequence[int],
    attention: Callable[[int], Refine] | None,
    stages: tuple[int, ...],
) -> None:
    """Inserts a refinement behind the last block of stages.

    Args:
        ends: The last blocks of the four stages.
        channels: Channels of their maps.
        attention: Makes the refinement from a number of channels.
        stages: Numbers of the stages.
    """
    check_stages(between_stages=stages)
    for number, end, count in zip(STAGES, ends, channels, strict=True):
        if attention is not None and number in stages:
            end.add_module("between", attention(count))
            end.register_forward_hook(_refined)


def between_modules(
    channels: Sequence[int], attention: Callable[[int], Refine] | None, stages: tuple[int, ...]
) -> nn.ModuleDict:
    """The refinements behind stages as a host's own modules, by the number of the stage counted from 0."""
    check_stages(between_stages=stages)
    numbers = stages if attention is not None else ()
    return nn.ModuleDict({str(number - 1): attention(channels[number - 1]) for number in numbers if attention})


def refined_behind(block: nn.Module, out: Tensor) -> Tensor:
    """What `place_between` makes of a block's output; for callers that run a block in parts."""
    between = getattr(block, "between", None)
    refined: Tensor = out if between is None else between(out)
    return refined


def _refined(block: nn.Module, inputs: object, out: Tensor) -> Tensor:
    return refined_behind(block, out)


def mix_depthwise(stages: Sequence[Sequence[nn.Module]], mixer: Mixers, numbers: tuple[int, ...]) -> None:
    """Puts mixers in the place of the depth-wise convolutions of chosen stages.

    Args:
        stages: The blocks of the four stages.
        mixer: Makes a mixer from (channels, channels, stride).
        numbers: Numbers of the stages.
    """
    check_stages(mixer_stages=numbers)
    for stage, make in zip(stages, by_stage(mixer, numbers, "mixer"), strict=True):
        for block in stage if make is not None else ():
            found = [(name, layer) for name, layer in block.named_modules() if _is_depthwise(layer)]
            for name, layer in found:
                assert isinstance(layer, nn.Conv2d) and make is not None
                block.set_submodule(name, make(layer.in_channels, layer.out_channels, layer.stride[0]))


def mix_expansions(stages: Sequence[Sequence[nn.Module]], mixer: Mixers, numbers: tuple[int, ...]) -> None:
    """Puts mixers in the place of the 1x1 convolutions that inverted residuals begin with.

    Args:
        stages: The blocks that read the maps of the four stages; each begins with such a convolution.
        mixer: Makes a mixer from (channels of the map, channels inside the block, 1).
        numbers: Numbers of the stages.
    """
    check_stages(expansion_stages=numbers)
    for stage, make in zip(stages, by_stage(mixer, numbers, "expansion_mixer"), strict=True):
        for block in stage if make is not None else ():
            name, layer = next((name, layer) for name, layer in block.named_modules() if isinstance(layer, nn.Conv2d))
            assert make is not None and layer.kernel_size == (1, 1)
            block.set_submodule(name, make(layer.in_channels, layer.out_channels, 1))


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
