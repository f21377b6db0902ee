"""Multiply-accumulates: the same on every device, and nothing that multiplies is missed."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from backbones import build_backbone
from tasks.profile.counting import count_macs
from tests.attention.operators import Case, every_operator, make_inputs, make_operator
from tests.selection import mostly_slow

PRODUCTS = ("mm", "mv", "dot", "addr", "conv", "attention", "einsum", "neighbourhood")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted_on_every_device(device: str, masked: bool) -> None:
    query, key, value = (torch.zeros(2, 3, n, 8, device=device) for n in (5, 7, 7))
    bias = torch.zeros(5, 7, device=device) if masked else None
    expected = 2 * (2 * 3) * 5 * 7 * 8
    assert count_macs(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=bias)) == expected


def test_products_in_place_are_counted() -> None:
    x = torch.zeros(3, 5, 5)
    assert count_macs(lambda: x.clone().baddbmm_(x, x)) == 3 * 5**3


class Recorded(TorchDispatchMode):
    """Notes the name of every PyTorch operator that runs and is not in the counter's registry."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._overloadpacket not in flop_registry:
            self.names.add(str(function._overloadpacket))
        return function(*args, **(kwargs or {}))


@every_operator
def test_operators_cost_the_same_on_every_device(case: Case) -> None:
    operator, inputs = make_operator(case).eval(), [value.detach() for value in make_inputs(case, 6, 10)]
    with torch.no_grad(), Recorded() as recorded:
        operator(*inputs)
    unknown = {name for name in recorded.names if any(product in name for product in PRODUCTS)}
    assert unknown <= {"aten.baddbmm_", "aten._scaled_dot_product_flash_attention_for_cpu"}, "count_macs misses these"
    abstract = copy.deepcopy(operator).to("meta")
    with torch.device("meta"):
        expected = count_macs(lambda: abstract(*(value.to("meta") for value in inputs)))
    assert count_macs(lambda: operator(*inputs)) == expected


@pytest.mark.parametrize(
    "name",
    mostly_slow(["attention_cnn_content", "elsa_volo_d1", "lavit_t", "swin_t"], {"attention_cnn_content", "lavit_t"}),
)
def test_networks_cost_the_same_on_every_device(name: str) -> None:
    image = torch.zeros(1, 3, 32, 32)
    network = build_backbone(name).eval()
    counted = count_macs(lambda: network(image))
    with torch.device("meta"):
        abstract = build_backbone(name).eval()
        assert counted == count_macs(lambda: abstract(image.to("meta"))) > 0
