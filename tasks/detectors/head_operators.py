"""Attention in what stands behind the backbone of a detector: its pyramid and the towers of its heads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attention.base import Mixer, Refine

Mixing = Callable[[int, int, int], Mixer]
_DEVIATION = 0.01  # of convolutions that predict, and of W_V in towers of attention (arXiv 1906.05909, appendix)


@dataclass(frozen=True)
class Operators:
    """What a two-stage detector has in the places behind its backbone; none leaves them as they are.

    Attributes:
        pyramid_mixer: In place of the pyramid's 3x3 convolutions.
        pyramid_attention: Refines every level of the pyramid.
        head_mixer: In place of the 3x3 convolutions of region proposals, box heads and mask heads.
        head_attention: Refines what these convolutions make.
    """

    pyramid_mixer: Mixing | None = None
    pyramid_attention: Callable[[int], Refine] | None = None
    head_mixer: Mixing | None = None
    head_attention: Callable[[int], Refine] | None = None


NO_OPERATORS = Operators()


def of_boxes(layers: Callable[[Tensor], Tensor], pooled: Tensor) -> Tensor:
    """What layers make of the pooled features of boxes (N, C, side, side); operators are not asked for none of them."""
    return layers(pooled) if len(pooled) else layers(pooled.new_zeros(1, *pooled.shape[1:]))[:0]


def mix_convolutions(part: nn.Module, mixer: Mixing) -> None:
    """Puts a mixer in the place of every 3x3 convolution inside of `part`, with its channels and stride."""
    for name, layer in list(part.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            part.set_submodule(name, mixer(layer.in_channels, layer.out_channels, layer.stride[0]))


def place_in_heads(
    heads: Iterable[nn.Module], channels: int, mixer: Mixing | None, attention: Callable[[int], Refine] | None
) -> None:
    """Inserts what a detector's `head_mixer` and `head_attention` ask for into torchvision's heads.

    With a mixer no 3x3 convolution is left: those of the tower `conv` are replaced, and each that predicts becomes one
    of 1x1 behind a further mixer, as the sizes of the fully attentional RetinaNet of arXiv 1906.05909, section 4.2,
    demand (22.0 M parameters and 111 GFLOPs at 640 x 640 pixels, with 90 classes and 6 anchors a cell).

    Args:
        heads: Modules with a tower `conv`, and with convolutions that predict beside it.
        channels: Channels of the tower.
        mixer: Makes a mixer from input channels, output channels and stride.
        attention: Makes the refinement at the end of a tower from its channels.
    """
    for head in heads:
        tower = head.get_submodule("conv")
        assert isinstance(tower, nn.Sequential)
        if mixer is not None:
            mix_convolutions(tower, mixer)
            tower.append(mixer(channels, channels, 1))
            for name, predictor in list(head.named_children()):
                if isinstance(predictor, nn.Conv2d):
                    setattr(head, name, _narrowed(predictor))
            for layer in tower:
                _start_small(layer)
        if attention is not None:
            tower.append(attention(channels))


def place_in_predictors(
    predictors: Iterable[nn.Module], mixer: Mixing | None, attention: Callable[[int], Refine] | None
) -> None:
    """Inserts what a detector's `head_mixer` and `head_attention` ask for into the separable convolutions that predict.

    Every map has predictors of its own, and so operators of its own: a mixer takes the place of the 3x3 convolution,
    attention refines what the 1x1 convolution reads. Names of parameters stay; a plain 1x1 convolution is left alone.

    Args:
        predictors: A 3x3 depthwise convolution, its normalisation, ReLU6 and a 1x1 convolution, or this alone.
        mixer: Makes a mixer from input channels, output channels and stride.
        attention: Makes the refinement from its channels.
    """
    for predictor in predictors:
        if not isinstance(predictor, nn.Sequential):
            continue
        (activation,) = (name for name, layer in predictor.named_modules() if isinstance(layer, nn.ReLU6))
        if mixer is not None:
            mix_convolutions(predictor, mixer)
        if attention is not None:
            last = predictor[-1]
            assert isinstance(last, nn.Conv2d)
            refined = nn.Sequential(predictor.get_submodule(activation), attention(last.in_channels))
            predictor.set_submodule(activation, refined)


def _narrowed(predictor: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution that starts as torchvision's 3x3 one does."""
    narrow = nn.Conv2d(predictor.in_channels, predictor.out_channels, 1)
    nn.init.normal_(narrow.weight, std=_DEVIATION)
    assert narrow.bias is not None and predictor.bias is not None
    with torch.no_grad():
        narrow.bias.copy_(predictor.bias)
    return narrow


def _start_small(layer: nn.Module) -> None:
    """Draws W_V of the mixers in a layer as published towers of attention start, if they have one."""
    for part in layer.modules():
        value = getattr(part, "value", None)
        if isinstance(part, Mixer) and isinstance(value, nn.Conv2d):
            nn.init.normal_(value.weight, std=_DEVIATION)
