"""Gradient checkpointing: the same results, the same state afterwards, less memory."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from attention import CBAM, CoordinateAttention, record_attention
from backbones.checkpointing import checkpointed


class Block(nn.Module):
    """Convolution, normalisation, attention, random depth: whatever leaves traces when it runs."""

    def __init__(self, attention: nn.Module, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, momentum=momentum)
        self.attention = attention
        self.depth = StochasticDepth(0.5, "row")
        self.counted = 0

    def forward(self, x):
        self.counted += 1
        return x + self.depth(self.attention(self.norm(self.conv(x)).relu_()))

    def twice(self, x):
        return self(self(x)), 3


def stack(attention, momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(attention(6), momentum) for _ in range(2))).double()


def passes(network, run, training=True):
    """Outputs, gradients and state after two training steps' passes."""
    network = copy.deepcopy(network).train(training)
    torch.manual_seed(1)
    x = torch.randn(4, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    values = []
    for _ in range(2):
        y = x
        for block in network:
            y = run(block, y)
        y.square().sum().backward()
        values.append(y.detach())
    values += [x.grad, *(p.grad for p in network.parameters()), *network.state_dict().values()]
    return values, network


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("attention", [CoordinateAttention, lambda c: CBAM(c, 2)], ids=["ca", "cbam"])
def test_outputs_gradients_and_statistics_equal_a_plain_call(attention, training, momentum):
    network = stack(attention, momentum)
    plain, once = passes(network, lambda block, x: block(x), training)
    again, twice = passes(network, checkpointed, training)
    assert [block.counted for block in once] == [2, 2]
    assert [block.counted for block in twice] == [4, 4]  # that is, it was indeed checkpointed
    for value, expected in zip(again, plain, strict=True):
        assert torch.equal(value, expected)


def test_batches_are_counted_once_and_buffers_stay_the_same_objects():
    network = stack(CoordinateAttention)
    buffers = dict(network.named_buffers())
    network.train()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    checkpointed(network[0], x).sum().backward()
    assert network[0].norm.num_batches_tracked == 1
    assert all(buffer is buffers[name] for name, buffer in network.named_buffers())


def test_methods_and_several_outputs():
    network = stack(CoordinateAttention).train()
    block, plain = network[0], copy.deepcopy(network[0])
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    torch.manual_seed(2)
    expected, _ = plain.twice(x)
    torch.manual_seed(2)
    y, number = checkpointed(block, x, function=block.twice)
    expected.sum().backward()
    y.sum().backward()
    assert number == 3 and torch.equal(y, expected) and block.norm.num_batches_tracked == 2
    assert torch.equal(block.norm.running_var, plain.norm.running_var)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(block.parameters(), plain.parameters(), strict=True))


def test_without_gradients_it_is_a_plain_call():
    block = stack(CoordinateAttention)[0]
    with torch.no_grad():
        y = checkpointed(block, torch.randn(1, 6, 4, 4, dtype=torch.float64))
    assert not y.requires_grad and block.counted == 1


def test_frozen_modules_may_be_checkpointed():
    network = stack(CoordinateAttention).requires_grad_(False).train()
    assert not checkpointed(network[0], torch.randn(2, 6, 4, 4, dtype=torch.float64)).requires_grad


def test_attention_maps_are_recorded_once():
    network = stack(CoordinateAttention).train()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    with record_attention(network) as maps:
        checkpointed(network[1], checkpointed(network[0], x)).sum().backward()
        counts = {name: len(recorded) for name, recorded in maps.items()}
    assert set(counts.values()) == {2} and len(counts) == 2


def test_intermediate_results_are_not_kept():
    network = stack(CoordinateAttention).train()
    x = torch.randn(2, 6, 16, 16, dtype=torch.float64)

    def kept(run):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = run(network[1], run(network[0], x))
        return sum(sizes), y

    assert kept(checkpointed)[0] <= kept(lambda block, y: block(y))[0] / 3


def test_errors_in_the_second_pass_leave_the_state_alone():
    network = stack(CoordinateAttention).train()
    block = network[0]
    y = checkpointed(block, torch.randn(2, 6, 4, 4, dtype=torch.float64))
    buffer, block.conv = block.norm.running_mean, nn.Conv2d(3, 6, 1).double()
    with pytest.raises(RuntimeError):
        y.sum().backward()
    assert block.norm.running_mean is buffer


def test_compiled_blocks_agree():
    network = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), CoordinateAttention(6)) for _ in range(2))
    ).double()
    plain, _ = passes(network, lambda block, x: block(x))
    compiled, _ = passes(network, torch.compile(checkpointed, backend="aot_eager"))
    for value, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
