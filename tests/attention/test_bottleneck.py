"""Bottleneck attention against its equation, written out as loops, and against timm."""

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn

from attention.bottleneck import BottleneckAttention
from attention.maps import record_attention


def clipped(table, offset):
    """Vector of an offset, beyond a table that of its end."""
    reach = len(table) // 2
    return table[max(-reach, min(reach, offset)) + reach]


def global_attention(operator, q, k, v, tables, content, relative):
    """Loops over queries and keys of heads (B, heads, ., H, W)."""
    places = [(i, j) for i in range(q.shape[3]) for j in range(q.shape[4])]
    out = []
    for i, j in places:
        query, logits = q[..., i, j], []
        for a, b in places:
            vector = clipped(tables[0], a - i) + clipped(tables[1], b - j)
            logits.append(content * (query * k[..., a, b]).sum(2) + relative * (query @ vector))
        exponentials = torch.exp(torch.stack(logits, 2))
        weights = exponentials / exponentials.sum(2, keepdim=True)
        out.append(sum(weights[:, :, n : n + 1] * v[..., a, b] for n, (a, b) in enumerate(places)).flatten(1))
    return torch.stack(out, 2).unflatten(2, q.shape[3:])


def reference(operator, x):
    heads, d = operator.heads, operator.head_channels
    projected = torch.einsum("oc,bcij->boij", operator.qkv.weight[:, :, 0, 0], x)
    if operator.qkv.bias is not None:
        projected = projected + operator.qkv.bias.view(1, -1, 1, 1)
    q, k, v = (projected[:, part].unflatten(1, (heads, -1)) for part in (
        slice(0, heads * d), slice(heads * d, 2 * heads * d), slice(2 * heads * d, None)
    ))  # fmt: skip
    content = 1.0 if operator.scaling == "none" else d**-0.5
    relative = d**-0.5 if operator.scaling == "both" else 1.0
    tables = operator.pos_embed.height_rel, operator.pos_embed.width_rel
    out, s = global_attention(operator, q, k, v, tables, content, relative), operator.stride
    return torch.stack(
        [
            torch.stack([out[:, :, i : i + s, j : j + s].mean((2, 3)) for j in range(0, out.shape[3], s)], 2)
            for i in range(0, out.shape[2], s)
        ],
        2,
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (3, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_equation_forward_and_backward(stride, size, agree):
    """On maps of the grid's size, smaller and larger ones."""
    agree(BottleneckAttention(3, 4, stride, 2, (3, 4)), reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize(
    "options",
    [
        dict(key_channels=6),
        dict(bias=True),
        dict(scaling="none"),
        dict(scaling="both"),
        dict(implementation="fused"),
        dict(implementation="softmax"),
        dict(stride=3),
        dict(grid=(1, 2)),
    ],
    ids=str,
)
def test_options(options, agree):
    options = dict(heads=2, grid=(2, 3)) | options
    agree(BottleneckAttention(3, 4, **options), reference, torch.randn(1, 3, 4, 3))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("options", [{}, dict(qkv_bias=True), dict(dim_head=3), dict(scale_pos_embed=True)], ids=str)
def test_equals_timm_with_its_weights(options, stride, same_function):
    torch.manual_seed(0)
    peer = BottleneckAttn(8, 16, (6, 4), stride, **options)
    ours = BottleneckAttention(
        8, 16, stride, 4, (6, 4), 4 * peer.dim_head_qk, "both" if "scale_pos_embed" in options else "content",
        "qkv_bias" in options,
    )  # fmt: skip
    ours.load_state_dict(peer.state_dict())
    same_function(ours, peer, torch.randn(2, 8, 6, 4))


def test_tables_take_positions_into_account_and_ends_are_shared():
    """Positions matter within the grid; cells that are all further away than the tables reach cannot be told apart."""
    torch.manual_seed(0)
    operator = BottleneckAttention(4, 4, 1, 2, (2, 2)).double()
    x = torch.randn(1, 4, 1, 9, dtype=torch.float64)
    swapped = x[..., [0, 1, 2, 3, 4, 8, 6, 7, 5]]  # cells 5 and 8 are both far to the right of cells 0 to 3
    torch.testing.assert_close(operator(swapped)[..., :4], operator(x)[..., :4], rtol=1e-10, atol=1e-10)
    swapped = x[..., [0, 3, 2, 1, 4, 5, 6, 7, 8]]  # the neighbours on the left and the right of cell 2
    assert not torch.allclose(operator(swapped)[..., 2], operator(x)[..., 2])


def test_parameters_of_the_published_network():
    """BoT50 is ResNet-50 with three of its convolutions replaced: 20.8 M without tables."""
    removed, added = 3 * 9 * 512**2, 0
    for stride in (2, 1, 1):
        operator = BottleneckAttention(512, 512, stride)
        added += operator.qkv.weight.numel()
    assert 25_557_032 - removed + added == 20_838_440


def test_map_is_that_of_all_keys():
    torch.manual_seed(0)
    operator = BottleneckAttention(4, 4, 2, 2, (3, 3))
    x = torch.randn(2, 4, 3, 5)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.rows.tolist() == [[0, 1, 2]] * 3 and found.columns.tolist() == [[0, 1, 2, 3, 4]] * 5
    values = operator.qkv(x)[:, 8:].unflatten(1, (2, 2))
    mixed = torch.einsum("bnijhw,bnchw->bncij", found.weights, values).flatten(1, 2)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(mixed, 2, ceil_mode=True), out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=0), "heads=0 .*at least 1"),
        (dict(heads=3), "out_channels=16 is no multiple of 3; give e.g. 15"),
        (dict(key_channels=6), "key_channels=6 is no multiple of 4; give e.g. 4"),
        (dict(grid=(0, 3)), "grid=0 .*at least 1"),
        (dict(scaling="all"), "scaling='all' .*none, content, both"),
        (dict(implementation="flash"), "implementation='flash' .*auto"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message) as error:
        BottleneckAttention(16, 16, **options)
    assert "\n" not in str(error.value)
