"""Non-local blocks against the equation of arXiv 1711.07971, one position at a time, and against timm."""

import pytest
import torch
from timm.layers.non_local_attn import NonLocalAttn

from attention import record_attention
from attention.non_local import NonLocal


def projected(convolution, x):
    return torch.einsum("dc,bchw->bdhw", convolution.weight[:, :, 0, 0], x) + convolution.bias.view(1, -1, 1, 1)


def reference(operator, x):
    queries, keys, values = (projected(part, x) for part in (operator.theta, operator.phi, operator.g))
    height, width = x.shape[2:]
    step = 2 if operator.subsample else 1
    cells = [(a, b) for a in range(0, height, step) for b in range(0, width, step)]

    def at(part, cell):
        return part[:, :, cell[0] : cell[0] + step, cell[1] : cell[1] + step].amax((2, 3))

    scale = operator.theta.out_channels**-0.5 if operator.scale != 1.0 else 1.0
    read = []
    for i in range(height):
        for j in range(width):
            logits = torch.stack([(queries[:, :, i, j] * at(keys, cell)).sum(1) for cell in cells], 1) * scale
            weights = torch.exp(logits - logits.amax(1, keepdim=True))
            weights = weights / weights.sum(1, keepdim=True)
            read.append(sum(weights[:, n, None] * at(values, cell) for n, cell in enumerate(cells)))
    read = projected(operator.out, torch.stack(read, 2).unflatten(2, (height, width)))
    if isinstance(operator.norm, torch.nn.BatchNorm2d):
        mean, variance = operator.norm.running_mean, operator.norm.running_var
        if operator.training:
            mean, variance = read.mean((0, 2, 3)), read.var((0, 2, 3), unbiased=False)
        shape = (1, -1, 1, 1)
        read = (read - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        read = read * operator.norm.weight.view(shape) + operator.norm.bias.view(shape)
    return x + read


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("subsample", [False, True])
def test_equation_forward_and_backward(subsample, scale, size, agree):
    torch.manual_seed(0)
    agree(NonLocal(6, 2, scale, subsample), reference, torch.randn(2, 6, *size))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_normalised_output(training, agree):
    torch.manual_seed(0)
    agree(NonLocal(6, 3, norm=True).train(training), reference, torch.randn(2, 6, 4, 3))


@pytest.mark.parametrize("norm", [False, True])
def test_a_fresh_block_is_the_identity(norm):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 3)
    operator = NonLocal(8, norm=norm)
    assert torch.equal(operator(x), x)
    operator(x).square().sum().backward()
    learns = operator.norm if norm else operator.out
    assert learns.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("scaled", [False, True])
def test_equals_timm_with_copied_weights(scaled, same_function):
    torch.manual_seed(0)
    ours, peer = NonLocal(64, 4, scale=scaled, norm=True), NonLocalAttn(64, use_scale=scaled, rd_channels=16)
    for norm in (ours.norm, peer.norm):
        torch.nn.init.normal_(norm.weight)
    names = {"theta": "t", "phi": "p", "g": "g", "out": "z", "norm": "norm"}
    state = {}
    for name, value in ours.state_dict().items():
        part, rest = name.split(".", 1)
        # timm divides the logits by sqrt(64), the width outside, and we by sqrt(16), the width inside.
        state[f"{names[part]}.{rest}"] = value * 2 if scaled and part == "theta" else value.clone()
    peer.load_state_dict(state)
    x = torch.randn(2, 64, 9, 7)
    same_function(ours, peer, x)
    same_function(ours.eval(), peer.eval(), x)


def test_size_of_the_published_module():
    assert sum(p.numel() for p in NonLocal(512).parameters()) == 525_568
    assert sum(p.numel() for p in NonLocal(512, norm=True).parameters()) == 525_568 + 1024


@pytest.mark.parametrize("subsample", [False, True])
def test_map_reproduces_the_output(subsample):
    torch.manual_seed(0)
    operator = NonLocal(8, subsample=subsample)
    torch.nn.init.normal_(operator.out.weight)
    x = torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    height, width = (3, 2) if subsample else (5, 3)
    assert recorded.name == "key" and recorded.weights.shape == (2, 1, 5, 3, height, width)
    assert recorded.rows.shape == (5, height) and recorded.columns.shape == (3, width)
    torch.testing.assert_close(recorded.heat_map(5, 3).sum((1, 2)), torch.full((2,), 15.0))
    values = operator.g(x)
    if subsample:
        values = torch.nn.functional.max_pool2d(values, 2, ceil_mode=True)
    read = torch.einsum("bijyx,bcyx->bcij", recorded.weights[:, 0], values)
    torch.testing.assert_close(x + operator.out(read), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_logits_stay_finite_under_autocast(dtype):
    torch.manual_seed(0)
    operator = NonLocal(64)
    x = (1000 * torch.randn(1, 64, 9, 7)).requires_grad_()
    with torch.autocast("cpu", dtype):
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_memory_does_not_grow_with_the_square_of_the_map():
    operator = NonLocal(16)
    x = torch.randn(1, 16, 24, 24, requires_grad=True)
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        operator(x)
    assert max(saved) < (24 * 24) ** 2 / 10


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"reduction=9 .*at most 8"):
        NonLocal(8, 9)
    with pytest.raises(ValueError, match=r"channels=0 .*at least 1"):
        NonLocal(0)
