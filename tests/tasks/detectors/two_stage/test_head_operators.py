"""Operators in the pyramid, the region proposals and the heads of two-stage detectors."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from attention import CoordinateAttention, Mixer, StandAloneSelfAttention, StaticGate
from attention.identity_start import IdentityStart
from backbones import ResNet
from tasks.detectors import CascadeMaskRCNN, MaskRCNN
from tasks.losses import sum_losses
from tests.selection import mostly_slow
from tests.tasks.detectors.two_stage.small import BOX, BUILDERS, CONVS, MASK, SMALL, K, small_batch, spread

ATTENTION = partial(StandAloneSelfAttention, heads=4, kernel_size=3)
MIXERS: dict[str, Any] = {"pyramid_mixer": ATTENTION, "head_mixer": ATTENTION}
REFINEMENTS: dict[str, Any] = {"pyramid_attention": StaticGate, "head_attention": CoordinateAttention}
every_detector = pytest.mark.parametrize("name", mostly_slow(BUILDERS, {"mask", "cascade_mask"}))


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in module.modules())


@every_detector
def test_mixers_take_the_place_of_every_convolution_of_three_cells(name: str) -> None:
    with torch.device("meta"):
        plain, mixed = BUILDERS[name](), BUILDERS[name](**MIXERS)
    for part in ("neck", "rpn", "box_heads", "mask_heads"):
        before, after = plain.get_submodule(part), mixed.get_submodule(part)
        convolutions = [c for c in before.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)]
        assert count(after, Mixer) == len(convolutions), part
        assert not [c for c in after.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)]
        saved = sum(9 * c.in_channels * c.out_channels for c in convolutions)
        saved += sum(c.out_channels for c in convolutions if c.bias is not None)
        # queries, keys and values without biases, and 3 rows and columns
        made = sum(3 * c.in_channels * c.out_channels + 3 * c.out_channels for c in convolutions)
        sizes = [sum(p.numel() for p in detector.parameters()) for detector in (before, after)]
        assert sizes[1] - sizes[0] == made - saved
    assert count(mixed.neck, Mixer) == 4 and count(mixed.rpn, Mixer) == 1


@every_detector
def test_refinements_stand_behind_the_convolutions(name: str) -> None:
    with torch.device("meta"):
        detector = BUILDERS[name](**REFINEMENTS)
    assert [layer.channels for layer in detector.neck.refine] == [16] * 5
    assert count(detector.rpn, CoordinateAttention) == 1 and detector.rpn.head.conv[-1].channels == 16
    for head in detector.box_heads:
        assert head.refine.channels == (8 if name in ("mask_torchvision", "cascade_mask") else 16)
    for head in detector.mask_heads:
        assert isinstance(head.layers[-1], CoordinateAttention) and head.layers[-1].channels == 8


@every_detector
@pytest.mark.parametrize("options", [MIXERS, REFINEMENTS], ids=["mixers", "refinements"])
def test_every_operator_learns(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    detector = BUILDERS[name](**options)
    sum_losses(detector(small_batch())).backward()
    inserted = [m for m in detector.modules() if isinstance(m, Mixer | StaticGate | CoordinateAttention)]
    assert len(inserted) >= 5
    for operator in inserted:
        for parameter in operator.parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    sum_losses(detector(small_batch([[], []]))).backward()
    assert all(value.isfinite().all() for value in detector.state_dict().values())


def test_refinements_that_start_as_nothing_change_nothing() -> None:
    """Weights of the plain detector have their names in the refined one, which then finds the same."""
    start = partial(IdentityStart, operator=CoordinateAttention)
    for build in (
        partial(MaskRCNN, ResNet(18), K, box_head=BOX, mask_head=MASK, score_threshold=0.0, **SMALL),
        partial(CascadeMaskRCNN, ResNet(18), K, box_head=CONVS, mask_head=MASK, score_threshold=0.0, **SMALL),
    ):
        torch.manual_seed(0)
        plain, refined = build().eval(), build(pyramid_attention=start, head_attention=start).eval()
        spread(plain)
        missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
        assert unexpected == [] and all("refine" in n or "conv." in n or "layers." in n for n in missing)
        with torch.no_grad():
            for one, other in zip(plain(small_batch()), refined(small_batch()), strict=True):
                for key in ("boxes", "scores", "labels"):
                    torch.testing.assert_close(one[key], other[key])


def test_the_box_head_refines_in_front_of_its_linear_layers() -> None:
    torch.manual_seed(0)
    pooled = torch.randn(3, 16, 7, 7)
    for options in (BOX, CONVS):
        detector = MaskRCNN(ResNet(18), K, box_head=options, mask_head=MASK, head_attention=StaticGate, **SMALL).eval()
        head = detector.box_heads[0]
        nn.init.normal_(head.refine.scores)
        gate = torch.sigmoid(head.refine.scores).view(-1, 1, 1)
        if options is BOX:
            features = head.layers(pooled * gate)
        else:
            convolution, flatten, linear, activation = head.layers
            features = activation(linear(flatten(convolution(pooled) * gate)))
        logits, offsets = head(pooled)
        torch.testing.assert_close(logits, head.cls_score(features))
        torch.testing.assert_close(offsets.flatten(1), head.bbox_pred(features))


@pytest.mark.parametrize("options", [MIXERS, REFINEMENTS], ids=["mixers", "refinements"])
def test_images_without_detections(options: dict[str, Any]) -> None:
    """Heads are asked for no boxes at all, which operators need not understand."""
    torch.manual_seed(0)
    detector = BUILDERS["cascade_mask"](score_threshold=1.0, **options).eval()
    with torch.no_grad():
        found = detector(small_batch())
        logits, offsets = detector.box_heads[0](torch.zeros(0, 16, 7, 7))
    assert [(len(image["boxes"]), len(image["masks"])) for image in found] == [(0, 0), (0, 0)]
    assert logits.shape == (0, K + 1) and offsets.shape == (0, K, 4)
