"""Attention maps: recorded on request by every operator, in a form that tools can read."""

import copy

import pytest
import torch
from torch import nn

from attention import AttentionMap, Mixer, Refine, SqueezeExcitation, record_attention
from attention.base import Operator
from tests.attention.operators import every_operator, make_inputs, make_operator, variants

SIZES = [(1, 1), (1, 7), (5, 3), (9, 10)]


@every_operator
def test_every_operator_records_well_formed_maps(case):
    """Gates broadcast to the map; mixtures have index tables, and softmaxes sum to one over keys inside the map."""
    for given in variants(case):
        operator = make_operator(case, *given).double()
        for size in SIZES:
            inputs = tuple(value.detach().double() for value in make_inputs(case, *size))
            with record_attention(operator) as maps:
                out = operator(*inputs)
            found = [each for recorded in maps.values() for each in recorded]
            assert found, "nothing was recorded"
            for each in found:
                assert each.name and not each.weights.requires_grad and each.weights.isfinite().all()
                check_form(each, [value.shape for value in (*inputs, out) if value.ndim == 4], size)
                if each.rows is not None and case.sums_to_one:
                    check_softmax(each, size)


def check_form(each, shapes, size):
    rows, columns = shapes[0][2:]
    if each.rows is None or each.columns is None:
        assert each.rows is None and each.columns is None
        assert any(broadcasts(each.weights.shape, shape) for shape in shapes), (each.weights.shape, shapes)
    else:
        assert each.rows.dtype == each.columns.dtype == torch.int64
        batch, _, query_rows, query_columns, key_rows, key_columns = each.weights.shape
        assert each.rows.shape == (query_rows, key_rows) and each.columns.shape == (query_columns, key_columns)
        assert batch == shapes[0][0]
    heat = each.heat_map(rows, columns) if each.rows is not None else None
    assert heat is None or heat.shape == (shapes[0][0], rows, columns)


def broadcasts(shape, target):
    """As a gate does, also one of a part of the channels."""
    if len(shape) != 4 or target[1] % shape[1]:
        return False
    return all(
        side in (1, full) for side, full in zip((*shape[:1], *shape[2:]), (*target[:1], *target[2:]), strict=True)
    )


def check_softmax(each, size):
    """Every query inside the map divides one among the keys inside, each of which it sees once."""
    inside_rows = (each.rows >= 0) & (each.rows < size[0])
    inside_columns = (each.columns >= 0) & (each.columns < size[1])
    inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]  # (H', W', h, w)
    total = (each.weights * inside).sum((-1, -2))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)
    for table, valid in ((each.rows, inside_rows), (each.columns, inside_columns)):
        for line, keep in zip(table, valid, strict=True):
            assert len(line[keep].unique()) == int(keep.sum())


@every_operator
def test_nothing_changes_while_nobody_records(case):
    operator = make_operator(case).double().eval()
    inputs = tuple(value.detach().double() for value in make_inputs(case, 5, 6))
    before = {name: dict(vars(module)) for name, module in operator.named_modules()}
    expected = operator(*inputs)
    for name, module in operator.named_modules():
        assert vars(module).keys() == before[name].keys(), "a forward pass leaves something behind"
        assert not isinstance(module, Operator) or module._maps is None
    with record_attention(operator):
        torch.testing.assert_close(operator(*inputs), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(operator(*inputs), expected)
    assert not any(module.recording for module in operator.modules() if isinstance(module, Operator))


class Shift(Mixer):
    """Every query sees the key to its left and itself, or only itself at the border."""

    def forward(self, x):
        if self.recording:
            batch, _, rows, columns = x.shape
            weights = torch.full((batch, 1, rows, columns, 1, 2), 0.5)
            weights[:, :, :, 0] = torch.tensor([0.0, 1.0])
            places = torch.arange(columns)
            self.record("key", weights, torch.arange(rows)[:, None], torch.stack([places - 1, places], 1))
        return x


class Gate(Refine):
    def forward(self, x):
        gate = torch.sigmoid(x.mean(3, keepdim=True))
        if self.recording:
            self.record("row", gate)
        return x * gate


def test_maps_have_the_names_of_their_operators_and_add_up_over_calls():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Gate(4), nn.Sequential(Shift(4, 4), Gate(4)))
    x = torch.randn(2, 3, 5, 6)
    with record_attention(model) as maps:
        model(x), model(x)
    assert {name: [each.name for each in recorded] for name, recorded in maps.items()} == {
        "1": ["row", "row"],
        "2.0": ["key", "key"],
        "2.1": ["row", "row"],
    }
    torch.testing.assert_close(maps["1"][0].weights, torch.sigmoid(model[0](x).mean(3, keepdim=True)).detach())
    model(x)
    assert len(maps["1"]) == 2


def test_recording_ends_with_an_error_too():
    model = Gate(4)
    with pytest.raises(RuntimeError, match="stop"), record_attention(model):
        raise RuntimeError("stop")
    assert not model.recording
    with pytest.raises(RuntimeError, match="Gate is not recording"):
        model.record("row", torch.zeros(1))


def test_contexts_within_contexts_all_get_their_maps():
    model, x = nn.Sequential(Gate(4), Gate(4)), torch.randn(2, 4, 5, 6)
    with record_attention(model) as outer:
        model(x)
        with record_attention(model[1]) as inner:
            model(x)
        model(x)
    assert {name: len(found) for name, found in outer.items()} == {"0": 3, "1": 3}
    assert len(inner[""]) == 1 and inner[""][0] is outer["1"][1]
    assert not any(gate.recording for gate in model)


def test_a_copy_made_while_recording_computes_the_same():
    model, x = SqueezeExcitation(16, 4), torch.randn(1, 16, 3, 3)
    with record_attention(model):
        model(x)
        twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))


def test_heat_maps_sum_what_positions_received():
    gate = AttentionMap("row", torch.tensor([[[[1.0], [3.0]], [[2.0], [5.0]]]]))  # (1, 2, 2, 1)
    assert gate.heat_map(2, 3).tolist() == [[[1.5, 1.5, 1.5], [4.0, 4.0, 4.0]]]
    shift = Shift(4, 4)
    with record_attention(shift) as maps:
        shift(torch.zeros(1, 4, 2, 3))
    assert maps[""][0].heat_map(2, 3).tolist() == [[[1.5, 1.0, 0.5], [1.5, 1.0, 0.5]]]


def test_heat_maps_average_heads_and_ignore_keys_outside():
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).view(1, 2, 1, 1, 1, 2)
    outside = AttentionMap("key", weights, torch.tensor([[0]]), torch.tensor([[0, 7]]))
    assert outside.heat_map(1, 2).tolist() == [[[0.375, 0.0]]]
