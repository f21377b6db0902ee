"""Dilation in place of strides keeps the function: dense maps agree with strided ones on the strided grid."""

import pytest
import torch
import torchvision

from attention import SpatialAttention
from backbones import MobileNetV2, ResNet


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "host",
    [lambda **o: ResNet(18, **o), pytest.param(lambda **o: ResNet(50, **o), marks=pytest.mark.slow), MobileNetV2],
)
def test_dense_features_contain_the_strided_ones(host, output_stride):
    torch.manual_seed(0)
    strided, dense = host().double().eval(), host(output_stride=output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected, stride, expected_stride in zip(
            dense(x), strided(x), dense.strides, strided.strides, strict=True
        ):
            step = expected_stride // stride
            torch.testing.assert_close(feature[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True])])
def test_resnet50_equals_torchvision_with_dilation(output_stride, replaced):
    peer = torchvision.models.resnet50(replace_stride_with_dilation=replaced).eval()
    ours = ResNet(50, output_stride=output_stride).eval()
    ours.load_state_dict({n: v for n, v in peer.state_dict().items() if not n.startswith("fc.")})
    peer.avgpool = peer.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 65)
    with torch.no_grad():
        assert torch.equal(ours(x)[-1].flatten(1), peer(x))


def test_inserted_attention_is_not_dilated():
    backbone = ResNet(18, SpatialAttention, output_stride=8)
    kernels = [m.conv for m in backbone.modules() if isinstance(m, SpatialAttention)]
    assert {(k.dilation, k.padding) for k in kernels} == {((1, 1), (3, 3))}


def test_mobilenet_rates_by_row():
    backbone = MobileNetV2(output_stride=8)
    rates = [block.conv[-3][0].dilation[0] for block in backbone.features[1:]]
    assert rates == [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4]
