"""Heads around the library's attentions: CAA by its literal form and integers, any refinement by its name."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attention
from attention.base import Refine
from backbones import MobileNetV2, ResNet
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.parts import build_part, find_class
from tests.attention.test_channelized_axial import reference
from tests.tasks.segmentors.test_segmentors import make_batch

REFINEMENTS = sorted(
    name
    for name in attention.__all__
    if inspect.isclass(operator := getattr(attention, name))
    and issubclass(operator, Refine)
    and not inspect.isabstract(operator)
)
K = 7


def convolved(module: Any, x: Tensor) -> Tensor:
    """Convolution with zeros around the map, batch normalisation and ReLU."""
    kernel, norm = module.conv.weight, module.bn
    side = kernel.shape[-1]
    patches = F.unfold(x, side, padding=side // 2).unflatten(2, x.shape[2:])
    out = torch.einsum("ok,bkhw->bohw", kernel.flatten(1), patches)
    axes = (0, 2, 3)
    mean, variance = (
        (out.mean(axes), out.var(axes, unbiased=False)) if norm.training else (norm.running_mean, norm.running_var)
    )
    shape = (1, -1, 1, 1)
    out = (out - mean.view(shape)) / torch.sqrt(variance.view(shape) + norm.eps)
    return (out * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)


def literal(head: Any, x: Tensor) -> Tensor:
    """Section 2 of the description: entry, channelized contributions one by one, end, image level, classifier."""
    y = convolved(head.end, reference(head.attention, convolved(head.entry, x)))
    image = convolved(head.image_level, x.flatten(2).sum(2)[:, :, None, None] / (x.shape[2] * x.shape[3]))
    joined = torch.cat([y, image.repeat(1, 1, *x.shape[2:])], dim=1)
    return torch.einsum("oc,bchw->bohw", head.conv_seg.weight[:, :, 0, 0], convolved(head.fusion, joined)) + (
        head.conv_seg.bias.view(1, -1, 1, 1)
    )


def scrambled(head: nn.Module) -> nn.Module:
    """No weight, and no statistic of a norm, as it starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in head.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(0.5 + noise if "var" in name else noise - 0.4)
    return head


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_caa_equals_its_literal_form(training: bool) -> None:
    head = find_class("CAAHead")(5, 12, num_classes=3, key_channels=2, feature_channels=4, dropout_ratio=0.0)
    head = scrambled(head.double()).train(training)
    inputs = torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, same = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    found, expected = head([x]), literal(head, same)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = [*head.parameters()]
    ours = torch.autograd.grad((found * weight).sum(), [x, *parameters])
    theirs = torch.autograd.grad((expected * weight).sum(), [same, *parameters])
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("classes", "parameters"),
    [(19, 11740691), (59, 11750971), (60, 11751228), (150, 11774358), (171, 11779755), (182, 11782582)],
)
def test_caa_has_the_published_parameters(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        head = find_class("CAAHead")(2048, num_classes=classes)
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters


def test_caa_with_the_authors_auxiliary_head_and_epsilon() -> None:
    norm = {"type": "BN", "eps": 1e-3}
    auxiliary = {
        "type": "FCNHead",
        "channels": 256,
        "num_convs": 1,
        "kernel_size": 1,
        "concat_input": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
    }
    model = EncoderDecoder(ResNet(50), 60, {"type": "CAAHead", "norm_cfg": norm}, auxiliary)
    heads = (model.decode_head, model.auxiliary_head)
    assert sum(parameter.numel() for head in heads for parameter in head.parameters()) == 12_291_448
    norms = [module for module in model.decode_head.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 7 and {module.eps for module in norms} == {1e-3}


@pytest.mark.parametrize("name", REFINEMENTS)
def test_any_refinement_is_one_line(name: str) -> None:
    torch.manual_seed(0)
    parts = [{"type": "CBAM", "reduction": 4}, {"type": "StaticGate"}]
    options: dict[str, dict[str, Any]] = {
        "Compose": {"parts": parts},
        "EfficientMultiScaleAttention": {"groups": 4},
        "IdentityStart": {"operator": parts[0]},
        "Parallel": {"parts": parts},
    }
    chosen = {"type": name, **options[name]} if name in options else name
    head = {"type": "AttentionHead", "channels": 16, "attention": chosen, "image_level": True, "concat_input": True}
    model = EncoderDecoder(MobileNetV2(0.25), K, head)
    assert type(model.decode_head.attention) is getattr(attention, name)
    losses = model(make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64)))
    sum(losses.values()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == set()
    model.eval()
    (labels,) = model(make_batch([(64, 50)], [(128, 100)], (64, 64)))
    assert labels.shape == (128, 100) and labels.max() < K


def test_criss_cross_twice_with_the_same_weights() -> None:
    """CCNet's recurrence, which MMSegmentation's own head leaves to a compiled operator."""
    torch.manual_seed(0)
    config = {"type": "AttentionHead", "in_channels": 6, "channels": 8, "num_classes": 3, "dropout_ratio": 0.0}
    config |= {"attention": {"type": "attention.CrissCrossAttention"}, "norm_cfg": {"type": "BN"}}
    once, twice = (scrambled(build_part(config | {"repeats": count})).eval() for count in (1, 2))
    assert once.state_dict().keys() == twice.state_dict().keys()
    x = torch.randn(2, 6, 5, 7)
    y = once.attention(once.attention(once.entry(x)))
    torch.testing.assert_close(twice([x]), once.conv_seg(once.end(y)))
    assert not torch.allclose(twice([x]), once([x]))
    without = build_part(config | {"attention": "none"}).eval()
    without.load_state_dict(once.state_dict(), strict=False)
    assert not [name for name in without.state_dict() if name not in once.state_dict()]
    torch.testing.assert_close(without([x]), once.conv_seg(once.end(once.entry(x))))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": "CBMA"}, "'CBMA' is no attention that refines a map; did you mean CBAM"),
        ({"attention": "os.system"}, "'os.system' is no attention that refines a map"),
        ({"attention": "HaloAttention"}, "'HaloAttention' is no attention that refines a map"),
        ({"attention": {"type": "CBAM", "reduktion": 4}}, "CBAM has no option reduktion; did you mean reduction"),
        ({"attention": "CBAM", "feature_channels": 4}, "feature_channels is 4, but nothing is concatenated"),
        ({"attention": "CBAM", "repeats": 0}, "repeats"),
    ],
)
def test_refusals(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_part({"type": "AttentionHead", "in_channels": 6, "channels": 8, "num_classes": 3, **options})
