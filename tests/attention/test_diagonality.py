"""The diagonality-preserving loss against its definition, pair by pair, and its properties."""

import pytest
import torch

from attention.diagonality import diagonality_loss
from attention.functional.layout import window_mask
from attention.lavit import VanillaAttention


def reference(scores, margin, valid):
    asymmetry, excess = [], []
    for window, mask in zip(scores, valid, strict=True):
        for a in window:
            inside = [i for i, counts in enumerate(mask) if counts]
            asymmetry += [(a[i, j] - a[j, i]).abs() for i in inside for j in inside]
            excess += [(a[i, j] - a[i, i] + margin).clamp(min=0) for i in inside for j in inside if i != j]
    return sum(asymmetry) / max(len(asymmetry), 1) + sum(excess) / max(len(excess), 1)


def test_each_part_has_a_weight():
    torch.manual_seed(0)
    scores = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    symmetry, diagonal = (diagonality_loss(scores, 0.25, parts=parts) for parts in ((1.0, 0.0), (0.0, 1.0)))
    torch.testing.assert_close(symmetry, (scores - scores.mT).abs().mean())
    torch.testing.assert_close(symmetry + diagonal, reference(scores, 0.25, torch.ones(3, 5, dtype=torch.bool)))
    torch.testing.assert_close(diagonality_loss(scores, 0.25, parts=(3.0, 0.5)), 3 * symmetry + diagonal / 2)
    with pytest.raises(ValueError, match=r"parts=\(1.0, -1.0\) would reward"):
        diagonality_loss(scores, parts=(1.0, -1.0))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_definition_forward_and_backward(masked, margin):
    torch.manual_seed(0)
    scores = torch.randn(3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(3, 5) < 0.7 if masked else torch.ones(3, 5, dtype=torch.bool)
    loss = diagonality_loss(scores, margin, valid if masked else None)
    expected = reference(scores, margin, valid)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (gradient,), (expected_gradient,) = torch.autograd.grad(loss, scores), torch.autograd.grad(expected, scores)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def test_bounded_and_zero_exactly_where_both_wishes_hold():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 6, 6)
    assert diagonality_loss(scores) > 0
    good = scores + scores.transpose(2, 3) + 20 * torch.eye(6)
    assert diagonality_loss(good) == 0 and diagonality_loss(1e6 * good) == 0
    assert diagonality_loss(good - 40 * torch.eye(6)) > 0
    torch.testing.assert_close(diagonality_loss(torch.zeros(1, 1, 4, 4), margin=0.25), torch.tensor(0.25))


def test_descent_raises_the_diagonal():
    scores = torch.zeros(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(diagonality_loss(scores, margin=1.0), scores)
    assert (gradient.diagonal(dim1=2, dim2=3) < 0).all()
    assert (gradient[0, 0][~torch.eye(4, dtype=torch.bool)] > 0).all()


def test_single_tokens_and_fully_masked_windows_lose_nothing():
    assert diagonality_loss(torch.randn(2, 1, 1, 1)) == 0
    assert diagonality_loss(torch.randn(2, 1, 3, 3), valid=torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_mean_does_not_depend_on_copies_or_padding():
    torch.manual_seed(0)
    operator = VanillaAttention(8, 2, 4)
    x = torch.randn(1, 8, 3, 2)
    scores, valid = operator(x)[1], window_mask(x, 4)
    tokens = valid[0].nonzero()[:, 0]
    expected = diagonality_loss(scores[:, :, tokens][..., tokens])
    torch.testing.assert_close(diagonality_loss(scores, valid=valid), expected)
    torch.testing.assert_close(diagonality_loss(scores.repeat(3, 1, 1, 1), valid=valid.repeat(3, 1)), expected)


def test_float32_under_autocast_and_from_half_precision():
    scores = 300 * torch.randn(1, 2, 20, 20)
    with torch.autocast("cpu", torch.float16):
        loss = diagonality_loss(scores)
    assert loss.dtype == torch.float32 and torch.equal(loss, diagonality_loss(scores))
    assert diagonality_loss(scores.half()).dtype == torch.float32
    assert diagonality_loss(scores.half()).isfinite()


@pytest.mark.parametrize("shape", [(2, 5, 5), (1, 2, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="give \\(M, heads, N, N\\)"):
        diagonality_loss(torch.zeros(shape))
