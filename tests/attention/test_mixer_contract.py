"""What every mixer promises, whatever its equation."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from attention import Mixer
from tests.attention.operators import every_device, every_mixer, make_operator

SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (13, 18)]


class FilledPadding(TorchFunctionMode):
    """Fills what `pad` adds around a map with junk, unless the caller names the value or takes it from the map."""

    def __init__(self, junk):
        super().__init__()
        self.junk = junk
        self.calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.nn.functional.pad, torch._C._nn.pad):
            given = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
            if given.get("mode", "constant") == "constant" and given.get("value") is None:
                self.calls += 1
                return function(**given | {"value": self.junk})
        return function(*args, **kwargs)


def reduced(size, stride):
    return tuple(math.ceil(side / stride) for side in size)


@every_device
@every_mixer
def test_shape_for_every_stride_and_size(case, device):
    for given in case.channels:
        for stride in case.strides:
            operator = make_operator(case, *given, stride).to(device)
            assert isinstance(operator, Mixer)
            assert (operator.in_channels, operator.out_channels, operator.stride) == (*given, stride)
            for size in SIZES:
                x = torch.randn(2, given[0], *size, device=device)
                for training in (False, True):
                    out = operator.train(training)(x)
                    assert out.shape == (2, given[1], *reduced(size, stride))
                    assert out.dtype == x.dtype and out.device == x.device and out.isfinite().all()


@every_mixer
def test_parameters_match_the_formula(case):
    for given in case.channels:
        for stride in case.strides:
            operator = case.make(*given, stride)
            expected = case.parameters(*given, stride)
            assert sum(value.numel() for value in operator.parameters()) == expected, (given, stride)


@every_mixer
def test_padding_is_never_seen(case):
    """The value that blocks or tokens are filled up with must not matter; a zero that is meant must be named."""
    if case.padding_counts is not None:
        pytest.skip(case.padding_counts)
    for stride in case.strides:
        operator = make_operator(case, *case.channels[0], stride).double().eval()
        for size in SIZES:
            x = torch.randn(2, case.channels[0][0], *size, dtype=torch.float64)
            expected = operator(x)
            with FilledPadding(7.0):
                torch.testing.assert_close(operator(x), expected, rtol=1e-9, atol=1e-9)


def test_junk_in_the_padding_would_be_noticed():
    class Careless(Mixer):
        def forward(self, x):
            return torch.nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))

    x = torch.randn(1, 4, 3, 3)
    with FilledPadding(7.0) as mode:
        assert not torch.allclose(Careless(4, 4)(x), torch.nn.functional.avg_pool2d(x, 3, 1, 1))
    assert mode.calls == 1


@every_mixer
def test_wrong_sizes_are_refused(case):
    given = case.channels[0]
    for arguments, message in [
        ((0, 16, 1), "in_channels=0"),
        ((16, 0, 1), "out_channels=0"),
        ((*given, 0), "stride=0"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            case.make(*arguments)
        assert "\n" not in str(error.value)


def test_the_contract_is_abstract_and_checks_its_arguments():
    with pytest.raises(TypeError, match="abstract"):
        Mixer(8, 8)

    class Subsampling(Mixer):
        def forward(self, x):
            return x[:, : self.out_channels, :: self.stride, :: self.stride]

    assert Subsampling(4, 2, 2)(torch.zeros(1, 4, 5, 7)).shape == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="stride=0"):
        Subsampling(4, 2, 0)
