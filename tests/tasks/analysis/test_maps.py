"""Numbers of attention maps against sums written out, and on operators whose answer is known."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from attention import (
    AttentionMap,
    CoordinateAttention,
    LocalFilter,
    NonLocal,
    QuadraticSelfAttention,
    SelectiveKernel,
    SqueezeExcitation,
    StaticGate,
    record_attention,
)
from backbones import ResNet
from tasks.analysis.maps import attended_distances, gate_variation, quadratic_centres, similarity
from tasks.analysis.scale import enlarged, kernel_selection


def test_a_constant_gate_varies_not_at_all_and_one_that_sees_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(StaticGate(6), SqueezeExcitation(6, 2), CoordinateAttention(6))
    nn.init.normal_(network[0].scores)
    with record_attention(network) as maps:
        for _ in range(3):
            network(torch.randn(2, 6, 5, 7))
    found = gate_variation(maps)
    assert [*found] == ["0 channel", "1 channel", "2 row", "2 column"]
    assert found["0 channel"].share == pytest.approx(0, abs=1e-12)
    assert found["0 channel"].mean == pytest.approx(torch.sigmoid(network[0].scores).tolist())
    gates = torch.cat([each.weights[:, :, 0, 0] for each in maps["1"]]).double()  # (6 images, 6 channels)
    overall = gates.mean()
    between = sum((gates[i, c] - gates[:, c].mean()) ** 2 for i in range(6) for c in range(6))
    total = sum((gates[i, c] - overall) ** 2 for i in range(6) for c in range(6))
    assert found["1 channel"].share == pytest.approx((between / total).item()) and 0 < found["1 channel"].share < 1
    expected = [math.sqrt(((gates[:, c] - gates[:, c].mean()) ** 2).mean()) for c in range(6)]
    assert found["1 channel"].deviation == pytest.approx(expected)


def test_distances_are_those_of_queries_and_keys_in_pixels() -> None:
    torch.manual_seed(0)
    operator = LocalFilter(4, 4, 1, 3, 2, ("content", "bias")).double()
    for parameter in operator.parameters():
        nn.init.normal_(parameter)
    with record_attention(operator) as maps:
        operator(torch.randn(2, 4, 5, 6, dtype=torch.float64))
    (found,) = maps[""]
    expected = []
    for head in range(2):
        total = 0.0
        for image in range(2):
            for i in range(5):
                for j in range(6):
                    for a in range(3):
                        for b in range(3):
                            row, column = int(found.rows[i, a]), int(found.columns[j, b])
                            distance = math.hypot((row - i) * 40 / 5, (column - j) * 72 / 6)
                            total += found.weights[image, head, i, j, a, b].item() * distance
        expected.append(total / (2 * 5 * 6))
    assert attended_distances(maps, (40, 72)) == {"key": pytest.approx(expected)}


def test_a_query_that_sees_itself_alone_attends_at_no_distance() -> None:
    rows = torch.arange(4)[:, None]
    near = AttentionMap("key", torch.ones(1, 1, 4, 4, 1, 1), rows, rows)
    every = torch.arange(4).expand(4, 4)
    far = AttentionMap("key", torch.full((1, 1, 4, 4, 4, 4), 1 / 16), every, every)
    gate = AttentionMap("channel", torch.ones(1, 3, 1, 1))
    found = attended_distances({"near": [near], "far": [far], "gate": [gate]}, (64, 64))
    pairs = [math.hypot(a - i, b - j) * 16 for i in range(4) for j in range(4) for a in range(4) for b in range(4)]
    assert found == {"near key": [0.0], "far key": [pytest.approx(sum(pairs) / 256)]}


def test_similar_layers_have_similar_heat_maps() -> None:
    torch.manual_seed(0)
    first, other = torch.rand(2, 1, 8, 4), torch.rand(2, 1, 8, 4)
    doubled = first.repeat_interleave(2, 2).repeat_interleave(2, 3)  # the same on a finer grid
    layers = {"a": first, "b": doubled, "c": 3 - first, "d": other, "flat": torch.ones(2, 1, 8, 4)}
    maps = {name: [AttentionMap("position", value)] for name, value in layers.items()}
    names, matrix = similarity(maps | {"channels": [AttentionMap("channel", torch.rand(2, 5, 1, 1))]})
    assert names == ["a", "b", "c", "d", "flat"]
    assert matrix[0][1] == pytest.approx(1) and matrix[0][2] == pytest.approx(-1) and abs(matrix[0][3]) < 0.7
    assert all(matrix[i][i] == pytest.approx(1) for i in range(4)) and matrix[4] == [0.0] * 5
    assert similarity({"channels": [AttentionMap("channel", torch.rand(2, 5, 1, 1))]}) == ([], [])


def test_centres_are_the_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), QuadraticSelfAttention(4, 4, 1, 9))
    assert quadratic_centres(network) == {"1": network[1].centres.tolist()}
    assert quadratic_centres(nn.Sequential(NonLocal(4))) == {}


def test_enlarged_objects_fill_more_of_the_image() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 30:45] = 255
    shares = [(enlarged(image, (30, 10, 15, 10), scale) > 127).float().mean().item() for scale in (1.0, 1.5, 2.0)]
    assert shares[0] == pytest.approx(150 / 2400)
    assert shares[1] == pytest.approx(1.5**2 * shares[0], rel=0.15)
    assert shares[2] == pytest.approx(4 * shares[0], rel=0.15)
    corner = enlarged(image, (50, 35, 10, 5), 2.0)  # the window stays inside
    assert corner.shape == image.shape


def test_selection_is_the_mean_difference_of_the_paths() -> None:
    torch.manual_seed(0)
    mixer = partial(SelectiveKernel, groups=1, min_channels=4)
    network = ResNet(18, mixer=mixer, mixer_stages=(4,), mixer_blocks="last").eval()
    for module in network.modules():
        if isinstance(module, SelectiveKernel):
            nn.init.normal_(module.fc_select.weight)
    images = [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(3)]
    objects = [(image, (10.0, 10.0, 20.0, 20.0), name) for image, name in zip(images, "aba", strict=True)]
    found = kernel_selection(network, lambda image: image.unsqueeze(0) / 255, objects, (1.0, 2.0))
    assert {key: [*layers] for key, layers in found.items()} == {
        "a": ["layer4.1.conv1"],
        "all": ["layer4.1.conv1"],
        "b": ["layer4.1.conv1"],
    }
    values = []
    for image, box, _ in objects:
        with torch.inference_mode(), record_attention(network) as maps:
            network(enlarged(image, box, 2.0).unsqueeze(0) / 255)
        wide, narrow = (next(m for m in maps["layer4.1.conv1"] if m.name == name) for name in ("path1", "path0"))
        values.append((wide.weights - narrow.weights).mean().item())
    assert found["all"]["layer4.1.conv1"][1] == pytest.approx(sum(values) / 3)
    assert found["a"]["layer4.1.conv1"][1] == pytest.approx((values[0] + values[2]) / 2)
    assert found["b"]["layer4.1.conv1"][1] == pytest.approx(values[1])
    assert kernel_selection(ResNet(18).eval(), lambda image: image, objects) == {}
