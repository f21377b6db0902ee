"""Attention operators: tensors in, tensors out, torch only.

Two families share this package. A `Refine` keeps the shape of a feature map and sits behind a convolution; a `Mixer`
stands in for a spatial convolution.

A new operator is one new file in this folder: whatever class of either family a file defines is found and exported.
The imports below only tell editors and type checkers about those that exist.
"""

import importlib
import inspect
import pkgutil

from attention.attention_augmented import AttentionAugmentedConv2d
from attention.attention_residual import AttentionResidual
from attention.attention_stem import AttentionStem
from attention.axial import AxialAttention
from attention.bam import BAM
from attention.base import Mixer, Operator, Refine
from attention.bottleneck import BottleneckAttention
from attention.cbam import CBAM, ChannelAttention
from attention.channelized_axial import ChannelizedAxialAttention
from attention.combined import Compose, Parallel
from attention.content_relative import ContentRelativeSelfAttention
from attention.coordinate import CoordinateAttention
from attention.criss_cross import CrissCrossAttention
from attention.depthwise import DepthwiseConvolution
from attention.diagonality import diagonality_loss
from attention.double_attention import DoubleAttention
from attention.dual_attention import DualAttention
from attention.dynamic_filter import DynamicFilter
from attention.efficient_channel import EfficientChannelAttention
from attention.efficient_multi_scale import EfficientMultiScaleAttention
from attention.elsa import ELSA
from attention.gated_channel import GatedChannelTransformation
from attention.gather_excite import GatherExcite
from attention.global_context import GlobalContext
from attention.halo import HaloAttention
from attention.identity_start import IdentityStart
from attention.large_kernel import LargeKernelAttention
from attention.lavit import LessAttention, VanillaAttention
from attention.learn_to_pay import LearnToPayAttention, LearnToPayClassifier
from attention.learn_to_pay_gate import LearnToPayGate
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.local_filter import LocalFilter
from attention.maps import AttentionMap, record_attention
from attention.non_local import NonLocal
from attention.outlook import OutlookAttention
from attention.progressive import ProgressiveAttention
from attention.quadratic import QuadraticSelfAttention
from attention.second_order import SecondOrderPooling
from attention.selective_kernel import SelectiveKernel
from attention.self_calibrated import SelfCalibratedConv2d
from attention.simam import SimAM
from attention.spatial import SpatialAttention
from attention.squeeze_excitation import SqueezeExcitation
from attention.stand_alone import StandAloneSelfAttention
from attention.static_gate import StaticGate
from attention.strip_pooling import StripPooling
from attention.triplet import TripletAttention
from attention.window import WindowAttention

__all__ = [
    "BAM",
    "CBAM",
    "ELSA",
    "AttentionAugmentedConv2d",
    "AttentionMap",
    "AttentionResidual",
    "AttentionStem",
    "AxialAttention",
    "BottleneckAttention",
    "ChannelAttention",
    "ChannelizedAxialAttention",
    "Compose",
    "ContentRelativeSelfAttention",
    "CoordinateAttention",
    "CrissCrossAttention",
    "DepthwiseConvolution",
    "DoubleAttention",
    "DualAttention",
    "DynamicFilter",
    "EfficientChannelAttention",
    "EfficientMultiScaleAttention",
    "GatedChannelTransformation",
    "GatherExcite",
    "GlobalContext",
    "HaloAttention",
    "IdentityStart",
    "LargeKernelAttention",
    "LearnToPayAttention",
    "LearnToPayClassifier",
    "LearnToPayGate",
    "LearnedRelativeSelfAttention",
    "LessAttention",
    "LocalFilter",
    "Mixer",
    "NonLocal",
    "Operator",
    "OutlookAttention",
    "Parallel",
    "ProgressiveAttention",
    "QuadraticSelfAttention",
    "Refine",
    "SecondOrderPooling",
    "SelectiveKernel",
    "SelfCalibratedConv2d",
    "SimAM",
    "SpatialAttention",
    "SqueezeExcitation",
    "StandAloneSelfAttention",
    "StaticGate",
    "StripPooling",
    "TripletAttention",
    "VanillaAttention",
    "WindowAttention",
    "diagonality_loss",
    "record_attention",
]


def _export_operators() -> None:
    """Imports every other file of this folder and exports the operators that it defines.

    Raises:
        ImportError: Two files define an operator of the same name. Errors of a file itself are passed on.
    """
    for found in pkgutil.iter_modules(__path__):
        if found.ispkg or found.name == "overview":  # a command, to be imported by its users
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        for name, value in vars(module).items():
            if not (inspect.isclass(value) and issubclass(value, Operator) and value.__module__ == module.__name__):
                continue
            if name.startswith("_"):
                continue
            if globals().setdefault(name, value) is not value:
                raise ImportError(
                    f"{module.__name__}.{name} is already {globals()[name].__module__}.{name}; rename one"
                )
            if name not in __all__:
                __all__.append(name)


_export_operators()
