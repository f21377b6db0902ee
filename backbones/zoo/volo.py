"""VOLO (Yuan et al., TPAMI 2022, arXiv 2106.13112), the baseline of ELSA-VOLO."""

from typing import Any

from backbones.volo import VOLO, VOLOClassifier
from backbones.zoo.registry import zoo_entry


@zoo_entry(head=VOLOClassifier, out_norms=False)
def volo_d1(**options: Any) -> VOLO:
    """VOLO-D1: 84.2 % top-1 (arXiv 2106.13112); the weights of timm and of the authors load."""
    return VOLO((4, 4, 8, 2), (192, 384), (6, 12), **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def volo_d2(**options: Any) -> VOLO:
    """VOLO-D2: 85.2 % top-1 (arXiv 2106.13112)."""
    return VOLO((6, 4, 10, 4), (256, 512), (8, 16), **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def volo_d3(**options: Any) -> VOLO:
    """VOLO-D3: 85.4 % top-1 (arXiv 2106.13112)."""
    return VOLO((8, 8, 16, 4), (256, 512), (8, 16), **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def volo_d4(**options: Any) -> VOLO:
    """VOLO-D4: 85.7 % top-1 (arXiv 2106.13112)."""
    return VOLO((8, 8, 16, 4), (384, 768), (12, 16), **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def volo_d5(**options: Any) -> VOLO:
    """VOLO-D5: 86.1 % top-1 (arXiv 2106.13112)."""
    return VOLO((12, 12, 20, 4), (384, 768), (12, 16), 4.0, 128, **options)
