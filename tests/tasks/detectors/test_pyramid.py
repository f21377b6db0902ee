"""The feature pyramid: levels, names and values of torchvision's, and the simple pyramid of a single map."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from backbones import Backbone
from tasks.detectors.pyramid import FeaturePyramid


class Maps(Backbone):
    """One 1x1 convolution for every map, with 6 channels more from map to map."""

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.strides = strides
        self.channels = tuple(8 + 6 * level for level in range(len(strides)))
        self.convs = nn.ModuleList(
            nn.Conv2d(3, channels, 1, stride) for channels, stride in zip(self.channels, strides, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(x) for conv in self.convs]

    def stages(self) -> list[list[nn.Module]]:
        return [[self.convs]]


@pytest.mark.parametrize(
    ("strides", "finest", "coarsest", "scales", "read"),
    [
        ((4, 8, 16, 32), 8, 128, [8, 16, 32, 64, 128], (8, 16, 32)),
        ((4, 8, 16, 32), 4, 64, [4, 8, 16, 32, 64], (4, 8, 16, 32)),
        ((4, 8, 16, 32), 8, 32, [8, 16, 32], (8, 16, 32)),
        ((4, 8, 16, 32), 4, 16, [4, 8, 16], (4, 8, 16)),
        ((4, 8, 16, 32), 16, 256, [16, 32, 64, 128, 256], (16, 32)),
        ((4, 8, 8, 8), 8, 64, [8, 16, 32, 64], (8, 8, 8)),
        ((4, 8, 8, 8), 8, 16, [8, 16], (8, 8)),
        ((8, 16), 4, 64, [8, 16, 32, 64], (8, 16)),
        ((16,), 4, 64, [4, 8, 16, 32, 64], (16,)),
        ((32,), 8, 32, [8, 16, 32], (32,)),
        ((2,), 8, 16, [8, 16], (2,)),
    ],
)
@pytest.mark.parametrize("extra", ["p6p7_from_p5", "max_pool"])
def test_levels(
    strides: tuple[int, ...], finest: int, coarsest: int, scales: list[int], read: tuple[int, ...], extra: str
) -> None:
    backbone = Maps(*strides)
    pyramid = FeaturePyramid(backbone, 12, finest, coarsest, extra)
    assert (pyramid.scales, backbone.strides, pyramid.num_levels) == (scales, read, len(scales))
    maps = pyramid(backbone(torch.zeros(1, 3, 256, 512)))
    dilated = {(8, 8, 8): [8, 8, 8, 16], (8, 8): [8, 8]}  # whose strides stay where dilation takes their place
    assert [tuple(level.shape) for level in maps] == [
        (1, 12, 256 // stride, 512 // stride) for stride in dilated.get(read, scales)
    ]


@pytest.mark.parametrize(("extra", "coarsest"), [("p6p7_from_p5", 128), ("p6p7_from_c5", 128), ("max_pool", 64)])
@pytest.mark.parametrize("normalised", [False, True])
def test_names_and_values_are_torchvisions(extra: str, coarsest: int, normalised: bool) -> None:
    torch.manual_seed(0)
    backbone = Maps(8, 16, 32)
    norm = partial(nn.BatchNorm2d, eps=1e-3) if normalised else None
    pyramid = FeaturePyramid(backbone, 12, 8, coarsest, extra, norm=norm)
    blocks = {
        "p6p7_from_p5": LastLevelP6P7(12, 12),
        "p6p7_from_c5": LastLevelP6P7(20, 12),
        "max_pool": LastLevelMaxPool(),
    }
    peer = FeaturePyramidNetwork([8, 14, 20], 12, blocks[extra], norm)
    pyramid.fpn.load_state_dict(peer.state_dict())
    features = backbone(torch.randn(2, 3, 100, 130))
    expected = peer(OrderedDict((str(level), feature) for level, feature in enumerate(features)))
    found = pyramid(features)
    assert len(found) == len(expected) == pyramid.num_levels
    assert all(torch.equal(one, other) for one, other in zip(found, expected.values(), strict=True))


def test_further_levels_go_on_behind_p7() -> None:
    torch.manual_seed(0)
    backbone = Maps(8, 16)
    pyramid = FeaturePyramid(backbone, 12, 8, 128)
    maps = pyramid(backbone(torch.randn(1, 3, 256, 128)))
    extra = pyramid.fpn.extra_blocks
    expected = extra.p8(functional.relu(extra.p7(functional.relu(extra.p6(maps[1])))))
    assert len(maps) == 5 and torch.equal(maps[-1], expected)


class TestSimplePyramid:
    """ViTDet's: by hand from the same weights."""

    def test_levels_by_hand(self) -> None:
        torch.manual_seed(0)
        backbone = Maps(16)
        pyramid = FeaturePyramid(backbone, 6, 4, 64, "max_pool")
        with torch.no_grad():
            for parameter in pyramid.parameters():
                parameter.copy_(torch.randn_like(parameter))
        (feature,) = features = backbone(torch.randn(2, 3, 48, 80))
        weights = pyramid.fpn.state_dict()

        def normalised(x: Tensor, name: str) -> Tensor:
            centred = x - x.mean(1, keepdim=True)
            x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
            return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

        def doubled(x: Tensor, name: str) -> Tensor:
            parts = torch.einsum("bchw,cdij->bdhiwj", x, weights[f"{name}.weight"])
            return parts.flatten(4, 5).flatten(2, 3) + weights[f"{name}.bias"][:, None, None]

        quarter = doubled(feature, "levels.0.0")
        quarter = doubled(functional.gelu(normalised(quarter, "levels.0.1")), "levels.0.3")
        halves = functional.pad(feature, (0, 1, 0, 1), value=-torch.inf).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
        expected = []
        for level, (before, at) in enumerate(
            [(quarter, 4), (doubled(feature, "levels.1.0"), 1), (feature, 0), (halves, 1)]
        ):
            x = functional.conv2d(before, weights[f"levels.{level}.{at}.0.weight"])
            x = normalised(x, f"levels.{level}.{at}.1")
            x = functional.conv2d(x, weights[f"levels.{level}.{at + 1}.0.weight"], padding=1)
            expected.append(normalised(x, f"levels.{level}.{at + 1}.1"))
        expected.append(expected[-1][..., ::2, ::2])
        found = pyramid(features)
        assert [tuple(x.shape[2:]) for x in found] == [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_by_option_the_coarsest_map_is_used_alone(self) -> None:
        backbone = Maps(4, 8, 16, 32)
        pyramid = FeaturePyramid(backbone, 6, simple=True)
        assert backbone.strides == (32,) and pyramid.scales == [8, 16, 32, 64, 128]
        sum(level.sum() for level in pyramid(backbone(torch.randn(2, 3, 128, 256)))).backward()
        assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strides \(2, 4\), a feature pyramid needs some of 8 to 128; choose another"):
        FeaturePyramid(Maps(2, 4))
    with pytest.raises(ValueError, match="needs some of 64 to 16"):
        FeaturePyramid(Maps(16), finest_stride=64, coarsest_stride=16)
    with pytest.raises(ValueError, match="extra='p6' is unknown"):
        FeaturePyramid(Maps(8, 16), extra="p6")
    with pytest.raises(ValueError, match="needs a backbone with a map of stride 32"):
        FeaturePyramid(Maps(16), extra="p6p7_from_c5")
