"""Detectors: a backbone, torchvision's detection parts, losses and boxes in original pixels."""

from tasks.detectors.base import Detector, DetectorBuilder
from tasks.detectors.fcos import FCOS
from tasks.detectors.retinanet import RetinaNet
from tasks.detectors.ssdlite import SSDLite320

__all__ = ["FCOS", "Detector", "DetectorBuilder", "RetinaNet", "SSDLite320"]
