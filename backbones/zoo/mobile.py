"""Published mobile networks: MobileNetV1, MobileNetV2, MobileNeXt and EfficientNet-B0, plain and with attention."""

from functools import partial

from attention.cbam import CBAM
from attention.coordinate import CoordinateAttention
from attention.squeeze_excitation import SqueezeExcitation
from backbones.base import Norms
from backbones.classifier import Classifier
from backbones.efficientnet import EfficientNet
from backbones.mobilenet_v1 import MobileNetV1
from backbones.mobilenet_v2 import MobileNetV2, OutputStride
from backbones.mobilenext import AttentionPosition, MobileNeXt
from backbones.zoo.registry import zoo_entry

_with_dropout_10 = partial(Classifier, dropout=0.1)  # the coordinate attention authors' MobileNetV2
_with_dropout_20 = partial(Classifier, dropout=0.2)


@zoo_entry()
def mobilenet_v1(
    width: float = 1.0,
    output_stride: OutputStride = 32,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV1:
    """MobileNetV1 (arXiv 1704.04861), the host of CBAM's mobile experiments.

    Args:
        width: Multiplier of all channel numbers, positive.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV1(
        width,
        output_stride=output_stride,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def cbam_mobilenet_v1(
    width: float = 1.0,
    reduction: int = 16,
    output_stride: OutputStride = 32,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV1:
    """MobileNetV1 with CBAM behind every depthwise and pointwise convolution (arXiv 1807.06521).

    Args:
        width: Multiplier of all channel numbers, positive.
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV1(
        width,
        partial(CBAM, reduction=reduction),
        output_stride=output_stride,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_20, last_conv=True)
def mobilenet_v2(
    width: float = 1.0,
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV2:
    """MobileNetV2 (arXiv 1801.04381), torchvision's; 72.3 % top-1 in arXiv 2103.02907.

    Args:
        width: Multiplier of all channel numbers, positive.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights (width 1), or the path of a .pth, .pt or .safetensors file; none
            leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV2(
        width,
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_se(
    width: float = 1.0,
    reduction: int = 24,
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV2:
    """MobileNetV2 with squeeze-and-excitation before the projections (arXiv 2103.02907); 73.5 % top-1.

    Args:
        width: Multiplier of all channel numbers, positive.
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights (width 1, attention at its start), or the path of a .pth, .pt or
            .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV2(
        width,
        partial(SqueezeExcitation, reduction=reduction, hidden="relu6"),
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_cbam(
    width: float = 1.0,
    reduction: int = 24,
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV2:
    """MobileNetV2 with CBAM before the projections (arXiv 2103.02907); 73.6 % top-1.

    Args:
        width: Multiplier of all channel numbers, positive.
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights (width 1, attention at its start), or the path of a .pth, .pt or
            .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV2(
        width,
        partial(CBAM, reduction=reduction),
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_ca(
    width: float = 1.0,
    reduction: int = 32,
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNetV2:
    """MobileNetV2 with coordinate attention before the projections (arXiv 2103.02907); 74.3 % top-1.

    Args:
        width: Multiplier of all channel numbers, positive.
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights (width 1, attention at its start), or the path of a .pth, .pt or
            .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNetV2(
        width,
        partial(CoordinateAttention, reduction=reduction),
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_20)
def mobilenext(
    width: float = 1.0,
    output_stride: OutputStride = 32,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNeXt:
    """MobileNeXt (arXiv 2007.02269); 74.02 % top-1.

    Args:
        width: Multiplier of all channel numbers, positive.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNeXt(
        width,
        output_stride=output_stride,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_20)
def mobilenext_ca(
    width: float = 1.0,
    reduction: int = 32,
    ca_position: AttentionPosition = "first",
    output_stride: OutputStride = 32,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> MobileNeXt:
    """MobileNeXt with coordinate attention (arXiv 2103.02907; our reading of its figure 3b); 75.2 % top-1.

    Args:
        width: Multiplier of all channel numbers, positive.
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        ca_position: Where attention sits in a block: `first` behind the first depthwise convolution, as the paper draws
            it; `last` behind the last one, which gives the paper's 4.09 M parameters; `first_any`, `identity` and
            `output` as in `MobileNeXt`.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return MobileNeXt(
        width,
        partial(CoordinateAttention, reduction=reduction),
        ca_position,
        output_stride=output_stride,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_20, last_conv=True)
def efficientnet_b0(
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> EfficientNet:
    """EfficientNet-B0 (arXiv 1905.11946), torchvision's; its weights have 77.69 % top-1.

    Args:
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights, or the path of a .pth, .pt or .safetensors file; none leaves the
            random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return EfficientNet(
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=_with_dropout_20, last_conv=True)
def efficientnet_b0_ca(
    reduction: int = 32,
    output_stride: OutputStride = 32,
    last_conv: bool = False,
    weights: str | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
) -> EfficientNet:
    """EfficientNet-B0 with coordinate attention in place of its own (arXiv 2103.02907; our reading of the text).

    Args:
        reduction: Divisor of the channels that gives the attention's hidden width, at least 1.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution (1280 channels).
        weights: `imagenet` for torchvision's weights (attention at its start), or the path of a .pth, .pt or
            .safetensors file; none leaves the random initialisation.
        frozen_stages: Stages without training: 0 none, 1 the stem, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` everything, `eval` no statistics, `frozen` nothing.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
    """
    return EfficientNet(
        attention=partial(CoordinateAttention, reduction=reduction),
        output_stride=output_stride,
        last_conv=last_conv,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )
