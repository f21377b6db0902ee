"""Weights of whole detectors in other libraries' layouts, under our names."""

from tasks.detectors.conversions.mmdetection import from_mmdetection, is_mmdetection
from tasks.detectors.conversions.torchvision import from_torchvision, is_torchvision

__all__ = ["from_mmdetection", "from_torchvision", "is_mmdetection", "is_torchvision"]
