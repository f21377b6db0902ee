"""What every refinement promises, whatever its equation."""

import pytest
import torch

from attention import CBAM, CoordinateAttention, Refine, SpatialAttention, SqueezeExcitation
from attention.base import bottleneck_channels
from tests.attention.operators import every_device, every_refinement, make_operator


@every_device
@every_refinement
def test_shape_is_kept_on_odd_and_tiny_maps(case, device):
    operator = make_operator(case).to(device)
    assert isinstance(operator, Refine)
    assert operator.channels == 16
    for size in [(1, 1), (1, 7), (7, 1), (5, 3), (13, 18)]:
        x = torch.randn(2, 16, *size, device=device)
        for training in (False, True):
            out = operator.train(training)(x)
            assert out.shape == x.shape and out.dtype == x.dtype and out.device == x.device and out.isfinite().all()


@every_refinement
def test_parameters_match_the_formula(case):
    for channels in (16, 24):
        assert sum(value.numel() for value in case.make(channels).parameters()) == case.parameters(channels)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_refinement
def test_zero_parameters_scale_the_map(case, training):
    if case.zero_factor is None:
        pytest.skip("zero parameters give no multiple of the map")
    operator = case.make(16).train(training)
    for parameter in operator.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 5, 3)
    torch.testing.assert_close(operator(x), case.zero_factor * x)


@every_device
@every_refinement
def test_memory_format_is_kept(case, device):
    operator = make_operator(case).to(device)
    x = torch.randn(2, 16, 5, 6, device=device)
    assert operator(x).is_contiguous()
    assert operator(x.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@every_refinement
def test_flips_commute_where_kernels_are_constant(case):
    if not case.flips:
        pytest.skip("the operator knows directions")
    operator = make_operator(case).double()
    for module in operator.modules():
        if isinstance(module, torch.nn.Conv2d) and max(module.kernel_size) > 1:
            torch.nn.init.constant_(module.weight, 0.01)
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    expected = operator(x)
    for axes in ([2], [3], [2, 3]):
        torch.testing.assert_close(operator(x.flip(axes)).flip(axes), expected, rtol=1e-10, atol=1e-12)


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


@every_refinement
def test_no_channels_are_refused(case):
    with pytest.raises(ValueError, match="channels=0") as error:
        case.make(0)
    assert "\n" not in str(error.value)


def test_the_contract_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Refine(8)
