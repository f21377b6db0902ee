"""Decoupled dynamic filters against their equation, written out as loops."""

import pytest
import torch

from attention import DynamicFilter


def normalized(values, gain, shift):
    mean = values.sum() / len(values)
    deviation = (((values - mean) ** 2).sum() / len(values) + 1e-5).sqrt()
    return gain * (values - mean) / deviation + shift


def reference(operator, x):
    """Equations 3 to 6 of arXiv 2104.14107, one position and channel at a time."""
    k, stride, channels = operator.kernel_size, operator.stride, operator.out_channels
    first, _, second = operator.channel
    out = []
    for sample in x:
        height, width = sample.shape[1:]
        values = operator.value(sample[None])[0]
        means = sample.flatten(1).sum(1) / (height * width)
        hidden = torch.relu(first.weight.flatten(1) @ means + first.bias)
        of_channels = (second.weight.flatten(1) @ hidden + second.bias).view(channels, k * k)
        gain, shift = (table.view(channels, -1) for table in (operator.channel_gain, operator.channel_shift))
        of_channels = [normalized(of_channels[c], gain[c], shift[c]) for c in range(channels)]
        columns = []
        for i in range(0, height, stride):
            for j in range(0, width, stride):
                here = operator.spatial.weight.flatten(1) @ sample[:, i, j] + operator.spatial.bias
                here = normalized(here, operator.spatial_gain, operator.spatial_shift)
                for c in range(channels):
                    product = operator.combination == "product"
                    weights = here * of_channels[c] if product else here + of_channels[c]
                    total = x.new_zeros(())
                    for tap in range(k * k):
                        a, b = i + tap // k - k // 2, j + tap % k - k // 2
                        if 0 <= a < height and 0 <= b < width:
                            total = total + weights[tap] * values[c, a, b]
                    columns.append(total)
        rows = len(range(0, height, stride))
        out.append(torch.stack(columns).view(rows, -1, channels).permute(2, 0, 1))
    return operator.out(torch.stack(out))


@pytest.mark.parametrize(("stride", "kernel_size"), [(1, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("combination", ["product", "sum"])
@pytest.mark.parametrize(("channels", "projections"), [((4, 3), True), ((4, 4), False)])
def test_equation_forward_and_backward(stride, kernel_size, combination, channels, projections, agree):
    torch.manual_seed(0)
    operator = DynamicFilter(*channels, stride, kernel_size, 2, combination, projections)
    agree(operator, reference, torch.randn(2, 4, 4, 3))


def test_without_projections_the_channels_stay():
    with pytest.raises(ValueError, match="in_channels=10 and out_channels=12 to agree"):
        DynamicFilter(10, 12, projections=False)


def test_starts_with_the_variance_of_its_input():
    torch.manual_seed(0)
    for combination in ("product", "sum"):
        operator = DynamicFilter(40, 40, 1, 3, 5, combination, False)
        variance = operator(torch.randn(4, 40, 32, 32)).var().item()
        assert 0.5 < variance / (1 if combination == "product" else 2) < 1.5
