"""Dual attention against the equations of arXiv 1809.02983, as loops, and against MMSegmentation's two modules."""

import pytest
import torch
from torch import nn

from attention import DualAttention, record_attention


def projected(convolution, x):
    return torch.einsum("dc,bchw->bdhw", convolution.weight[:, :, 0, 0], x) + convolution.bias.view(1, -1, 1, 1)


def softmax(logits):
    highest = max(each.item() for each in logits)
    exponentials = [torch.exp(each - highest) for each in logits]
    return [each / sum(exponentials) for each in exponentials]


def reference(operator, x):
    height, width = x.shape[2:]
    cells = [(i, j) for i in range(height) for j in range(width)]
    out = x.clone()
    if operator.branches != "channel":
        queries, keys, values = (projected(part, x) for part in (operator.query, operator.key, operator.value))
        for b in range(len(x)):
            for i, j in cells:
                weights = softmax([queries[b, :, i, j] @ keys[b, :, m, n] for m, n in cells])
                read = sum(w * values[b, :, m, n] for w, (m, n) in zip(weights, cells, strict=True))
                out[b, :, i, j] = out[b, :, i, j] + operator.alpha[0] * read
    if operator.branches != "position":
        for b in range(len(x)):
            for c in range(x.shape[1]):
                energy = [sum(x[b, c, i, j] * x[b, d, i, j] for i, j in cells) for d in range(x.shape[1])]
                weights = softmax([max(energy) - each for each in energy])
                out[b, c] = out[b, c] + operator.beta[0] * sum(w * x[b, d] for d, w in enumerate(weights))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 3)])
@pytest.mark.parametrize("branches", ["both", "position", "channel"])
def test_equation_forward_and_backward(branches, size, agree):
    torch.manual_seed(0)
    agree(DualAttention(6, 2, branches), reference, 0.5 * torch.randn(2, 6, *size))


def test_equals_the_modules_of_mmsegmentation_with_copied_weights(same_function):
    from mmseg.models.decode_heads.da_head import CAM, PAM

    class Added(nn.Module):
        """Both modules have the map in their sums; one of the two is taken away."""

        def __init__(self):
            super().__init__()
            self.pam, self.cam = PAM(16, 4), CAM()

        def forward(self, x):
            return self.pam(x) + self.cam(x) - x

    torch.manual_seed(0)
    ours, peer = DualAttention(16, 4), Added()
    nn.init.constant_(ours.alpha, 0.7)
    nn.init.constant_(ours.beta, -1.3)
    names = {"query": "pam.query_project", "key": "pam.key_project", "value": "pam.value_project"}
    found = {name: value for name, value in peer.named_parameters() if "gamma" not in name}
    with torch.no_grad():
        peer.pam.gamma.scale.fill_(0.7)
        peer.cam.gamma.scale.fill_(-1.3)
        for name, value in ours.named_parameters():
            part, _, kind = name.partition(".")
            if part in names:
                (target,) = (n for n in found if n.startswith(names[part]) and n.endswith(kind))
                found.pop(target).copy_(value)
    assert not found
    same_function(ours, peer, torch.randn(2, 16, 9, 7))


@pytest.mark.parametrize("branches", ["both", "position", "channel"])
def test_a_fresh_block_is_the_identity(branches):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 3)
    operator = DualAttention(8, branches=branches)
    assert torch.equal(operator(x), x)
    operator(x).square().sum().backward()
    assert all(p.grad.abs() > 0 for name, p in operator.named_parameters() if name in ("alpha", "beta"))


@pytest.mark.parametrize(("branches", "expected"), [("both", 328_322), ("position", 328_321), ("channel", 1)])
def test_size_of_the_published_modules(branches, expected):
    assert sum(p.numel() for p in DualAttention(512, branches=branches).parameters()) == expected


def test_maps_reproduce_the_output_of_positions_and_the_shares_of_channels():
    torch.manual_seed(0)
    operator = DualAttention(8, 2)
    nn.init.ones_(operator.alpha)
    x = torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    key, channel = maps[""]
    assert (key.name, channel.name) == ("key", "channel")
    torch.testing.assert_close(key.heat_map(5, 3).sum((1, 2)), torch.full((2,), 15.0))
    read = torch.einsum("bijyx,bcyx->bcij", key.weights[:, 0], operator.value(x))
    torch.testing.assert_close(x + read, out)
    energy = torch.einsum("bchw,bdhw->bcd", x, x)
    torch.testing.assert_close(channel.weights[:, :, 0, 0], torch.softmax(-energy, 2).mean(1))
    torch.testing.assert_close(channel.weights.sum(1), torch.ones(2, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_logits_stay_finite_under_autocast(dtype):
    torch.manual_seed(0)
    operator = DualAttention(64)
    x = (100 * torch.randn(1, 64, 9, 7)).requires_grad_()
    with torch.autocast("cpu", dtype):
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_memory_does_not_grow_with_the_square_of_the_map():
    operator = DualAttention(16)
    x = torch.randn(1, 16, 24, 24, requires_grad=True)
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        operator(x)
    assert max(saved) < (24 * 24) ** 2 / 10


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"reduction=8 .*at most 4"):
        DualAttention(4)
    assert sum(p.numel() for p in DualAttention(4, branches="channel").parameters()) == 1  # has no bottleneck
    with pytest.raises(ValueError, match=r"branches='rows' .*both, position, channel"):
        DualAttention(8, branches="rows")
