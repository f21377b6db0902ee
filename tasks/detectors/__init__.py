"""Detectors: a backbone, torchvision's detection parts, losses and boxes in original pixels."""

from tasks.detectors.base import Detector, DetectorBuilder
from tasks.detectors.fcos import FCOS
from tasks.detectors.focal_ssdlite import FocalSSDLite320
from tasks.detectors.retinanet import RetinaNet
from tasks.detectors.ssdlite import SSDLite320

__all__ = ["FCOS", "Detector", "DetectorBuilder", "FocalSSDLite320", "RetinaNet", "SSDLite320"]
