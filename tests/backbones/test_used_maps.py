"""A backbone that is told which maps are read computes those as before and keeps nothing that only the others need."""

import copy
import io
import logging
from itertools import pairwise

import pytest
import timm as library
import torch
from torch import nn

import backbones.in_timm  # noqa: F401 - registers the networks
from backbones import ELSAVOLO, Backbone, LaViT, ResNet, Swin, TimmFeatures, load_weights
from tests.backbones.small_hosts import SMALL_HOSTS
from tests.selection import mostly_slow

SIDES = (33, 45)
HERE = ("elsa_volo", "lavit", "mobilenet_v2", "mobilenext", "resnet", "swin", "timm", "vgg")
"""In every run of the tests: each host that says by itself what it leaves out, and one that does not."""


def choices(count: int) -> list[tuple[int, ...]]:
    """Some maps of `count`: without the finest, without the coarsest, the last, the first."""
    found = [tuple(range(1, count)), tuple(range(count - 1)), (count - 1,), (0,)]
    return sorted({choice for choice in found if choice})


@pytest.mark.parametrize("host", mostly_slow(SMALL_HOSTS, HERE))
def test_used_maps_are_those_of_the_whole_network(host: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    whole = SMALL_HOSTS[host]().eval()
    x = torch.randn(1, 3, *SIDES)
    with torch.no_grad():
        expected = whole(x)
    for maps in choices(len(whole.channels)):
        part = copy.deepcopy(whole)
        part.use_maps(maps)
        assert part.channels == tuple(whole.channels[index] for index in maps)
        assert part.strides == tuple(whole.strides[index] for index in maps)
        found = part(x)
        assert len(found) == len(maps)
        assert all(torch.equal(one, expected[index]) for one, index in zip(found, maps, strict=True))
        sum(feature.square().mean() for feature in found).backward()
        assert [name for name, parameter in part.named_parameters() if parameter.grad is None] == []
        assert sum(map(len, part.layer_groups())) == len([*part.parameters()])
        assert len(part.stages()) == len(whole.stages())  # frozen stages keep their numbers
        part.load_state_dict(whole.state_dict())
        file = io.BytesIO()
        torch.save(part.state_dict(), file)
        file.seek(0)
        part.load_state_dict(torch.load(file, weights_only=True))


class TestLeftOut:
    """What is gone, and what stays as it was."""

    def test_swin_loses_norms_and_late_stages(self) -> None:
        whole, part = Swin(32, (1, 1, 1, 1)), Swin(32, (1, 1, 1, 1), out_indices=(1, 2))
        lost = {name for name, _ in whole.named_parameters()} - {name for name, _ in part.named_parameters()}
        assert {name.split(".")[0] for name in lost if not name.startswith("features.")} == {"norm0", "norm3"}
        assert {".".join(name.split(".")[:2]) for name in lost if name.startswith("features.")} == {
            "features.6",
            "features.7",
        }
        assert LaViT(out_indices=(3,)).channels == (512,)

    def test_published_weights_load_without_a_word(self, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
        """Entries of parts that were left out are known; foreign ones are still reported."""
        path = str(tmp_path / "whole.pth")
        whole, part = (Swin(32, (1, 1, 1, 1)) for _ in range(2))
        torch.save(whole.state_dict(), path)
        part.use_maps((1, 2))
        with caplog.at_level(logging.WARNING):
            load_weights(part, path)
        assert caplog.records == []
        assert torch.equal(part.norm1.weight, whole.norm1.weight) and torch.equal(
            part.features[5][0].attn.qkv.weight, whole.features[5][0].attn.qkv.weight
        )
        torch.save({**whole.state_dict(), "norm9.weight": torch.zeros(1)}, path)
        with caplog.at_level(logging.WARNING):
            load_weights(part, path)
        assert "ignored 1 unexpected entries: norm9.weight" in caplog.text
        with pytest.raises(RuntimeError, match=r"norm9\.weight"):
            part.load_state_dict({**whole.state_dict(), "norm9.weight": torch.zeros(1)})
        torch.save(part.state_dict(), path)
        with pytest.raises(ValueError, match="lacks"):
            load_weights(whole, path)

    def test_a_second_choice_is_among_the_first(self) -> None:
        host = ResNet(18)
        host.use_maps((1, 2, 3))
        host.use_maps((0, -2))
        assert host.channels == (128, 256) and host.strides == (8, 16)
        assert [map.shape[1] for map in host(torch.zeros(1, 3, 32, 32))] == [128, 256]
        assert not [*host.layer4.parameters()]
        host.use_maps((0, 1))  # all
        assert host.strides == (8, 16)

    @pytest.mark.parametrize("indices", [(), (4,), (-5,), (1, 1), (2, 1)])
    def test_wrong_choices_are_refused(self, indices: tuple[int, ...]) -> None:
        host = ResNet(18).eval()
        with pytest.raises(ValueError, match="this network has 4 feature maps; choose 0 to 3, in ascending order"):
            host.use_maps(indices)
        assert len(host(torch.zeros(1, 3, 32, 32))) == 4

    def test_frozen_stages_stay_frozen(self) -> None:
        host = Swin(32, (1, 1, 1, 1), frozen_stages=2)
        host.use_maps((1, 2))
        frozen = nn.ModuleList(part for stage in host.stages()[:2] for part in stage)
        assert not any(p.requires_grad for p in frozen.parameters()) and host.norm1.weight.requires_grad
        host.train()
        assert not any(module.training for part in frozen for module in part.modules())
        host.freeze(5)
        assert not any(p.requires_grad for p in host.parameters())

    def test_a_host_that_only_returns_maps_is_selected_from(self) -> None:
        """`use_maps` holds for every subclass, whether it can leave something out or not."""

        class Plain(Backbone):
            channels, strides = (3, 3), (1, 2)

            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Conv2d(3, 3, 1)

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                return [self.scale(x), self.scale(x)[:, :, ::2, ::2]]

            def stages(self) -> list[list[nn.Module]]:
                return [[self.scale]]

        host = Plain()
        host.use_maps((1,))
        assert [tuple(map.shape) for map in host(torch.zeros(1, 3, 8, 8))] == [(1, 3, 4, 4)]

    def test_volo_is_cut_at_the_map_of_stride_8(self) -> None:
        host = ELSAVOLO((1, 1, 1, 1), (32, 64), (2, 4))
        host.use_maps((0,))
        assert {name.split(".")[0] for name, _ in host.named_parameters()} == {"patch_embed", "network", "norm0"}
        assert all(name.startswith("network.0.") for name, _ in host.named_parameters() if "network" in name)


def test_compiled_and_exported() -> None:
    host = ResNet(18).eval()
    host.use_maps((1, 2))
    x = torch.randn(1, 3, 32, 32)
    expected = host(x)
    torch.compiler.reset()
    for found in (torch.compile(host, backend="eager", fullgraph=True)(x), torch.export.export(host, (x,)).module()(x)):
        assert len(found) == 2
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
        pytest.param("swin_tiny_patch4_window7_224", {"strict_img_size": False}, marks=pytest.mark.slow),
        pytest.param("convnext_atto", {}, marks=pytest.mark.slow),
        pytest.param("edgenext_xx_small", {}, marks=pytest.mark.slow),
        pytest.param("pvt_v2_b0", {}, marks=pytest.mark.slow),
    ],
)
def test_networks_of_timm_end_behind_the_last_map(name: str, options: dict) -> None:
    host = TimmFeatures(name, options=options).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = host(x)
    counts = [sum(p.numel() for p in host.parameters())]
    while len(host.channels) > 1:
        host.use_maps(range(len(host.channels) - 1))
        found = host(x)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=False))
        sum(feature.square().mean() for feature in found).backward()
        assert [name for name, p in host.named_parameters() if p.grad is None] == []
        counts.append(sum(p.numel() for p in host.parameters()))
    assert all(after < before for before, after in pairwise(counts))


def test_timm_and_mmsegmentation_leave_out_as_well() -> None:
    from mmseg.registry import MODELS

    import backbones.in_mmseg

    network = library.create_model("elsa_swin_t", features_only=True, out_indices=(2, 1))
    assert network.feature_info.channels() == [384, 192]
    assert [map.shape[1] for map in network(torch.zeros(1, 3, 32, 32))] == [384, 192]
    names = {name.split(".")[1] for name, _ in network.named_parameters()}
    assert names == {"features", "norm1", "norm2"}
    host = MODELS.build(dict(type="elsa_swin_t", out_indices=(1, 2, 3), frozen_stages=1))
    assert host.channels == (192, 384, 768) and not [*host.norm0.parameters()]
    assert backbones.in_mmseg.MODELS is MODELS
