"""Detectors: a backbone, torchvision's detection parts, losses and boxes in original pixels."""

from tasks.detectors.base import Detector, DetectorBuilder
from tasks.detectors.cascade_rcnn import CascadeMaskRCNN, CascadeRCNN
from tasks.detectors.faster_rcnn import FasterRCNN, MaskRCNN
from tasks.detectors.fcos import FCOS
from tasks.detectors.focal_ssdlite import FocalSSDLite320
from tasks.detectors.retinanet import RetinaNet
from tasks.detectors.ssdlite import SSDLite320

__all__ = [
    "FCOS",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "Detector",
    "DetectorBuilder",
    "FasterRCNN",
    "FocalSSDLite320",
    "MaskRCNN",
    "RetinaNet",
    "SSDLite320",
]
