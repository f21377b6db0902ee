"""Selective kernels against their equations, written out as loops, and against timm."""

import pytest
import torch
from timm.layers.selective_kernel import SelectiveKernel as TimmSelectiveKernel
from torch import nn

from attention import SelectiveKernel, record_attention


def convolved(conv, x):
    """Grouped dilated 3 x 3 convolution with zeros around the map, one output position at a time."""
    (stride, _), (dilation, _), groups = conv.stride, conv.dilation, conv.groups
    rows, columns = x.shape[2:]
    kernel = conv.weight.new_zeros(conv.out_channels, conv.in_channels, 3, 3)
    outs, ins = conv.out_channels // groups, conv.in_channels // groups
    for group in range(groups):
        rows_of, columns_of = slice(group * outs, (group + 1) * outs), slice(group * ins, (group + 1) * ins)
        kernel[rows_of, columns_of] = conv.weight[rows_of]
    out = []
    for i in range(0, rows, stride):
        for j in range(0, columns, stride):
            value = 0 * x[:, :1, 0, 0].expand(-1, conv.out_channels)
            for u in range(3):
                for v in range(3):
                    a, b = i + (u - 1) * dilation, j + (v - 1) * dilation
                    if 0 <= a < rows and 0 <= b < columns:
                        value = value + x[:, :, a, b] @ kernel[:, :, u, v].T
            out.append(value)
    return torch.stack(out, 2).unflatten(2, (len(range(0, rows, stride)), len(range(0, columns, stride))))


def normalised(bn, x):
    if bn.training:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    else:
        mean, variance = bn.running_mean[:, None, None], bn.running_var[:, None, None]
    scaled = (x - mean) / torch.sqrt(variance + 1e-5)
    return scaled * bn.weight[:, None, None] + bn.bias[:, None, None]


def reference(operator, x):
    maps = [normalised(path.bn, convolved(path.conv, x)).clamp(min=0) for path in operator.paths]
    pooled = sum(maps).flatten(2).sum(2) / maps[0][0, 0].numel()
    hidden = pooled @ operator.fc_reduce.weight[:, :, 0, 0].T
    hidden = normalised(operator.bn, hidden[:, :, None, None])[:, :, 0, 0].clamp(min=0)
    channels = operator.out_channels
    select = operator.fc_select.weight[:, :, 0, 0]
    scores = [hidden @ select[k * channels : (k + 1) * channels].T for k in range(len(maps))]
    total = sum(torch.exp(score) for score in scores)
    return sum((torch.exp(score) / total)[:, :, None, None] * each for score, each in zip(scores, maps, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("paths", "stride", "groups"), [(2, 1, 2), (2, 2, 1), (3, 2, 2), (1, 1, 2)])
def test_equation_forward_and_backward(paths, stride, groups, training, size, agree):
    torch.manual_seed(0)
    operator = SelectiveKernel(4, 6, stride, paths, groups, 2, 2).train(training)
    agree(operator, reference, torch.randn(3, 4, *size))


@pytest.mark.parametrize(("channels", "out_channels", "stride"), [(64, 64, 1), (64, 128, 2), (64, 1024, 1)])
def test_equals_timm_with_copied_weights(channels, out_channels, stride, same_function):
    torch.manual_seed(0)
    ours = SelectiveKernel(channels, out_channels, stride).double()
    peer = TimmSelectiveKernel(
        channels, out_channels, stride=stride, groups=32, split_input=False, rd_ratio=1 / 16, rd_divisor=32
    ).double()
    nn.init.normal_(ours.fc_select.weight)
    peer.load_state_dict(
        {name if name.startswith("paths.") else f"attn.{name}": value for name, value in ours.state_dict().items()}
    )
    x = torch.randn(2, channels, 9, 7, dtype=torch.float64)
    same_function(ours.train(), peer.train(), x)
    for module in (*ours.modules(), *peer.modules()):  # the momenta differ: 0.05 here, 0.1 there
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.1), module.running_var.fill_(2.0)
    same_function(ours.eval(), peer.eval(), x)


@pytest.mark.parametrize("dilations", [(1, 3), (2, 3), (1, 2, 5)])
def test_paths_of_any_reach_are_selected_or_added(dilations, agree):
    torch.manual_seed(0)
    paths, x = len(dilations), torch.randn(3, 4, 6, 5)
    agree(SelectiveKernel(4, 6, 2, paths, 2, 2, 2, dilations), reference, x)

    def added(operator, x):
        return sum(normalised(path.bn, convolved(path.conv, x)).clamp(min=0) for path in operator.paths)

    agree(SelectiveKernel(4, 6, 2, paths, 2, dilations=dilations, selection=False), added, x)
    assert [path.conv.dilation[0] for path in SelectiveKernel(4, 6, 1, paths, 2, dilations=dilations).paths] == [
        *dilations
    ]


def test_dilations_fit_the_paths():
    with pytest.raises(ValueError, match=r"dilations=\(1,\) does not fit paths=2; give 2 numbers"):
        SelectiveKernel(32, 32, dilations=(1,))


def test_indifferent_selection_is_the_mean_of_the_paths():
    torch.manual_seed(0)
    operator = SelectiveKernel(4, 8, paths=3, groups=2).double().eval()
    nn.init.zeros_(operator.fc_select.weight)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(operator(x), sum(path(x) for path in operator.paths) / 3)


def test_recorded_gates_sum_to_one_and_make_the_output():
    torch.manual_seed(0)
    operator = SelectiveKernel(8, 8, paths=3, groups=4).double().eval()
    nn.init.normal_(operator.fc_select.weight)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    with record_attention(operator) as maps:
        out = operator(x)
    gates = {each.name: each.weights for each in maps[""]}
    assert list(gates) == ["path0", "path1", "path2"] and gates["path0"].shape == (2, 8, 1, 1)
    torch.testing.assert_close(sum(gates.values()), torch.ones(2, 8, 1, 1, dtype=torch.float64))
    paths = [path(x) for path in operator.paths]
    torch.testing.assert_close(sum(gate * each for gate, each in zip(gates.values(), paths, strict=True)), out)


@pytest.mark.parametrize(
    ("units", "floors", "expected"),
    [
        ((3, 4, 6, 3), (32, 32, 32, 32), 27_479_784),
        # The released SKNet-101 has 16 hidden channels in its second stage, where L = 32 would give 48,736,040.
        ((3, 4, 23, 3), (32, 16, 32, 32), 48_686_760),
    ],
    ids=["sknet50", "sknet101"],
)
def test_sizes_of_the_published_networks(units, floors, expected):
    def normalised_conv(given, wanted, side=1):
        return [nn.Conv2d(given, wanted, side, bias=False), nn.BatchNorm2d(wanted)]

    with torch.device("meta"):
        layers = [*normalised_conv(3, 64, 7), nn.Linear(2048, 1000)]
        given = 64
        for stage, (count, floor) in enumerate(zip(units, floors, strict=True)):
            width = 128 << stage
            for unit in range(count):
                layers += [*normalised_conv(given, width), SelectiveKernel(width, width, min_channels=floor)]
                layers += normalised_conv(width, 2 * width)
                if unit == 0:
                    layers += normalised_conv(given, 2 * width)
                given = 2 * width
    assert sum(value.numel() for layer in layers for value in layer.parameters()) == expected


def test_a_single_sample_trains_only_with_the_normalisation_frozen():
    operator = SelectiveKernel(4, 4, groups=2).train()
    x = torch.randn(1, 4, 5, 5)
    with pytest.raises(ValueError, match="more than 1 value"):
        operator(x)
    operator.bn.eval()
    assert operator(x).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 48, "out_channels": 64}, "groups=32 .*in_channels=48 .*common divisor"),
        ({"in_channels": 64, "out_channels": 48}, "groups=32 .*out_channels=48"),
        ({"in_channels": 64, "out_channels": 64, "paths": 0}, "paths=0"),
        ({"in_channels": 64, "out_channels": 64, "groups": 0}, "groups=0"),
        ({"in_channels": 64, "out_channels": 64, "reduction": 0}, "reduction=0"),
        ({"in_channels": 64, "out_channels": 64, "min_channels": 0}, "min_channels=0"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        SelectiveKernel(**arguments)
    assert "\n" not in str(error.value)
