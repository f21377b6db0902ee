"""Operators that are neither refinements nor mixers, with inputs of their own: learn to pay attention, and LaViT."""

import torch
from torch import Tensor, nn

from attention.functional.layout import split_windows
from attention.functional.logits import precise_logits
from attention.lavit import LessAttention, VanillaAttention
from attention.learn_to_pay import LearnToPayAttention
from tests.attention.cases.case import Case


def _join_scores(operator: nn.Module, inputs: tuple[Tensor, ...], out: tuple[Tensor, Tensor]) -> Tensor:
    """Forward hook: map and scores as one tensor (B, ...), as the common tests want it."""
    return torch.cat([out[0].flatten(1), out[1].reshape(len(out[0]), -1)], 1)


def _give_scores(operator: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    """Forward pre-hook: scores of a layer before, computed from the map."""
    tokens = split_windows(inputs[0], operator.window).unflatten(2, (operator.heads, -1)).transpose(1, 2)
    return inputs[0], precise_logits(tokens, tokens) / 16


def _hooked(operator: nn.Module) -> nn.Module:
    if isinstance(operator, LessAttention):
        operator.register_forward_pre_hook(_give_scores)
    operator.register_forward_hook(_join_scores)
    return operator


OTHERS = [
    Case(
        "learn-to-pay",
        lambda: LearnToPayAttention(16, 24, dropout=0),
        lambda: 17 + 2 * 24 + 24 * 16 + 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
        # the score's bias and whatever comes from the descriptor (input 1) cancel in the softmax
        zero_gradient=("1", "score.bias", "0.weight", "0.bias", "3.weight", "3.bias"),
    ),
    Case(
        "learn-to-pay-dot",
        lambda: LearnToPayAttention(16, 24, "dot_product", dropout=0),
        lambda: 2 * 24 + 24 * 16 + 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
    ),
    Case(
        "learn-to-pay-local",
        lambda: LearnToPayAttention(16, 24, "dot_product", "local", dropout=0),
        lambda: 16 * 24,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
    ),
    Case(
        "vanilla-attention",
        lambda: _hooked(VanillaAttention(16, 2, 3)),
        lambda: 4 * 16 * 16 + 4 * 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
    Case(
        "less-attention",
        lambda: _hooked(LessAttention(16, 2, 3)),
        lambda: 2 * 16 * 16 + 2 * 16 + 2 * 81 + 2 * 9,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
    Case(
        "less-attention-rank",
        lambda: _hooked(LessAttention(16, 2, 3, rank=2)),
        lambda: 2 * 16 * 16 + 2 * 16 + 4 * 2 * 9 + 2 * 9,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
]
