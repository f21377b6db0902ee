"""Softmax attention whose weights are stored.

Read `precision.py` first: inner products in float32, which every operator with a softmax over keys uses. `axial.py` is
attention along one axis in plain PyTorch, and its channelized form, which would need a tensor of all contributions
if its sums were not exchanged.
"""

from attention.functional.logits.axial import axial_attention, axial_weights, channelized_axial_attention
from attention.functional.logits.precision import at_least_float32, autocast_off, precise_logits, products

__all__ = [
    "at_least_float32",
    "autocast_off",
    "axial_attention",
    "axial_weights",
    "channelized_axial_attention",
    "precise_logits",
    "products",
]
