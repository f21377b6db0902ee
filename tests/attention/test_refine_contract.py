"""What every refinement operator promises, whatever its equation."""

import copy

import pytest
import torch

from attention import CBAM, ChannelAttention, CoordinateAttention, Mixer, Refine, SpatialAttention, SqueezeExcitation
from attention.base import bottleneck_channels

OPERATORS = [
    pytest.param(lambda c: SqueezeExcitation(c, 4), 0.5, lambda c, m: 2 * c * m + m + c, id="se"),
    pytest.param(lambda c: SqueezeExcitation(c, 4, "max", bias=False), 0.5, lambda c, m: 2 * c * m, id="se-max"),
    pytest.param(lambda c: SqueezeExcitation(c, 4, "none"), 0.5, lambda c, m: 2 * c * m + m + c, id="se-none"),
    pytest.param(lambda c: ChannelAttention(c, 4), 0.5, lambda c, m: 2 * c * m + m + c, id="cam"),
    pytest.param(SpatialAttention, 0.5, lambda c, m: 100, id="sam"),
    pytest.param(lambda c: CBAM(c, 4), 0.25, lambda c, m: 2 * c * m + m + c + 100, id="cbam"),
    pytest.param(lambda c: CBAM(c, 4, order="spatial_first"), 0.25, lambda c, m: 2 * c * m + m + c + 100, id="cbam-sf"),
    pytest.param(lambda c: CBAM(c, 4, order="parallel"), 0.25, lambda c, m: 2 * c * m + m + c + 100, id="cbam-par"),
    pytest.param(
        lambda c: CoordinateAttention(c, 4), 0.25, lambda c, m: 3 * c * max(8, m) + 2 * c + 3 * max(8, m), id="ca"
    ),
    pytest.param(
        lambda c: CoordinateAttention(c, 4, directions="height"),
        0.5,
        lambda c, m: 2 * c * max(8, m) + c + 3 * max(8, m),
        id="ca-height",
    ),
    pytest.param(
        lambda c: CoordinateAttention(c, 4, directions="width"),
        0.5,
        lambda c, m: 2 * c * max(8, m) + c + 3 * max(8, m),
        id="ca-width",
    ),
]
every_operator = pytest.mark.parametrize(("make", "factor", "formula"), OPERATORS)


@every_operator
def test_shape_is_kept_on_odd_and_tiny_maps(make, factor, formula):
    operator = make(16)
    assert isinstance(operator, Refine)
    assert operator.channels == 16
    for size in [(1, 1), (1, 7), (7, 1), (5, 3), (13, 18)]:
        for training in (False, True):
            assert operator.train(training)(torch.randn(2, 16, *size)).shape == (2, 16, *size)


@every_operator
def test_parameters_match_the_formula(make, factor, formula):
    for channels in (16, 37):
        operator = make(channels)
        assert sum(p.numel() for p in operator.parameters()) == formula(channels, channels // 4)


@every_operator
def test_zero_parameters_scale_the_map(make, factor, formula):
    operator = make(16).eval()
    for parameter in operator.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 5, 3)
    torch.testing.assert_close(operator(x), factor * x)


@every_operator
def test_channels_last_gives_the_same_values_in_the_same_format(make, factor, formula):
    torch.manual_seed(0)
    operator = make(16).double()
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last).requires_grad_()
    first = x.clone().requires_grad_()
    out = operator(last)
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = operator(first)
    assert expected.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(out.square().sum(), last)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), first)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@every_operator
def test_bfloat16_autocast_is_finite_forward_and_backward(make, factor, formula):
    torch.manual_seed(0)
    operator = make(16)
    x = (100 * torch.randn(2, 16, 9, 7)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in (x, *operator.parameters()))


@every_operator
def test_flips_and_copies_commute_where_the_operator_has_no_kernel(make, factor, formula):
    torch.manual_seed(0)
    operator = make(16).double()
    for module in operator.modules():  # make the 7x7 kernel of spatial attention symmetric
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            torch.nn.init.constant_(module.weight, 0.01)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    expected = operator(x)
    for axes in ([2], [3], [2, 3]):
        torch.testing.assert_close(operator(x.flip(axes)).flip(axes), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(operator)(x), expected)


@pytest.mark.parametrize("order", ["channel_first", "spatial_first", "parallel"])
def test_deterministic_mode_changes_no_value(order):
    torch.manual_seed(0)
    operator = CBAM(16, 4, order=order).double()
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64, requires_grad=True)
    expected = operator(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    torch.use_deterministic_algorithms(True)
    try:
        out = operator(x)
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SqueezeExcitation(0), "channels=0 .*at least 1"),
        (lambda: SqueezeExcitation(8), "reduction=16 .*channels=8.*at most 8"),
        (lambda: SqueezeExcitation(16, 0), "reduction=0 .*at least 1"),
        (lambda: SqueezeExcitation(16, pooling="mean"), "pooling='mean' .*avg, max, none"),
        (lambda: SqueezeExcitation(16, gate="softmax"), "gate='softmax' .*sigmoid, tanh, relu"),
        (lambda: SqueezeExcitation(16, hidden="gelu"), "hidden='gelu' .*relu, relu6"),
        (lambda: SpatialAttention(16, 4), "kernel_size=4 .*odd"),
        (lambda: SpatialAttention(16, -1), "kernel_size=-1 .*odd"),
        (lambda: SpatialAttention(16, pooling="lp"), "pooling='lp'"),
        (lambda: CBAM(8), "reduction=16 .*at most 8"),
        (lambda: CBAM(16, order="both"), "order='both' .*channel_first"),
        (lambda: CBAM(16, channel_pooling="lp"), "pooling='lp'"),
        (lambda: CoordinateAttention(16, 0), "reduction=0"),
        (lambda: CoordinateAttention(16, min_channels=0), "min_channels=0"),
        (lambda: CoordinateAttention(16, directions="x"), "directions='x' .*both, height, width"),
        (lambda: bottleneck_channels(4, 5), "reduction=5"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_contracts_are_abstract_and_check_their_arguments():
    for contract in (Refine, Mixer):
        with pytest.raises(TypeError, match="abstract"):
            contract(8, 8) if contract is Mixer else contract(8)

    class Subsampling(Mixer):
        def forward(self, x):
            return x[:, : self.out_channels, :: self.stride, :: self.stride]

    assert Subsampling(4, 2, 2)(torch.zeros(1, 4, 5, 7)).shape == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="stride=0"):
        Subsampling(4, 2, 0)
