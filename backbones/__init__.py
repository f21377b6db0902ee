"""Backbones: images to feature maps, with attention from the package `attention` inserted where the papers put it."""

from backbones.base import Backbone
from backbones.classifier import Classifier
from backbones.mobilenet_v2 import MobileNetV2
from backbones.resnet import ResNet
from backbones.weights import load_weights

__all__ = ["Backbone", "Classifier", "MobileNetV2", "ResNet", "load_weights"]
