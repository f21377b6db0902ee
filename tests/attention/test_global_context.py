"""The global context block against its equations, written out as loops, and against timm."""

import pytest
import torch
from timm.layers import GlobalContext as Peer

from attention import GlobalContext, record_attention


def reference(operator, x):
    """Figure 4(d) of arXiv 1904.11492, one position at a time."""
    key, fc1, fc2, norm = operator.key, operator.fc1, operator.fc2, operator.norm
    cells = [x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
    powers = [torch.exp(cell @ key.weight[0, :, 0, 0] + key.bias) for cell in cells]
    context = sum(power[:, None] * cell for power, cell in zip(powers, cells, strict=True)) / sum(powers)[:, None]
    hidden = context @ fc1.weight[:, :, 0, 0].T + fc1.bias
    mean = hidden.mean(1, keepdim=True)
    variance = ((hidden - mean) ** 2).mean(1, keepdim=True)
    hidden = (hidden - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
    hidden = torch.where(hidden > 0, hidden, hidden * 0)
    transformed = (hidden @ fc2.weight[:, :, 0, 0].T + fc2.bias)[:, :, None, None]
    return x + transformed if operator.fusion == "add" else x / (1 + torch.exp(-transformed))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("options", [{}, {"fusion": "multiply"}, {"ratio": 1.0, "epsilon": 0.1}], ids=str)
def test_equation_forward_and_backward(options, size, agree):
    torch.manual_seed(0)
    agree(GlobalContext(8, **options), reference, torch.randn(2, 8, *size))


@pytest.mark.parametrize("fusion", ["add", "multiply"])
def test_equals_timm_with_copied_weights(fusion, same_function):
    torch.manual_seed(0)
    ours = GlobalContext(64, 1 / 8, fusion, epsilon=1e-6)
    torch.nn.init.normal_(ours.fc2.weight)
    add = fusion == "add"
    peer = Peer(64, fuse_add=add, fuse_scale=not add, rd_ratio=1 / 8)
    branch = "mlp_add." if add else "mlp_scale."
    state = {name.replace("key.", "conv_attn."): value for name, value in ours.state_dict().items()}
    peer.load_state_dict({name if "conv" in name else branch + name: value for name, value in state.items()})
    same_function(ours, peer, torch.randn(2, 64, 9, 7))


def test_starts_as_the_identity_and_learns():
    torch.manual_seed(0)
    operator, x = GlobalContext(16), torch.randn(2, 16, 5, 6)
    assert torch.equal(operator(x), x)
    assert torch.equal(GlobalContext(16, fusion="multiply")(x), x / 2)
    operator(x).square().sum().backward()
    assert operator.fc2.weight.grad.any()


def test_published_block_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in GlobalContext(512).parameters()) == 132_481


def test_every_position_gets_the_same():
    torch.manual_seed(0)
    operator, x = GlobalContext(16).double(), torch.randn(2, 16, 5, 6, dtype=torch.float64)
    torch.nn.init.normal_(operator.fc2.weight)
    added = operator(x) - x
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(x))
    order = torch.randperm(30)
    torch.testing.assert_close(
        operator(x.flatten(2)[..., order].view_as(x)).flatten(2), operator(x).flatten(2)[..., order]
    )


def test_recorded_attention_gives_the_context():
    torch.manual_seed(0)
    operator, x = GlobalContext(16, fusion="multiply"), torch.randn(2, 16, 5, 6)
    torch.nn.init.normal_(operator.fc2.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    key, channel = maps[""]
    assert (key.name, channel.name) == ("key", "channel")
    assert key.weights.shape == (2, 1, 1, 1, 5, 6)
    torch.testing.assert_close(key.weights.sum((4, 5)), torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(key.heat_map(5, 6), key.weights[:, 0, 0, 0])
    torch.testing.assert_close(
        operator._context(x)[:, :, 0, 0], torch.einsum("bcij,bij->bc", x, key.weights[:, 0, 0, 0])
    )
    torch.testing.assert_close(out, x * channel.weights)


def test_half_precision_sums_to_one():
    operator, x = GlobalContext(16).bfloat16(), 30 * torch.randn(2, 16, 20, 30).bfloat16()
    out = operator(x)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_wrong_arguments_are_named_with_a_remedy():
    for ratio in (0.01, 1.5, -1.0):
        with pytest.raises(ValueError, match=f"ratio={ratio} .*0.0625 to 1"):
            GlobalContext(16, ratio)
    with pytest.raises(ValueError, match=r"fusion='sum' .*add, multiply"):
        GlobalContext(16, fusion="sum")
    with pytest.raises(ValueError, match="epsilon=0"):
        GlobalContext(16, epsilon=0)
