"""Backbones: images to feature maps, with attention from the package `attention` inserted where the papers put it."""

from backbones.attention_cnn import AttentionCNN
from backbones.base import Backbone
from backbones.classifier import Classifier
from backbones.efficientnet import EfficientNet
from backbones.elsa_swin import ELSASwin
from backbones.elsa_volo import ELSAVOLO
from backbones.halonet import HaloNet
from backbones.lavit import LaViT
from backbones.less_swin import LessSwin
from backbones.mobilenet_v1 import MobileNetV1
from backbones.mobilenet_v2 import MobileNetV2
from backbones.mobilenext import MobileNeXt
from backbones.resnet import ResNet
from backbones.swin import Swin
from backbones.timm_features import TimmFeatures, timm
from backbones.timm_halo import TimmHaloNet
from backbones.vgg import VGG, LearnToPayNetwork
from backbones.volo import VOLO
from backbones.weights import export_weights, load_classifier, load_weights
from backbones.zoo.attention_cnn import attention_cnn_content, attention_cnn_learned, attention_cnn_quadratic
from backbones.zoo.elsa import (
    elsa_swin_b,
    elsa_swin_s,
    elsa_swin_t,
    elsa_volo_d1,
    elsa_volo_d2,
    elsa_volo_d3,
    elsa_volo_d4,
    elsa_volo_d5,
)
from backbones.zoo.halonets import (
    eca_halonext26ts,
    halo2botnet50ts,
    halonet26t,
    halonet50ts,
    halonet_50,
    halonet_h0,
    halonet_h1,
    halonet_h2,
    halonet_h3,
    halonet_h4,
    halonet_h4_21k,
    halonet_h4_conv12,
    halonet_h5,
    halonet_h6,
    halonet_h7,
    sehalonet33ts,
)
from backbones.zoo.lavit import lavit_b, lavit_s, lavit_t
from backbones.zoo.ltpa import ltpa_vgg
from backbones.zoo.mobile import (
    cbam_mobilenet_v1,
    efficientnet_b0,
    efficientnet_b0_ca,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v2_ca,
    mobilenet_v2_cbam,
    mobilenet_v2_se,
    mobilenext,
    mobilenext_ca,
)
from backbones.zoo.registry import build_backbone, classifier, list_backbones, published_figures
from backbones.zoo.resnets import (
    aa_resnet34,
    aa_resnet50,
    aa_resnet101,
    aa_resnet152,
    bam_resnet50,
    cbam_resnet50,
    halo_resnet50,
    halo_resnet101,
    resnet50,
    sasa_resnet26,
    sasa_resnet38,
    sasa_resnet50,
    se_resnet50,
    se_resnext50_32x4d,
    sknet50,
    spatial_resnet50,
)
from backbones.zoo.swin import swin_b, swin_s, swin_t
from backbones.zoo.volo import volo_d1, volo_d2, volo_d3, volo_d4, volo_d5

__all__ = [
    "ELSAVOLO",
    "VGG",
    "VOLO",
    "AttentionCNN",
    "Backbone",
    "Classifier",
    "ELSASwin",
    "EfficientNet",
    "HaloNet",
    "LaViT",
    "LearnToPayNetwork",
    "LessSwin",
    "MobileNeXt",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "Swin",
    "TimmFeatures",
    "TimmHaloNet",
    "aa_resnet34",
    "aa_resnet50",
    "aa_resnet101",
    "aa_resnet152",
    "attention_cnn_content",
    "attention_cnn_learned",
    "attention_cnn_quadratic",
    "bam_resnet50",
    "build_backbone",
    "cbam_mobilenet_v1",
    "cbam_resnet50",
    "classifier",
    "eca_halonext26ts",
    "efficientnet_b0",
    "efficientnet_b0_ca",
    "elsa_swin_b",
    "elsa_swin_s",
    "elsa_swin_t",
    "elsa_volo_d1",
    "elsa_volo_d2",
    "elsa_volo_d3",
    "elsa_volo_d4",
    "elsa_volo_d5",
    "export_weights",
    "halo2botnet50ts",
    "halo_resnet50",
    "halo_resnet101",
    "halonet26t",
    "halonet50ts",
    "halonet_50",
    "halonet_h0",
    "halonet_h1",
    "halonet_h2",
    "halonet_h3",
    "halonet_h4",
    "halonet_h4_21k",
    "halonet_h4_conv12",
    "halonet_h5",
    "halonet_h6",
    "halonet_h7",
    "lavit_b",
    "lavit_s",
    "lavit_t",
    "list_backbones",
    "load_classifier",
    "load_weights",
    "ltpa_vgg",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v2_ca",
    "mobilenet_v2_cbam",
    "mobilenet_v2_se",
    "mobilenext",
    "mobilenext_ca",
    "published_figures",
    "resnet50",
    "sasa_resnet26",
    "sasa_resnet38",
    "sasa_resnet50",
    "se_resnet50",
    "se_resnext50_32x4d",
    "sehalonet33ts",
    "sknet50",
    "spatial_resnet50",
    "swin_b",
    "swin_s",
    "swin_t",
    "timm",
    "volo_d1",
    "volo_d2",
    "volo_d3",
    "volo_d4",
    "volo_d5",
]
