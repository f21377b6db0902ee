"""Published mobile networks: MobileNetV1, MobileNetV2, MobileNeXt and EfficientNet-B0, plain and with attention."""

from functools import partial
from typing import Any

from attention.cbam import CBAM
from attention.coordinate import CoordinateAttention
from attention.squeeze_excitation import SqueezeExcitation
from backbones.classifier import Classifier
from backbones.efficientnet import EfficientNet
from backbones.mobilenet_v1 import MobileNetV1
from backbones.mobilenet_v2 import MobileNetV2
from backbones.mobilenext import AttentionPosition, MobileNeXt
from backbones.zoo.registry import zoo_entry

_with_dropout_10 = partial(Classifier, dropout=0.1)  # the coordinate attention authors' MobileNetV2
_with_dropout_20 = partial(Classifier, dropout=0.2)


@zoo_entry()
def mobilenet_v1(width: float = 1.0, **options: Any) -> MobileNetV1:
    """MobileNetV1 (arXiv 1704.04861), the host of CBAM's mobile experiments."""
    return MobileNetV1(width, **options)


@zoo_entry()
def cbam_mobilenet_v1(width: float = 1.0, reduction: int = 16, **options: Any) -> MobileNetV1:
    """MobileNetV1 with CBAM behind every depthwise and pointwise convolution (arXiv 1807.06521)."""
    return MobileNetV1(width, partial(CBAM, reduction=reduction), **options)


@zoo_entry(head=_with_dropout_20, last_conv=True)
def mobilenet_v2(width: float = 1.0, **options: Any) -> MobileNetV2:
    """MobileNetV2 (arXiv 1801.04381), torchvision's; 72.3 % top-1 in arXiv 2103.02907."""
    return MobileNetV2(width, **options)


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_se(width: float = 1.0, reduction: int = 24, **options: Any) -> MobileNetV2:
    """MobileNetV2 with squeeze-and-excitation before the projections (arXiv 2103.02907); 73.5 % top-1."""
    return MobileNetV2(width, partial(SqueezeExcitation, reduction=reduction, hidden="relu6"), **options)


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_cbam(width: float = 1.0, reduction: int = 24, **options: Any) -> MobileNetV2:
    """MobileNetV2 with CBAM before the projections (arXiv 2103.02907); 73.6 % top-1."""
    return MobileNetV2(width, partial(CBAM, reduction=reduction), **options)


@zoo_entry(head=_with_dropout_10, last_conv=True)
def mobilenet_v2_ca(width: float = 1.0, reduction: int = 32, **options: Any) -> MobileNetV2:
    """MobileNetV2 with coordinate attention before the projections (arXiv 2103.02907); 74.3 % top-1."""
    return MobileNetV2(width, partial(CoordinateAttention, reduction=reduction), **options)


@zoo_entry(head=_with_dropout_20)
def mobilenext(width: float = 1.0, **options: Any) -> MobileNeXt:
    """MobileNeXt (arXiv 2007.02269); 74.02 % top-1."""
    return MobileNeXt(width, **options)


@zoo_entry(head=_with_dropout_20)
def mobilenext_ca(  # noqa: D417 - the others are described by the host and the operator
    width: float = 1.0, reduction: int = 32, ca_position: AttentionPosition = "first", **options: Any
) -> MobileNeXt:
    """MobileNeXt with coordinate attention (arXiv 2103.02907; our reading of its figure 3b); 75.2 % top-1.

    Args:
        ca_position: Where attention sits in a block: `first` behind the first depthwise convolution, as the paper draws
            it; `last` behind the last one, which gives the paper's 4.09 M parameters; `first_any`, `identity` and
            `output` as in `MobileNeXt`.
    """
    return MobileNeXt(width, partial(CoordinateAttention, reduction=reduction), ca_position, **options)


@zoo_entry(head=_with_dropout_20, last_conv=True)
def efficientnet_b0(**options: Any) -> EfficientNet:
    """EfficientNet-B0 (arXiv 1905.11946), torchvision's; its weights have 77.69 % top-1."""
    return EfficientNet("b0", **options)


@zoo_entry(head=_with_dropout_20, last_conv=True)
def efficientnet_b0_ca(reduction: int = 32, **options: Any) -> EfficientNet:
    """EfficientNet-B0 with coordinate attention in place of its own (arXiv 2103.02907; our reading of the text)."""
    return EfficientNet("b0", partial(CoordinateAttention, reduction=reduction), **options)
