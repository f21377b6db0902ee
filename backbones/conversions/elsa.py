"""Weights of ELSA-Swin in the layout of its authors, under our names."""

import torch
from torch import Tensor

from backbones.conversions.swin import from_any_swin


def from_authors_elsa_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries under the names of Swin with `attention.ELSA`; entries in that layout are passed on as they are.

    The authors' window attention (stage 4) projects to value, query, key, in this order, and has its table transposed
    and point-reflected: `rb[h, 168 - i]` is `relative_position_bias_table[i, h]`.
    """
    windows = tuple(name.removesuffix("rb") for name in state if name.endswith(".attn.rb"))
    converted = {}
    for name, value in state.items():
        if name.startswith(windows):
            if name.endswith(".rb"):
                name, value = name.removesuffix("rb") + "relative_position_bias_table", value.flip(1).T.contiguous()
            elif ".pre_proj." in name:
                of_value, of_query, of_key = value.chunk(3)
                name, value = name.replace(".pre_proj.", ".qkv."), torch.cat([of_query, of_key, of_value])
            else:
                name = name.replace(".post_proj.", ".proj.")
        converted[name] = value
    return from_any_swin(with_flat_ghost_heads(converted))


def with_flat_ghost_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' ghost kernels (2, 1, C, k, k), where they have both kinds, as `attention.ELSA` has them."""
    return {
        name: value.flatten(0, 1) if name.endswith(".ghost_head") and value.dim() == 5 else value
        for name, value in state.items()
    }
