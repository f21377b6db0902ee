"""Windowed attention with relative vectors: its implementations agree with loops over single numbers."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attention.functional import plain
from attention.functional.relative import (
    RelativeTables,
    Windows,
    check_heads,
    chunks,
    join_heads,
    relative_attention,
    tokens,
)
from attention.functional.relative import relative_attention_with_weights as with_weights

IMPLEMENTATIONS = ["chunks", "fused", "softmax"]
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def weights_of(q, k, rows, columns, scale, windows, i, j):
    """Weight and place of every key of the query at (i, j) of a map, from the equation."""
    (tall, wide), (height, width) = windows.block, k.shape[1:]
    (per_row, per_column), stride, step = windows.queries, windows.stride, windows.step
    top, left = i * stride // tall * tall - windows.halo, j * stride // wide * wide - windows.halo
    logits, places = [], []
    for a in range(tall + 2 * windows.halo):
        for b in range(wide + 2 * windows.halo):
            inside = 0 <= top + a < height and 0 <= left + b < width
            if not inside and windows.masked:
                continue
            row = rows[a - step * (i % per_row) + step * (per_row - 1)]
            column = columns[b - step * (j % per_column) + step * (per_column - 1)]
            logit = q[:, i, j] @ row + q[:, i, j] @ column
            if inside:
                logit = logit + scale * (q[:, i, j] @ k[:, top + a, left + b])
            logits.append(logit)
            places.append((top + a, left + b) if inside else None)
    exponentials = torch.exp(torch.stack(logits))
    return exponentials / exponentials.sum(), places


def reference(queries, keys_values, rows, columns, heads, scale, windows):
    """The module's equation for one image, head and query after the other."""
    batch, channels = queries.shape[0], queries.shape[1] // heads
    out = []
    for n in range(batch):
        maps = []
        for head in range(heads):
            q = queries[n].unflatten(0, (heads, -1))[head]
            kv = keys_values[n].unflatten(0, (heads, -1))[head]
            k, v = kv[:channels], kv[channels:]
            lines = []
            for i in range(queries.shape[2]):
                line = []
                for j in range(queries.shape[3]):
                    weights, places = weights_of(q, k, rows, columns, scale, windows, i, j)
                    line.append(
                        sum(w * v[:, p[0], p[1]] for w, p in zip(weights, places, strict=True) if p is not None)
                    )
                lines.append(torch.stack(line, 1))
            maps.append(torch.stack(lines, 1))
        out.append(torch.cat(maps))
    return torch.stack(out)


def inputs(size, windows, heads=2, d=3, e=2, batch=2):
    """Queries, keys and values, and tables, double precision."""
    generator = torch.Generator().manual_seed(0)
    reduced = [-(-side // windows.stride) for side in size]
    shapes = [
        (batch, heads * d, *reduced),
        (batch, heads * (d + e), *size),
        (windows.entries[0], d),
        (windows.entries[1], d),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def gradients(out, given):
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad(out, given, direction)


CASES = {
    "halo": ((5, 3), Windows((2, 2), 1, masked=True)),
    "halo-zeros": ((5, 3), Windows((2, 2), 1)),
    "wide-halo": ((1, 7), Windows((2, 2), 3, masked=True)),
    "wide-halo-zeros": ((3, 4), Windows((1, 2), 2)),
    "one-cell": ((1, 1), Windows((4, 4), 1, masked=True)),
    "no-halo": ((4, 5), Windows((2, 3), masked=True)),
    "stride": ((5, 6), Windows((4, 2), 1, 2, 2, masked=True)),
    "stride-neighbours": ((6, 5), Windows((4, 4), 1, 2, 1)),
    "whole": ((3, 4), Windows((3, 4), whole=True)),
    "whole-line": ((1, 7), Windows((1, 7), whole=True)),
}


@pytest.mark.parametrize("logits", [2**18, 40], ids=["one-chunk", "many-chunks"])
@pytest.mark.parametrize("name", CASES)
def test_equals_loops_forward_and_backward(name, logits, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS", logits)
    size, windows = CASES[name]
    given = inputs(size, windows)
    expected = reference(*given, 2, 0.7, windows)
    expected_gradients = gradients(expected, given)
    for implementation in IMPLEMENTATIONS if logits > 40 else ["chunks"]:
        out = relative_attention(*given, 2, 0.7, windows, implementation)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
        for found, value in zip(gradients(out, given), expected_gradients, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_stored_where_they_are_few(name, monkeypatch):
    size, windows = CASES[name]
    given = inputs(size, windows)
    q, k, _, to_rows, to_columns = tokens.tokens(*given, 2, 0.7, windows)
    number, taken, forward = tokens.softmax(q, k, to_rows, to_columns).numel(), [], chunks.forward
    monkeypatch.setattr(chunks, "forward", lambda *each: (taken.append(1), forward(*each))[1])
    for limit, used in ((number, 0), (number - 1, 1)):
        monkeypatch.setattr(plain, "STORED_WEIGHTS", limit)
        relative_attention(*given, 2, 0.7, windows)
        assert len(taken) == used


def test_many_chunks_are_many(monkeypatch):
    windows = Windows((4, 4), 1)
    given = inputs((8, 8), windows)
    for logits, number in ((2**18, 1), (1200, 2), (600, 4)):
        monkeypatch.setattr(chunks, "LOGITS", logits)
        plan = chunks._Plan(given[0], given[1], torch.cat(given[2:]), 2, windows)
        assert len(list(plan.strips())) // 4 * len(list(plan.query_rows())) == number, logits


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_that_were_applied(name):
    size, windows = CASES[name]
    given = inputs(size, windows)
    out, weights, rows, columns = with_weights(*given, 2, 0.7, windows)
    torch.testing.assert_close(out, relative_attention(*given, 2, 0.7, windows), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights.sum((4, 5)), torch.ones_like(weights[..., 0, 0]), rtol=1e-9, atol=1e-9)
    assert weights.shape[2:] == (*given[0].shape[2:], rows.shape[1], columns.shape[1])
    mixed = torch.zeros_like(out).unflatten(1, (2, -1))
    values = given[1].unflatten(1, (2, -1))[:, :, 3:]
    for i, j in torch.cartesian_prod(torch.arange(rows.shape[0]), torch.arange(columns.shape[0])):
        for a, row in enumerate(rows[i].tolist()):
            for b, column in enumerate(columns[j].tolist()):
                if 0 <= row < size[0] and 0 <= column < size[1]:
                    mixed[:, :, :, i, j] += weights[:, :, i, j, a, b].unsqueeze(2) * values[:, :, :, row, column]
                elif windows.masked:
                    assert (weights[:, :, i, j, a, b] == 0).all()
    torch.testing.assert_close(mixed.flatten(1, 2), out, rtol=1e-9, atol=1e-9)


@every_implementation
def test_half_precision_is_as_good_as_its_inputs(implementation):
    for windows, size in ((Windows((4, 4), 2, masked=True), (9, 7)), (Windows((9, 7), whole=True), (9, 7))):
        given = [value.detach().bfloat16() for value in inputs(size, windows)]
        expected = relative_attention(*(value.double() for value in given), 2, 0.7, windows, "softmax")
        out = relative_attention(*given, 2, 0.7, windows, implementation)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_come_from_logits_in_single_precision(dtype):
    """Products beyond the range of float16 and between the numbers of bfloat16, as unscaled attention has them."""
    windows = Windows((2, 2), 1, masked=True)
    queries, keys_values, rows, columns = (value.detach() for value in inputs((4, 3), windows))
    given = [(300 * queries).to(dtype), (300 * keys_values).to(dtype), 0 * rows.to(dtype), 0 * columns.to(dtype)]
    close = given[1].unflatten(1, (2, 5))[:, :, :3]  # keys that differ little, in products of the same size
    close.copy_((300 + keys_values.unflatten(1, (2, 5))[:, :, :3]).to(dtype))
    given[0].abs_()
    out, weights, *_ = with_weights(*given, 2, 1.0, windows)
    expected_out, expected, *_ = with_weights(*(value.double() for value in given), 2, 1.0, windows)
    assert (queries * 300).abs().amax() * 300 > torch.finfo(torch.float16).max
    torch.testing.assert_close(weights.double(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(out.double(), expected_out, rtol=0.02, atol=6.0)  # of values of up to about 900


@every_implementation
def test_large_logits_stay_finite(implementation):
    windows = Windows((4, 4), 2, masked=True)
    given = [(100 * value).detach().float().requires_grad_() for value in inputs((5, 6), windows)]
    out = relative_attention(*given, 2, 1.0, windows, implementation)
    assert out.isfinite().all()
    assert all(value.isfinite().all() for value in gradients(out, given))


def test_layout_of_the_queries_is_kept():
    windows = Windows((2, 2), 1)
    given = inputs((5, 6), windows)
    last = [value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value for value in given]
    out, expected = (relative_attention(*values, 2, 0.7, windows, "chunks") for values in (last, given))
    assert out.is_contiguous(memory_format=torch.channels_last) and expected.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_counted_operations_are_those_of_the_plain_products():
    windows, (height, width) = Windows((4, 4), 1), (8, 12)
    given = inputs((height, width), windows, batch=1)
    with FlopCounterMode(display=False) as counter:
        out = relative_attention(*given, 2, 0.7, windows, "chunks")
    keys, entries = 6 * 6, sum(windows.entries)
    content, values, relative = (2 * height * width * number for number in (keys * 3, keys * 2, entries * 3))
    assert counter.get_total_flops() == 2 * (content + values + relative)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * (3 * content + 2 * values + 3 * relative)


def test_operator_keeps_the_rules_of_pytorch():
    windows = Windows((2, 2), 1, masked=True)
    queries, keys_values, rows, columns = inputs((3, 4), windows)
    arguments = (queries, keys_values, torch.cat([rows, columns]), 2, 0.7, *windows.arguments())
    torch.library.opcheck(torch.ops.attndense.relative_attention.default, arguments)


def test_tables_for_other_grids_are_clipped():
    tables = RelativeTables(5, 3, 1, 1.0)
    with torch.no_grad():
        tables.height_rel.copy_(torch.arange(5.0).unsqueeze(1))
        tables.width_rel.copy_(torch.arange(3.0).unsqueeze(1))
    rows, columns = tables.for_grid(3, 2)
    assert rows.flatten().tolist() == [0, 1, 2, 3, 4] and columns.flatten().tolist() == [0, 1, 2]
    rows, columns = tables.for_grid(5, 1)
    assert rows.flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4] and columns.flatten().tolist() == [1]


def test_heads_lie_side_by_side():
    keys, values = torch.arange(4.0).view(1, 4, 1, 1), torch.arange(10.0, 12.0).view(1, 2, 1, 1)
    assert join_heads(keys, values, 2).flatten().tolist() == [0, 1, 10, 2, 3, 11]


def test_channels_that_no_head_gets_are_refused():
    check_heads(4, key_channels=8)
    for value in (6, 0):
        with pytest.raises(ValueError, match=f"key_channels={value} is no multiple of 4; give e.g. 4"):
            check_heads(4, key_channels=value)
