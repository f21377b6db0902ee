"""LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427) in three sizes, with stages of our own choice."""

from typing import Any

from backbones.lavit import LaViT
from backbones.zoo.registry import zoo_entry
from backbones.zoo.swin import swin_classifier


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_t(diagonality: float = 0.0, window: int = 14, **options: Any) -> LaViT:
    """LaViT-T, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-T has 10.9 M parameters and 79.2 % top-1; this network has 11.8 M, and no accuracy yet.
    """
    return LaViT((2, 2, 2, 2), (1, 1), diagonality=diagonality, window=window, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_s(diagonality: float = 0.0, window: int = 14, **options: Any) -> LaViT:
    """LaViT-S, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-S has 22.4 M parameters and 82.6 % top-1; this network has 20.5 M, and no accuracy yet.
    """
    return LaViT((3, 4, 6, 3), (2, 1), diagonality=diagonality, window=window, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_b(diagonality: float = 0.0, window: int = 14, **options: Any) -> LaViT:
    """LaViT-B, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-B has 39.6 M parameters and 83.1 % top-1; this network has 33.7 M, and no accuracy yet.
    """
    return LaViT((3, 4, 18, 3), (2, 1), diagonality=diagonality, window=window, **options)
