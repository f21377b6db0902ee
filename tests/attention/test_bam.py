"""BAM against its equations, written out as loops."""

import pytest
import torch

from attention import BAM, record_attention


def normalised(values, norm, training):
    """Batch normalisation of values (N, m): every row is one observation."""
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean = values.mean(0)
        variance = ((values - mean) ** 2).mean(0)
    return (values - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


def relu(values):
    return torch.where(values > 0, values, values * 0)


def channel_scores(operator, x):
    """Equation 2 of arXiv 1807.06514 without the norm at the end: (B, C)."""
    first, norm, _, second = operator.channel
    means = torch.stack([sum(cell for row in image.unbind(1) for cell in row.unbind(1)) for image in x])
    hidden = (means / (x.shape[2] * x.shape[3])) @ first.weight.T + first.bias
    return relu(normalised(hidden, norm, operator.training)) @ second.weight.T + second.bias


def convolved(x, layer, dilation):
    """A convolution by shifted products; x (B, H, W, C_in)."""
    rows, columns = x.shape[1:3]
    reach = layer.kernel_size[0] // 2
    out = []
    for i in range(rows):
        for j in range(columns):
            total = layer.bias.expand(len(x), -1)
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    row, column = i + di * dilation, j + dj * dilation
                    if 0 <= row < rows and 0 <= column < columns:
                        total = total + x[:, row, column] @ layer.weight[:, :, di + reach, dj + reach].T
            out.append(total)
    return torch.stack(out, 1).view(len(x), rows, columns, -1)


def position_scores(operator, x, dilation):
    """Equation 3 without the norm at the end: (B, H, W)."""
    layers = list(operator.position)
    cells = x.permute(0, 2, 3, 1)
    for index in (0, 3, 6):
        cells = convolved(cells, layers[index], dilation)
        flat = normalised(cells.reshape(-1, cells.shape[3]), layers[index + 1], operator.training)
        cells = relu(flat).view(cells.shape)
    return convolved(cells, layers[9], 1)[..., 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("fusion", "dilation"),
    [("product", 1), ("product", 4), ("sum", 2), ("max", 6), ("channel", 4), ("spatial", 2)],
)
def test_equation_forward_and_backward(fusion, dilation, training, size, agree):
    def reference(operator, x):
        of_channels = of_positions = x.new_zeros(x.shape[:2])[..., None]
        if fusion != "spatial":
            of_channels = channel_scores(operator, x)[..., None, None]
        if fusion != "channel":
            of_positions = position_scores(operator, x, dilation)
        out = torch.zeros_like(x)
        for c in range(x.shape[1]):
            score = {
                "product": lambda a, b: a * b,
                "sum": lambda a, b: a + b,
                "max": lambda a, b: torch.where(a > b, a, b),
                "channel": lambda a, b: a,
                "spatial": lambda a, b: b,
            }[fusion](of_channels[:, c], of_positions)
            out[:, c] = x[:, c] * (1 + 1 / (1 + torch.exp(-score)))
        return out

    torch.manual_seed(0)
    agree(BAM(6, 2, dilation, fusion).train(training), reference, torch.randn(3, 6, *size))


@pytest.mark.parametrize(
    ("channels", "expected"), [(64, 1_173), (256, 17_361), (512, 68_513), (1024, 272_193), (2048, 1_085_057)]
)
def test_published_module_sizes(channels, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in BAM(channels).parameters()) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reduction": 4}, 7_873_025),
        ({"fusion": "channel"}, 526_720),
        ({"fusion": "spatial"}, 558_337),
        ({"dilation": 6, "fusion": "max"}, 1_085_057),
    ],
    ids=str,
)
def test_sizes_of_the_ablation(options, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in BAM(2048, **options).parameters()) == expected


def test_starts_as_published():
    operator = BAM(64)
    assert operator.fusion == "product"
    assert operator.position[3].dilation == operator.position[3].padding == (4, 4)
    for module in operator.modules():
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
    deviation = operator.position[0].weight.std().item()
    assert deviation == pytest.approx((2 / 4) ** 0.5, rel=0.25)  # fan out: 4 hidden channels


@pytest.mark.parametrize("fusion", ["product", "sum", "max", "channel", "spatial"])
def test_recorded_gate_reproduces_the_output(fusion):
    torch.manual_seed(0)
    operator, x = BAM(16, 4, fusion=fusion), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    shapes = {"channel": (2, 16, 1, 1), "spatial": (2, 1, 5, 6)}
    assert found.name == "gate" and found.weights.shape == shapes.get(fusion, x.shape)
    torch.testing.assert_close(out, x * (1 + found.weights))
    assert found.heat_map(5, 6).shape == (2, 5, 6)


def test_one_image_trains_only_with_frozen_norms():
    operator, x = BAM(16, 4), torch.randn(1, 16, 5, 6)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        operator(x)
    operator.eval()(x).sum().backward()
    assert operator.channel[0].weight.grad.any()


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"dilation=0 .*at least 1"):
        BAM(16, dilation=0)
    with pytest.raises(ValueError, match=r"reduction=32 .*at most 16"):
        BAM(16, 32)
    with pytest.raises(ValueError, match=r"fusion='mean' .*product, sum, max, channel, spatial"):
        BAM(16, fusion="mean")
