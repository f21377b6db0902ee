"""Attention operators: tensors in, tensors out, torch only.

Two families share this package. A `Refine` keeps the shape of a feature map and sits behind a convolution; a `Mixer`
stands in for a spatial convolution.
"""

from attention.base import Mixer, Refine
from attention.cbam import CBAM, ChannelAttention
from attention.coordinate import CoordinateAttention
from attention.spatial import SpatialAttention
from attention.squeeze_excitation import SqueezeExcitation

__all__ = [
    "CBAM",
    "ChannelAttention",
    "CoordinateAttention",
    "Mixer",
    "Refine",
    "SpatialAttention",
    "SqueezeExcitation",
]
