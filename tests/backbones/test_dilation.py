"""Dilation in place of strides keeps the function: dense maps agree with strided ones on the strided grid."""

import pytest
import torch
import torchvision

from attention import SpatialAttention
from backbones import MobileNetV2, ResNet
from backbones.dilation import CellMean


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "host",
    [
        lambda **o: ResNet(18, variant="v1d", **o),
        pytest.param(lambda **o: ResNet(50, **o), marks=pytest.mark.slow),
        MobileNetV2,
    ],
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


@pytest.mark.parametrize("distance", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 3), (2, 7), (5, 4)])
def test_means_of_spread_cells(distance: int, size: tuple[int, int]) -> None:
    """Of the four positions those that lie on the map."""
    pool = CellMean(2)
    pool.stride, pool.distance = 1, distance
    x = torch.arange(float(size[0] * size[1])).square().reshape(1, 1, *size)
    for row in range(size[0]):
        for column in range(size[1]):
            expected = x[0, 0, row : row + distance + 1 : distance, column : column + distance + 1 : distance].mean()
            torch.testing.assert_close(pool(x)[0, 0, row, column], expected)


def test_mobilenet_rates_of_mmsegmentation() -> None:
    rates = [
        [
            block.depthwise.dilation[0]
            for block in MobileNetV2(output_stride=stride, dilation="mmsegmentation").features[1:]
        ]
        for stride in (8, 16, 32)
    ]
    assert rates == [
        [1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 4, 1, 1, 4],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2],
        [1] * 17,
    ]


LAST_STAGES: list[tuple[int, dict[str, object], list[list[int]]]] = [
    (50, {}, [[2], [4], [4]]),
    (50, {"contract_dilation": False}, [[4], [4], [4]]),
    (50, {"multi_grid": (1, 2, 4)}, [[4], [8], [16]]),
    (50, {"multi_grid": (1, 2, 4), "dilation": "mmsegmentation"}, [[1], [2], [4]]),
    (18, {}, [[2, 4], [4, 4]]),
    (18, {"dilation": "mmsegmentation"}, [[2, 1], [4, 1]]),
    (18, {"multi_grid": (1, 2)}, [[4, 4], [8, 8]]),
    (18, {"multi_grid": (1, 2), "dilation": "mmsegmentation"}, [[1, 1], [2, 1]]),
]


@pytest.mark.parametrize(("depth", "options", "expected"), LAST_STAGES)
def test_rates_of_the_last_stage(depth: int, options: dict[str, object], expected: list[list[int]]) -> None:
    with torch.device("meta"):
        stage = ResNet(depth, output_stride=8, **options).layer4
    assert [[convolution.dilation[0] for convolution in block.spatial] for block in stage] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multi_grid": (1, 2)}, "give 3 numbers from 1 on"),
        ({"multi_grid": (0, 1, 2)}, "give 3 numbers from 1 on"),
        ({"variant": "v1d", "stem": "attention"}, "choose stem='conv'"),
        ({"variant": "v2"}, "v1b"),
        ({"dilation": "full"}, "a_trous"),
    ],
)
def test_options_that_make_no_network(options: dict[str, object], words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        ResNet(50, **options)


def test_options_that_change_nothing_are_as_usual() -> None:
    with torch.device("meta"):
        usual = ResNet(50, output_stride=8).network_options()
        assert ResNet(50, output_stride=8, dilation="mmsegmentation").network_options() == usual
        assert ResNet(18, dilation="mmsegmentation", contract_dilation=False).network_options() == (
            ResNet(18).network_options()
        )
        assert ResNet(18, output_stride=8, dilation="mmsegmentation").network_options()["dilation"] == "mmsegmentation"
        assert MobileNetV2(dilation="mmsegmentation").network_options() == MobileNetV2().network_options()
