"""CBAM against its equations, written out as loops, and against timm."""

import pytest
import torch
from timm.layers.cbam import CbamModule

from attention import CBAM, ChannelAttention, record_attention


def channel_gate(operator, x):
    """Equation 4 of arXiv 1807.06521: weights (B, C), one number at a time."""
    w1, w2 = operator.fc1.weight[:, :, 0, 0], operator.fc2.weight[:, :, 0, 0]
    batch, channels = x.shape[:2]
    weights = []
    for b in range(batch):
        pools = []
        if operator.pooling in ("avg_max", "avg"):
            pools.append([x[b, c].sum() / x[b, c].numel() for c in range(channels)])
        if operator.pooling in ("avg_max", "max"):
            pools.append([max(x[b, c].flatten(), key=torch.Tensor.item) for c in range(channels)])
        for c in range(channels):
            score = x.sum() * 0
            for pool in pools:
                for k in range(len(w1)):
                    hidden = sum(w1[k, d] * pool[d] for d in range(channels)) + operator.fc1.bias[k]
                    score = score + w2[c, k] * (hidden if hidden > 0 else hidden * 0)
                score = score + operator.fc2.bias[c]
            weights.append(1 / (1 + torch.exp(-score)))
    return torch.stack(weights).view(batch, channels, 1, 1)


def spatial_gate(operator, x):
    """Equation 5 with [max, mean] planes and a batch normalisation: weights (B, 1, H, W), by shifted sums."""
    planes = torch.stack([torch.stack(list(x.unbind(1))).max(0).values, sum(x.unbind(1)) / x.shape[1]], 1)
    reach, (rows, columns) = operator.conv.kernel_size[0] // 2, x.shape[2:]
    scores = torch.zeros_like(planes[:, 0])
    for i in range(rows):
        for j in range(columns):
            for row in range(max(0, i - reach), min(rows, i + reach + 1)):
                for column in range(max(0, j - reach), min(columns, j + reach + 1)):
                    kernel = operator.conv.weight[0, :, row - i + reach, column - j + reach]
                    scores[:, i, j] = scores[:, i, j] + (planes[:, :, row, column] * kernel).sum(1)
    if operator.training:
        mean = scores.mean()
        variance = ((scores - mean) ** 2).mean()
    else:
        mean, variance = operator.bn.running_mean, operator.bn.running_var
    scores = (scores - mean) / torch.sqrt(variance + 1e-5) * operator.bn.weight + operator.bn.bias
    return (1 / (1 + torch.exp(-scores))).unsqueeze(1)


def reference(operator, x):
    if operator.order == "parallel":
        return x * channel_gate(operator.channel, x) * spatial_gate(operator.spatial, x)
    if operator.order == "spatial_first":
        x = x * spatial_gate(operator.spatial, x)
        return x * channel_gate(operator.channel, x)
    x = x * channel_gate(operator.channel, x)
    return x * spatial_gate(operator.spatial, x)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ["channel_first", "spatial_first", "parallel"])
def test_equation_forward_and_backward(order, training, size, agree):
    torch.manual_seed(0)
    agree(CBAM(5, 2, 3, order).train(training), reference, torch.randn(2, 5, *size))


@pytest.mark.parametrize("pooling", ["avg_max", "avg", "max"])
def test_channel_part_alone(pooling, agree):
    torch.manual_seed(0)
    agree(ChannelAttention(5, 2, pooling), lambda op, x: x * channel_gate(op, x), torch.randn(2, 5, 4, 3))


def test_equals_timm_with_copied_weights_and_swapped_planes(same_function):
    torch.manual_seed(0)
    ours, peer = CBAM(64), CbamModule(64, mlp_bias=True)
    torch.nn.init.ones_(ours.spatial.bn.weight)
    names = {"spatial.conv.": "spatial.conv.conv.", "spatial.bn.": "spatial.conv.bn."}
    state = {}
    for name, value in ours.state_dict().items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        state[names.get(prefix, "") + name.removeprefix(prefix)] = value.clone()
    state["spatial.conv.conv.weight"] = state["spatial.conv.conv.weight"].flip(1)  # timm stacks [mean, max]
    peer.load_state_dict(state)
    x = torch.randn(2, 64, 9, 7)
    same_function(ours.train(), peer.train(), x)
    ours.eval(), peer.eval()
    peer.spatial.conv.bn.load_state_dict(ours.spatial.bn.state_dict())  # the momenta differ: 0.01 here, 0.1 there
    same_function(ours, peer, x)


def test_single_poolings_reach_both_parts():
    operator = CBAM(32, channel_pooling="max", spatial_pooling="avg")
    assert operator.channel.pooling == "max"
    assert operator.spatial.conv.in_channels == 1
    assert operator.spatial.bn is not None and operator.spatial.conv.bias is None
    operator = CBAM(32, spatial_pooling="conv", spatial_norm=False, spatial_bias=True)
    assert operator.spatial.reduce.weight.shape == (1, 32, 1, 1) and operator.spatial.bn is None
    assert not operator.spatial.reduce.bias.any() and not operator.spatial.conv.bias.any()


@pytest.mark.parametrize("order", ["channel_first", "spatial_first", "parallel"])
def test_recorded_weights_of_both_parts_reproduce_the_output(order):
    torch.manual_seed(0)
    operator, x = CBAM(16, 4, order=order), torch.randn(2, 16, 5, 6)
    torch.nn.init.ones_(operator.spatial.bn.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    (channel,), (position,) = maps["channel"], maps["spatial"]
    assert (channel.name, position.name) == ("channel", "position")
    assert (channel.weights.shape, position.weights.shape) == ((2, 16, 1, 1), (2, 1, 5, 6))
    torch.testing.assert_close(out, x * channel.weights * position.weights)
