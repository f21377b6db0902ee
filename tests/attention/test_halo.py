"""Halo attention against its equation, written out as loops, against timm, and in the sizes of published networks."""

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch.nn import functional as F

from attention.halo import HaloAttention
from attention.maps import record_attention
from backbones import HaloNet
from tests.attention.test_positions import with_positions


def projected(layer, x):
    """A 1 x 1 convolution at every position."""
    out = torch.einsum("oc,bcij->boij", layer.weight[:, :, 0, 0], x)
    return out if layer.bias is None else out + layer.bias.view(1, -1, 1, 1)


def offset_vectors(operator, a, b, i, j):
    """What a query (i, j) of a block is multiplied with for the cell (a, b) of its window."""
    if operator.pos_embed is None:
        return torch.zeros(operator.head_channels, dtype=torch.float64)
    rows, columns = operator.pos_embed.height_rel, operator.pos_embed.width_rel
    (block, _), halo = operator.windows.block, operator.halo
    if operator.layout == "timm":
        window = block + 2 * halo
        return rows[a - i + window - 1] + columns[b - j + window - 1]
    stride = operator.windows.stride
    return torch.cat(
        [rows[a - halo - stride * i + block - 1 + halo], columns[b - halo - stride * j + block - 1 + halo]]
    )


def reference(operator, x):
    """One query after the other, with keys looked up on the map itself."""
    (block, _), halo, stride = operator.windows.block, operator.halo, operator.windows.stride
    heads, (height, width) = operator.heads, x.shape[2:]
    x = with_positions(operator.positions.kind, x)
    d = operator.q.out_channels // heads
    q = projected(operator.q, x).unflatten(1, (heads, d))
    kv = projected(operator.kv, x).unflatten(1, (heads, -1))
    k, v = kv[:, :, :d], kv[:, :, d:]
    content = 1.0 if operator.scaling == "none" else d**-0.5
    relative = d**-0.5 if operator.scaling == "both" else 1.0
    lines = []
    for row in range(0, height, stride):
        line = []
        for column in range(0, width, stride):
            top, left = row // block * block - halo, column // block * block - halo
            i, j = row % block // stride, column % block // stride
            query, logits, values = q[..., row, column], [], []
            for a in range(block + 2 * halo):
                for b in range(block + 2 * halo):
                    logit = relative * (query @ offset_vectors(operator, a, b, i, j))
                    if 0 <= top + a < height and 0 <= left + b < width:
                        logit = logit + content * (query * k[..., top + a, left + b]).sum(2)
                        values.append(v[..., top + a, left + b])
                    elif operator.windows.masked:
                        continue
                    else:
                        values.append(torch.zeros_like(v[..., 0, 0]))
                    logits.append(logit)
            exponentials = torch.exp(torch.stack(logits, 2))
            weights = exponentials / exponentials.sum(2, keepdim=True)
            line.append(torch.einsum("bhk,bhkc->bhc", weights, torch.stack(values, 2)).flatten(1))
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (6, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", ["paper", "timm"])
def test_equation_forward_and_backward(layout, stride, size, agree):
    operator = HaloAttention(3, 4, stride, heads=2, block=2, halo=1, key_channels=8, layout=layout)
    agree(operator, reference, torch.randn(2, 3, *size))


OPTIONS = {
    "zeros": dict(border="zero"),
    "zeros-stride": dict(border="zero", stride=2, block=4),
    "zeros-bias": dict(border="zero", bias=True),
    "bias": dict(bias=True),
    "content": dict(scaling="content"),
    "both": dict(scaling="both", halo=2),
    "timm-mask": dict(layout="timm", border="mask"),
    "timm-none": dict(layout="timm", scaling="none"),
    "window": dict(block=1, halo=2),
    "odd-stride": dict(block=3, stride=3),
    "blocks": dict(halo=0),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, agree):
    options = dict(stride=1, heads=2, block=2, halo=1, key_channels=4) | OPTIONS[name]
    agree(HaloAttention(3, 4, **options), reference, torch.randn(1, 3, 5, 4))


POSITIONS = {
    "absolute": dict(positions="absolute"),
    "absolute-stride": dict(positions="absolute", stride=2, scaling="both"),
    "absolute-zeros": dict(positions="absolute", border="zero", key_channels=6),
    "none": dict(positions="none"),
    "none-timm": dict(positions="none", layout="timm", stride=2),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_other_positions(name, agree):
    options = dict(stride=1, heads=2, block=2, halo=1) | POSITIONS[name]
    operator = HaloAttention(4, 6, **options)
    assert [n for n, _ in operator.named_parameters()] == ["q.weight", "kv.weight"]
    agree(operator, reference, torch.randn(1, 4, 5, 3))


def test_without_positions_all_places_of_a_window_are_the_same():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 6)
    turned = x.flip(2, 3)
    plain, absolute = (HaloAttention(4, 4, 1, 2, 6, 0, positions=kind) for kind in ("none", "absolute"))
    torch.testing.assert_close(plain(turned), plain(x).flip(2, 3))
    assert not torch.allclose(absolute(turned), absolute(x).flip(2, 3), atol=1e-3)


def test_halonet_50_with_other_positions():
    sizes = {}
    for positions in ("relative", "absolute", "none"):
        with torch.device("meta"):
            host = HaloNet(8, 3, 1.0, 4.0, (3, 4, 6, 3), (4, 8, 16, 32), positions=positions)
        sizes[positions] = sum(p.numel() for p in host.parameters())
    assert sizes["absolute"] == sizes["none"] == sizes["relative"] - 21 * 16 * 16  # 21 rows and columns, d = 16


@pytest.mark.parametrize("implementation", ["chunks", "fused", "softmax"])
def test_implementations(implementation, agree):
    operator = HaloAttention(3, 4, 2, 2, 4, 1, 4, implementation=implementation)
    agree(operator, reference, torch.randn(1, 3, 5, 6))


def test_averages_follow_full_resolution(agree):
    def averaged(operator, x):
        full = reference(operator, x)
        cells = [
            full[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in range(0, 5, 2) for j in range(0, full.shape[3], 2)
        ]
        return torch.stack(cells, 2).unflatten(2, (3, -1))

    agree(HaloAttention(3, 4, 2, 2, 3, 1, 4, subsampling="average"), averaged, torch.randn(1, 3, 5, 4))


def twins(*arguments, **options):
    """timm's module and ours with its weights."""
    peer = HaloAttn(*arguments, **options)
    stride, heads, block = options.get("stride", 1), options["num_heads"], options["block_size"]
    average = stride > 1 and (block % stride or options.get("avg_down", False))
    ours = HaloAttention(
        *arguments,
        stride,
        heads,
        block,
        options["halo_size"],
        heads * peer.dim_head_qk,
        "timm",
        scaling="both" if options.get("scale_pos_embed") else None,
        subsampling="average" if average else "queries",
        bias=options.get("qkv_bias", False),
    )
    ours.load_state_dict(peer.state_dict())
    return ours, peer


TIMM = {
    "stride-1": dict(num_heads=4, block_size=8, halo_size=3),
    "stride-2": dict(num_heads=4, block_size=8, halo_size=2, stride=2),
    "ratio": dict(num_heads=2, block_size=4, halo_size=1, qk_ratio=0.5),
    "narrow-heads": dict(num_heads=4, block_size=4, halo_size=1, dim_head=3),
    "odd-block": dict(num_heads=4, block_size=7, halo_size=2, stride=2),
    "average": dict(num_heads=4, block_size=4, halo_size=2, stride=2, avg_down=True),
    "bias": dict(num_heads=4, block_size=4, halo_size=2, qkv_bias=True),
    "scaled-tables": dict(num_heads=4, block_size=4, halo_size=2, scale_pos_embed=True),
}


@pytest.mark.parametrize("name", TIMM)
def test_equals_timm_with_its_weights(name):
    torch.manual_seed(0)
    ours, peer = twins(16, 32, **TIMM[name])
    block = TIMM[name]["block_size"] * (2 if name == "odd-block" else 1)
    x = torch.randn(2, 16, 2 * block, 3 * block)
    x = x.double().requires_grad_()
    outs = [module.double()(x) for module in (ours, peer)]
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(outs[0])
    names = [name for name, _ in ours.named_parameters()]
    pair = [
        torch.autograd.grad(out, [x, *(module.get_parameter(name) for name in names)], direction)
        for out, module in zip(outs, (ours, peer), strict=True)
    ]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (13, 8)])
def test_other_sizes_are_timm_on_the_map_extended_by_zeros(size, stride):
    torch.manual_seed(0)
    ours, peer = twins(8, 8, num_heads=2, block_size=4, halo_size=3, stride=stride)
    ours.double(), peer.double()
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    extended = peer(F.pad(x, (0, -size[1] % 4, 0, -size[0] % 4)))
    height, width = (-(-side // stride) for side in size)
    torch.testing.assert_close(ours(x), extended[:, :, :height, :width], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("border", ["mask", "zero"])
def test_extending_the_map_by_zeros(border):
    """Zeros are keys in one convention; in the other what lies outside is never seen, unless it becomes the inside."""
    torch.manual_seed(0)
    operator = HaloAttention(4, 4, 1, 2, 4, 2, border=border).double()
    x = torch.randn(1, 4, 9, 11, dtype=torch.float64)
    out, extended = operator(x), operator(F.pad(x, (0, 6, 0, 8)))[:, :, :9, :11]
    seen = (out - extended).abs().amax((0, 1)) > 1e-12
    expected = torch.ones(9, 11, dtype=torch.bool)
    expected[:4, :8] = False  # blocks whose windows end inside the map: rows up to 5, columns up to 9
    assert (seen == expected).all() if border == "mask" else not seen.any()


def test_one_block_is_global_attention():
    torch.manual_seed(0)
    operator = HaloAttention(4, 4, 1, 2, 5, 0, scaling="content")
    torch.nn.init.zeros_(operator.pos_embed.height_rel)
    torch.nn.init.zeros_(operator.pos_embed.width_rel)
    x = torch.randn(2, 4, 5, 5)
    k, v = operator.kv(x).flatten(2).unflatten(1, (2, 4)).transpose(2, 3).chunk(2, 3)
    q = operator.q(x).flatten(2).unflatten(1, (2, 2)).transpose(2, 3)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(2, 4, 5, 5)
    torch.testing.assert_close(operator(x), expected)


def test_shifts_by_a_block_commute():
    torch.manual_seed(0)
    operator = HaloAttention(4, 4, 1, 2, 3, 1).double()
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    shifted = operator(x.roll((3, 3), (2, 3)))[:, :, 6:9, 6:9]
    torch.testing.assert_close(shifted, operator(x)[:, :, 3:6, 3:6], rtol=1e-10, atol=1e-10)
    shifted = operator(x.roll((1, 1), (2, 3)))[:, :, 4:7, 4:7]
    assert not torch.allclose(shifted, operator(x)[:, :, 3:6, 3:6])


@pytest.mark.parametrize("border", ["zero", "mask"])
@pytest.mark.parametrize("layout", ["paper", "timm"])
def test_heads_that_look_at_one_offset_each_are_a_convolution(layout, border):
    """Lemma 2 of arXiv 1911.03584: the convolution has zero padding where zeros are keys, else replicated padding."""
    torch.manual_seed(0)
    kernel, block, halo, alpha = 3, 4, 2, 46.0
    weight = torch.randn(5, 2, kernel, kernel, dtype=torch.float64)
    heads = kernel**2
    operator = HaloAttention(
        3, heads * 5, 1, heads, block, halo, heads * 2 * kernel, layout, border, "none"
    ).double()  # the third input channel is constant
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.zero_()
        q = operator.q.weight.view(heads, 2 * kernel, 3)
        v = operator.kv.weight.view(heads, 2 * kernel + 5, 3)[:, 2 * kernel :]
        for u in range(kernel):
            for w in range(kernel):
                q[u * kernel + w, [u, kernel + w], 2] = 1
                v[u * kernel + w, :, :2] = weight[:, :, u, w]
        entries = operator.pos_embed.height_rel.shape[0]
        zero_offset = block + 2 * halo - 1 + halo if layout == "timm" else block - 1 + halo
        offsets = torch.arange(entries).double() - zero_offset
        parabolas = -alpha * (offsets.unsqueeze(1) - (torch.arange(kernel) - kernel // 2)) ** 2
        operator.pos_embed.height_rel[:, :kernel] = parabolas
        operator.pos_embed.width_rel[:, -kernel:] = parabolas
    x = torch.randn(2, 2, 9, 7, dtype=torch.float64)
    out = operator(torch.cat([x, torch.ones_like(x[:, :1])], 1)).unflatten(1, (heads, 5)).sum(1)
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if border == "zero" else "replicate")
    torch.testing.assert_close(out, F.conv2d(padded, weight), rtol=1e-10, atol=1e-10)


def network_size(block, halo, values, width, third, last=None, heads=(4, 8, 8, 8), depths=(3, 3, None, 3)):
    """Parameters of a HaloNet: stem, bottleneck blocks with attention instead of the 3 x 3 convolution, classifier."""
    total, channels = 3 * 64 * 49 + 2 * 64, 64
    for stage, (d, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
        out, v = int(d * width), int(d * values)
        for number in range(depth or third):
            with torch.device("meta"):
                attention = HaloAttention(d, v, 1 + (stage > 0 and number == 0), heads[stage], block, halo)
            total += channels * d + 2 * d + sum(p.numel() for p in attention.parameters()) + 2 * v + v * out + 2 * out
            if number == 0 and (stage or out != channels):
                total += channels * out + 2 * out
            channels = out
    if last:
        total, channels = total + channels * last + 2 * last, last
    return total + 1000 * channels + 1000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 3, 1, 0.5, 7), 5_485_352),
        ((8, 3, 1, 1, 10), 8_081_288),
        ((8, 3, 1, 1.25, 11), 9_384_488),
        ((10, 3, 1, 1.5, 12, 1280), 12_271_048),
        ((12, 2, 1, 3, 12, 1280), 19_079_944),
        ((14, 2, 2.5, 2, 23, 1536), 30_679_016),
        ((8, 3, 1, 4, 6, None, (4, 8, 16, 32), (3, 4, None, 3)), 18_017_576),
    ],
    ids=["H0", "H1", "H2", "H3", "H4", "H5", "HaloNet-50"],
)
def test_published_networks_have_their_sizes(arguments, expected):
    assert network_size(*arguments) == expected


def test_map_names_cells_of_the_input():
    operator = HaloAttention(4, 4, 2, 2, 2, 1)
    with record_attention(operator) as maps:
        operator(torch.randn(1, 4, 5, 3))
    (found,) = maps[""]
    assert found.name == "key" and found.weights.shape == (1, 2, 3, 2, 4, 4)
    assert found.rows.tolist() == [[-1, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert found.columns.tolist() == [[-1, 0, 1, 2], [1, 2, 3, 4]]
    torch.testing.assert_close(found.heat_map(5, 3).sum(), torch.tensor(6.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=0), "heads=0 .*at least 1"),
        (dict(block=0), "block=0 .*at least 1"),
        (dict(halo=-1), "halo=-1 .*at least 0"),
        (dict(heads=3), "out_channels=16 is no multiple of 3; give e.g. 15"),
        (dict(key_channels=12, heads=4), "key_channels=12 is no multiple of 8; give e.g. 8"),
        (dict(key_channels=6, heads=4, layout="timm"), "key_channels=6 is no multiple of 4; give e.g. 4"),
        (dict(stride=2, block=7), "stride=2 does not divide block=7; .*subsampling='average'"),
        (dict(layout="keras"), "layout='keras' .*paper, timm"),
        (dict(border="replicate"), "border='replicate' .*mask, zero"),
        (dict(scaling="all"), "scaling='all' .*none, content, both"),
        (dict(subsampling="max"), "subsampling='max' .*queries, average"),
        (dict(positions="learned"), "positions='learned' .*relative, absolute, none"),
        (dict(implementation="flash"), "implementation='flash' .*auto, chunks, fused, softmax"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message) as error:
        HaloAttention(16, 16, **options)
    assert "\n" not in str(error.value)
