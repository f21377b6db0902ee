"""ELSA-Swin and ELSA-VOLO (Zhou et al., arXiv 2112.12786), each in the sizes of its host."""

from typing import Any

from backbones.elsa_swin import ELSASwin
from backbones.elsa_volo import ELSAVOLO
from backbones.volo import VOLOClassifier
from backbones.zoo.registry import zoo_entry
from backbones.zoo.swin import swin_classifier


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_t(drop_path: float = 0.1, **options: Any) -> ELSASwin:
    """ELSA-Swin-T: 82.7 % top-1 (arXiv 2112.12786)."""
    return ELSASwin(96, (2, 2, 6, 2), group_width=4, drop_path=drop_path, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_s(drop_path: float = 0.3, **options: Any) -> ELSASwin:
    """ELSA-Swin-S: 83.5 % top-1 (arXiv 2112.12786)."""
    return ELSASwin(96, (2, 2, 18, 2), group_width=8, drop_path=drop_path, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_b(drop_path: float = 0.5, **options: Any) -> ELSASwin:
    """ELSA-Swin-B: 84.0 % top-1 (arXiv 2112.12786)."""
    return ELSASwin(128, (2, 2, 18, 2), group_width=8, drop_path=drop_path, **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d1(kernel_size: int = 5, **options: Any) -> ELSAVOLO:
    """ELSA-VOLO-D1, a reconstruction (arXiv 2112.12786; no code was released)."""
    return ELSAVOLO((4, 4, 8, 2), (192, 384), (6, 12), kernel_size=kernel_size, **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d2(kernel_size: int = 5, **options: Any) -> ELSAVOLO:
    """ELSA-VOLO-D2, a reconstruction (arXiv 2112.12786; no code was released)."""
    return ELSAVOLO((6, 4, 10, 4), (256, 512), (8, 16), kernel_size=kernel_size, **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d3(kernel_size: int = 5, **options: Any) -> ELSAVOLO:
    """ELSA-VOLO-D3, a reconstruction (arXiv 2112.12786; no code was released)."""
    return ELSAVOLO((8, 8, 16, 4), (256, 512), (8, 16), kernel_size=kernel_size, **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d4(kernel_size: int = 5, **options: Any) -> ELSAVOLO:
    """ELSA-VOLO-D4, a reconstruction (arXiv 2112.12786; no code was released)."""
    return ELSAVOLO((8, 8, 16, 4), (384, 768), (12, 16), kernel_size=kernel_size, **options)


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d5(kernel_size: int = 5, **options: Any) -> ELSAVOLO:
    """ELSA-VOLO-D5, a reconstruction (arXiv 2112.12786; no code released); the paper's: 87.2 % top-1, size unknown."""
    return ELSAVOLO((12, 12, 20, 4), (384, 768), (12, 16), 4.0, 128, kernel_size=kernel_size, **options)
