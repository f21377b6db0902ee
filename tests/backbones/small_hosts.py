"""Every class of hosts once, as small as it gets, without anything random in training."""

from collections.abc import Callable

from attention import CoordinateAttention, SqueezeExcitation
from attention.bam import BAM
from attention.identity_start import IdentityStart
from backbones import (
    ELSAVOLO,
    VGG,
    VOLO,
    AttentionCNN,
    Backbone,
    EfficientNet,
    ELSASwin,
    HaloNet,
    LaViT,
    LessSwin,
    MobileNetV1,
    MobileNetV2,
    MobileNeXt,
    ResNet,
    Swin,
    TimmFeatures,
    TimmHaloNet,
)

SMALL_HOSTS: dict[str, Callable[[], Backbone]] = {
    "attention_cnn": lambda: AttentionCNN(layers=2, embed_channels=16, hidden_channels=16, dropout=0.0),
    "efficientnet": lambda: EfficientNet(last_conv=True, stochastic_depth=0.0),
    "elsa_swin": lambda: ELSASwin(32, (1, 1, 1, 1), kernel_size=3, drop_path=0.0),
    "elsa_volo": lambda: ELSAVOLO((1, 1, 1, 1), (32, 64), (2, 4), drop_path=0.0),
    "halonet": lambda: HaloNet(depths=(1, 1, 1, 1), width=16, heads=(1, 1, 1, 1), final_channels=32),
    "lavit": lambda: LaViT(
        embed_channels=(16, 32, 32, 32), heads=(1, 2, 2, 2), window=4, drop_path=0.0, diagonality=0.1
    ),
    "less_swin": lambda: LessSwin(32, (2, 1, 1, 2), (1, 1, 1, 1), (2, 4), drop_path=0.0, diagonality=0.1),
    "mobilenet_v1": lambda: MobileNetV1(0.25, lambda channels: SqueezeExcitation(channels, 4)),
    "mobilenet_v2": lambda: MobileNetV2(0.25, CoordinateAttention, last_conv=True, tap_expansion=True),
    "mobilenext": lambda: MobileNeXt(0.25),
    "resnet": lambda: ResNet(18, lambda channels: IdentityStart(channels, CoordinateAttention), attention_between=BAM),
    "swin": lambda: Swin(32, (1, 2, 1, 1), drop_path=0.0),
    "timm": lambda: TimmFeatures("resnet10t"),
    "timm_halo": lambda: TimmHaloNet("halonet26t"),
    "vgg": lambda: VGG(dropout=(0.0, 0.0)),
    "volo": lambda: VOLO((1, 1, 1, 1), (32, 64), (2, 4), drop_path=0.0),
}
