"""Exact sizes of the networks in the papers' ImageNet tables, and the head itself."""

import logging

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from attention import CBAM, ChannelAttention, CoordinateAttention, SpatialAttention, SqueezeExcitation
from backbones import Classifier, MobileNetV2, ResNet, classifier
from tests.selection import mostly_slow


def se(reduction, **options):
    return lambda channels: SqueezeExcitation(channels, reduction, **options)


def ca(reduction):
    return lambda channels: CoordinateAttention(channels, reduction)


def mobilenet(attention=None):
    return MobileNetV2(attention=attention, last_conv=True)


SIZES = {
    "mobilenet": (lambda: mobilenet(), 3_504_872),
    "mobilenet ca 8": (lambda: mobilenet(ca(8)), 5_213_456),
    "mobilenet ca 16": (lambda: mobilenet(ca(16)), 4_366_850),
    "mobilenet ca 24": (lambda: mobilenet(ca(24)), 4_086_776),
    "mobilenet ca 32": (lambda: mobilenet(CoordinateAttention), 3_950_648),
    "mobilenet ca 48": (lambda: mobilenet(ca(48)), 3_814_520),
    "mobilenet se 12": (lambda: mobilenet(se(12)), 4_264_440),
    "mobilenet se 16": (lambda: mobilenet(se(16)), 4_076_324),
    "mobilenet se 24": (lambda: mobilenet(se(24, hidden="relu6")), 3_888_208),
    "mobilenet se 32": (lambda: mobilenet(se(32)), 3_793_861),
    "mobilenet cbam 24": (lambda: mobilenet(lambda c: CBAM(c, 24)), 3_889_808),
    "resnet50": (lambda: ResNet(50), 25_557_032),
    "resnet18 se": (lambda: ResNet(18, SqueezeExcitation), 11_778_592),
    "resnet34 se": (lambda: ResNet(34, SqueezeExcitation), 21_958_868),
    "resnet50 se": (lambda: ResNet(50, SqueezeExcitation), 28_088_024),
    "resnet101 se": (lambda: ResNet(101, SqueezeExcitation), 49_326_872),
    "resnet152 se": (lambda: ResNet(152, SqueezeExcitation), 66_821_848),
    "resnet50 se pre": (lambda: ResNet(50, SqueezeExcitation, placement="pre"), 27_562_140),
    "resnet50 se post": (lambda: ResNet(50, SqueezeExcitation, placement="post"), 28_088_024),
    "resnet50 se identity": (lambda: ResNet(50, SqueezeExcitation, placement="identity"), 28_088_024),
    "resnet50 se stage 1": (lambda: ResNet(50, SqueezeExcitation, (1,)), 25_582_424),
    "resnet50 se stage 2": (lambda: ResNet(50, SqueezeExcitation, (2,)), 25_690_280),
    "resnet50 se stage 3": (lambda: ResNet(50, SqueezeExcitation, (3,)), 26_349_992),
    "resnet50 se stage 4": (lambda: ResNet(50, SqueezeExcitation, (4,)), 27_136_424),
    "resnet50 se r2": (lambda: ResNet(50, se(2)), 45_699_240),
    "resnet50 se r4": (lambda: ResNet(50, se(4)), 35_635_688),
    "resnet50 se r8": (lambda: ResNet(50, se(8)), 30_603_912),
    "resnet50 se r32": (lambda: ResNet(50, se(32)), 26_830_080),
    "resnet50 se without biases": (lambda: ResNet(50, se(16, bias=False)), 28_071_976),
    "resnet18 cbam": (lambda: ResNet(18, CBAM), 11_779_392),
    "resnet34 cbam": (lambda: ResNet(34, CBAM), 21_960_468),
    "resnet50 cbam": (lambda: ResNet(50, CBAM), 28_089_624),
    "resnet101 cbam": (lambda: ResNet(101, CBAM), 49_330_172),
    "resnet50 cam": (lambda: ResNet(50, ChannelAttention), 28_088_024),
    "resnet50 sam": (lambda: ResNet(50, SpatialAttention), 25_558_632),
    "resnet50 ca": (lambda: ResNet(50, CoordinateAttention), 27_474_864),
}

HERE = {  # in every run: each operator, placement and stage, one reduction
    *("mobilenet ca 8", "mobilenet se 24", "mobilenet cbam 24", "resnet18 se", "resnet50 se pre", "resnet50 se post"),
    *("resnet50 se identity", "resnet50 se stage 1", "resnet50 se stage 4", "resnet50 se without biases"),
    *("resnet34 cbam", "resnet50 cam", "resnet50 sam", "resnet50 ca"),
}

V15 = 4_089_184_256 - 3_857_973_248  # stride 2 in the 3x3 and not, as in the papers, in the first 1x1 convolution

MACS = {
    "mobilenet": (lambda: mobilenet(), 300_774_272),
    "mobilenet ca": (lambda: mobilenet(CoordinateAttention), 306_666_368),
    "mobilenet se": (lambda: mobilenet(se(24)), 301_150_208),
    "mobilenet cbam": (lambda: mobilenet(lambda c: CBAM(c, 24)), 302_524_960),
    "resnet50": (lambda: ResNet(50), 4_089_184_256),
    "resnet50 se": (lambda: ResNet(50, SqueezeExcitation), 4_091_699_200),
    "resnet50 se without squeeze": (lambda: ResNet(50, se(16, pooling="none")), 4_269_015_040 + V15),
    "resnet18 cbam": (lambda: ResNet(18, CBAM), 1_815_063_764),
    "resnet34 cbam": (lambda: ResNet(34, CBAM), 3_665_434_742),
    "resnet50 cbam": (lambda: ResNet(50, CBAM), 4_095_573_110),
    "resnet50 cam": (lambda: ResNet(50, ChannelAttention), 4_094_214_144),
    "resnet50 sam": (lambda: ResNet(50, SpatialAttention), 4_090_543_222),
    "resnet50 ca": (lambda: ResNet(50, CoordinateAttention), 4_116_250_624),
}


@pytest.mark.parametrize("name", mostly_slow(SIZES, HERE))
def test_parameters_of_the_papers_networks(name):
    make, expected = SIZES[name]
    with torch.device("meta"):
        network = Classifier(make())
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(
    "name", mostly_slow(MACS, {"mobilenet se", "resnet50 se without squeeze", "resnet18 cbam", "resnet50 ca"})
)
def test_multiply_accumulates_of_the_papers_networks(name):
    make, expected = MACS[name]
    with torch.device("meta"):
        network = Classifier(make()).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * expected


def test_scores_are_linear_in_the_mean_of_the_last_feature():
    network = Classifier(MobileNetV2(0.35), num_classes=7, dropout=0.5).eval()
    x = torch.randn(2, 3, 65, 33)
    pooled = network.backbone(x)[-1].mean((2, 3))
    torch.testing.assert_close(network(x), pooled @ network.fc.weight.T)
    torch.manual_seed(0)
    assert not torch.equal(network.train()(x), network(x))


def test_a_classifier_needs_classes():
    with pytest.raises(ValueError, match="num_classes=0"):
        Classifier(MobileNetV2(0.35), 0)


PEERS = {
    "resnet50": ("resnet50", lambda: torchvision.models.resnet50()),
    "mobilenet_v2": ("mobilenet_v2", lambda: torchvision.models.mobilenet_v2()),
    "efficientnet_b0": ("efficientnet_b0", lambda: torchvision.models.efficientnet_b0()),
    "swin_t": ("swin_t", lambda: torchvision.models.swin_t()),
    "timm's mobilenet_v2": ("mobilenet_v2", lambda: timm.create_model("mobilenetv2_100")),
    "timm's efficientnet_b0": ("efficientnet_b0", lambda: timm.create_model("efficientnet_b0")),
    "timm's se_resnet50": ("se_resnet50", lambda: timm.create_model("seresnet50")),
    "timm's swin_t": ("swin_t", lambda: timm.create_model("swin_tiny_patch4_window7_224")),
    "timm's halonet26t": ("halonet26t", lambda: timm.create_model("halonet26t")),
}


@pytest.mark.parametrize("name", mostly_slow(PEERS, {"resnet50", "timm's mobilenet_v2"}))
def test_published_weights_give_the_published_scores(name, tmp_path, caplog):
    ours, make = PEERS[name]
    torch.manual_seed(0)
    peer, path = make().double().eval(), str(tmp_path / "weights.pth")
    torch.save(peer.state_dict(), path)
    with caplog.at_level(logging.INFO):
        network = classifier(ours, weights=path).double().eval()
    assert caplog.records == []
    side = 256 if "halo" in name else 224 if "timm's swin" in name else 64  # sizes that timm's networks take
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        scores = peer(x)
        # Parameters were rounded to float32 on their way in.
        torch.testing.assert_close(network(x), scores, rtol=1e-5, atol=1e-5 * float(scores.abs().max()))


@pytest.mark.parametrize("name", ["ltpa_vgg", "elsa_volo_d1", "mobilenet_v2_ca"])
def test_own_files_fill_every_kind_of_head(name, tmp_path, caplog):
    source, path = classifier(name, 7), str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    with caplog.at_level(logging.INFO):
        target = classifier(name, 7, weights=path)
    state = target.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())
    assert caplog.records == []


def test_a_head_of_other_classes_stays_as_initialised_with_a_warning(tmp_path, caplog):
    peer, path = torchvision.models.mobilenet_v2(), str(tmp_path / "weights.pth")
    torch.save(peer.state_dict(), path)
    network = classifier("mobilenet_v2", 10, weights=path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 entries of the classifier stay as initialised: fc.weight, fc.bias" in record.message
    assert network.fc.out_features == 10
    assert torch.equal(network.backbone.features[1].conv[1].weight, peer.features[1].conv[1].weight)
