"""Gather-excite against its equation, written out as loops, and against timm."""

import pytest
import torch
from timm.layers import GatherExcite as Peer
from timm.layers.create_conv2d import create_conv2d
from timm.layers.mlp import ConvMlp

from attention import GatherExcite, SqueezeExcitation, record_attention


def gathered_averages(x, extent):
    """Means of the cells within extent - 1 rows and columns of every extent-th cell: (B, C, h, w)."""
    rows, columns = x.shape[2:]
    centres = [(i, j) for i in range(0, rows, extent) for j in range(0, columns, extent)]
    out = []
    for i, j in centres:
        cells = [
            x[:, :, row, column]
            for row in range(rows)
            for column in range(columns)
            if abs(row - i) < extent and abs(column - j) < extent
        ]
        out.append(sum(cells) / len(cells))
    return torch.stack(out, 2).unflatten(2, (-(-rows // extent), -(-columns // extent)))


def strided(x, weight):
    """A depth-wise 3x3 convolution of stride 2; zeros around the map."""
    rows, columns = x.shape[2:]
    out = []
    for i in range(0, rows, 2):
        for j in range(0, columns, 2):
            total = x[:, :, 0, 0] * 0
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < rows and 0 <= j + dj < columns:
                        total = total + weight[:, 0, di + 1, dj + 1] * x[:, :, i + di, j + dj]
            out.append(total)
    return torch.stack(out, 2).unflatten(2, (-(-rows // 2), -(-columns // 2)))


def normalised(x, norm):
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    if norm.training:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight[:, None, None] + norm.bias[:, None, None]


def relu(x):
    return torch.where(x > 0, x, x * 0)


def excited(operator, scores):
    if operator.mlp is None:
        return scores
    *_, fc1, _, fc2 = operator.mlp
    scores = relu(scores) if operator.gather == "convolution" else scores
    hidden = relu(torch.einsum("mc,bcij->bmij", fc1.weight[:, :, 0, 0], scores) + fc1.bias[:, None, None])
    return torch.einsum("cm,bmij->bcij", fc2.weight[:, :, 0, 0], hidden) + fc2.bias[:, None, None]


def reference(operator, x):
    """Section 3 of arXiv 1810.12348."""
    rows, columns = x.shape[2:]
    if operator.kernel is not None:  # of the size of the map
        cells = [(i, j) for i in range(rows) for j in range(columns)]
        scores = sum(operator.kernel.weight[:, 0, i, j] * x[:, :, i, j] for i, j in cells)[:, :, None, None]
        scores = normalised(scores, operator.layers[0])
    elif operator.gather == "average":
        scores = gathered_averages(x, operator.extent or 2 * max(rows, columns))
    else:
        scores, layers = x, list(operator.layers)
        for index in range(0, len(layers), 3):
            scores = normalised(strided(scores, layers[index].weight), layers[index + 1])
            scores = scores if index + 2 >= len(layers) else relu(scores)
    scores = excited(operator, scores)
    out = torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            score = scores[:, :, i * scores.shape[2] // rows, j * scores.shape[3] // columns]
            out[:, :, i, j] = x[:, :, i, j] / (1 + torch.exp(-score))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (9, 10)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mlp": True, "reduction": 2},
        {"extent": 2},
        {"extent": 4, "mlp": True, "reduction": 3},
        {"extent": 8},
        {"extent": 2, "gather": "convolution"},
        {"extent": 8, "gather": "convolution", "mlp": True, "reduction": 2},
    ],
    ids=str,
)
def test_equation_forward_and_backward(options, training, size, agree):
    torch.manual_seed(0)
    agree(GatherExcite(6, **options).train(training), reference, torch.randn(3, 6, *size))


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
def test_global_kernel_of_the_size_of_the_map(size, training, mlp, agree):
    torch.manual_seed(0)
    operator = GatherExcite(4, None, "convolution", mlp, 2, size)
    agree(operator.train(training), reference, torch.randn(3, 4, *size))


def test_global_kernel_follows_the_map():
    """What a kernel says of a part of the map it says of that part in every resolution."""
    operator = GatherExcite(1, None, "convolution", size=(1, 2)).eval().double()
    with torch.no_grad():
        operator.kernel.weight.copy_(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    columns = torch.tensor([1.0, 1.5, 2.5, 3.0], dtype=torch.float64)  # centres of cells between those of two halves
    score = (x * columns).mean() * 2 / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(operator(x), x * torch.sigmoid(score))
    large, small = (operator(torch.ones(1, 1, *size, dtype=torch.float64)) for size in ((7, 6), (1, 2)))
    torch.testing.assert_close(large, small[..., :1].expand_as(large))


def timm_operator(ours):
    """timm's operator with our weights. Release 1.0.31 cannot make its own layers with parameters: they are put in."""
    peer = Peer(ours.channels, extent=ours.extent or 0, use_mlp=False)
    if ours.gather == "convolution":
        layers = []
        for layer in [*([] if ours.kernel is None else [ours.kernel]), *ours.layers]:
            if isinstance(layer, torch.nn.Conv2d):
                stride = layer.stride[0]
                layers.append(
                    create_conv2d(ours.channels, ours.channels, layer.kernel_size, stride=stride, depthwise=True)
                    if ours.kernel is None
                    else torch.nn.Conv2d(
                        ours.channels, ours.channels, layer.kernel_size, groups=ours.channels, bias=False
                    )
                )
            else:
                layers.append(type(layer)(*([ours.channels] if isinstance(layer, torch.nn.BatchNorm2d) else [])))
            layers[-1].load_state_dict(layer.state_dict())
        if ours.mlp is not None:
            layers.append(torch.nn.ReLU())  # of the authors; timm has none
        peer.gather = torch.nn.Sequential(*layers)
    if ours.mlp is not None:
        *_, fc1, _, fc2 = ours.mlp
        peer.mlp = ConvMlp(ours.channels, fc1.out_channels, act_layer=torch.nn.ReLU)
        peer.mlp.fc1.load_state_dict(fc1.state_dict())
        peer.mlp.fc2.load_state_dict(fc2.state_dict())
    return peer


@pytest.mark.parametrize("size", [(16, 24), (9, 7), (13, 1)])
@pytest.mark.parametrize("mlp", [False, True], ids=["", "mlp"])
@pytest.mark.parametrize("gather", ["average", "convolution"])
@pytest.mark.parametrize("extent", [2, 4, 8, None])
def test_equals_timm_with_copied_weights(extent, gather, mlp, size, same_function):
    torch.manual_seed(0)
    global_kernel = size if extent is None and gather == "convolution" else None
    ours = GatherExcite(32, extent, gather, mlp, size=global_kernel)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    same_function(ours, timm_operator(ours), torch.randn(2, 32, *size))


def test_global_average_with_mlp_is_squeeze_and_excitation(same_function):
    ours, peer = GatherExcite(32, mlp=True, reduction=4), SqueezeExcitation(32, 4)
    for layer, other in ((peer.fc1, ours.mlp[0]), (peer.fc2, ours.mlp[2])):
        torch.nn.init.normal_(other.weight)
        layer.load_state_dict(other.state_dict())
    same_function(ours, peer, torch.randn(2, 32, 9, 7))


def test_starts_as_published():
    torch.manual_seed(0)
    operator = GatherExcite(256, 4, "convolution", True)
    assert operator.layers[0].weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert [type(layer).__name__ for layer in operator.layers] == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "BatchNorm2d",
    ]
    for layer in (operator.mlp[1], operator.mlp[3]):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1) and not layer.bias.any()
    assert operator.mlp[1].out_channels == 16


@pytest.mark.parametrize("extent", [None, 4])
def test_recorded_weights_reproduce_the_output(extent):
    operator, x = GatherExcite(16, extent), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "gate" and found.weights.shape == ((2, 16, 1, 1) if extent is None else x.shape)
    torch.testing.assert_close(out, x * found.weights)
    assert found.heat_map(5, 6).shape == (2, 5, 6)


def test_wrong_arguments_are_named_with_a_remedy():
    for extent in (0, 1, 3, 6, -2):
        with pytest.raises(ValueError, match=f"extent={extent} .*2, 4, 8 or none"):
            GatherExcite(16, extent)
    with pytest.raises(ValueError, match=r"gather='max' .*average, convolution"):
        GatherExcite(16, gather="max")
    for options in (
        {"gather": "convolution"},
        {"size": (7, 7)},
        {"extent": 2, "gather": "convolution", "size": (7, 7)},
    ):
        with pytest.raises(ValueError, match=r"size=.* does not go with .*give the size of the map"):
            GatherExcite(16, **options)
    with pytest.raises(ValueError, match=r"rows=0 .*at least 1"):
        GatherExcite(16, gather="convolution", size=(0, 3))
    with pytest.raises(ValueError, match=r"reduction=32 .*at most 16"):
        GatherExcite(16, mlp=True, reduction=32)
