"""What does not decay: one-dimensional parameters, and the tables of positions that operators and hosts declare."""

import re

import pytest
import torch
from torch import nn

import backbones
from attention.bam import BAM
from tasks.optimization import ParameterRules, exempt_from_decay
from tests.attention.operators import MIXERS, OTHERS, REFINEMENTS, Case, arguments

# Position tables by the beginning of the operator's name; all others have none.
OPERATORS = {
    "stand-alone": ("row_embedding", "column_embedding"),
    "stand-alone-absolute": (),
    "stand-alone-coord-conv": (),
    "attention-stem": ("row_embedding", "column_embedding"),
    "attention-stem-convolution": (),
    "halo-absolute": (),
    "halo": ("pos_embed.height_rel", "pos_embed.width_rel"),
    "bottleneck": ("pos_embed.height_rel", "pos_embed.width_rel"),
    "attention-augmented": ("relative.height_rel", "relative.width_rel"),
    "attention-augmented-pooled": (),
    "attention-augmented-sinusoidal": (),
    "attention-augmented-coord-conv": (),
    "quadratic": ("centres",),  # and the spreads, one number per head
    "quadratic-full": ("centres", "spreads"),
    "local-content": ("relative_bias",),
    "local-all-terms": ("relative_query", "relative_key", "relative_bias"),
    "local-dynamic": ("relative_query", "relative_bias"),
    "local-window": ("relative_query", "relative_key", "relative_bias"),
    "window": ("relative_bias",),
    "learned-relative": ("row_encodings.weight", "column_encodings.weight"),
    "content-relative": ("row_encodings.weight", "column_encodings.weight"),
    "axial": tuple(f"{line}.{of}_table" for line in ("row", "column") for of in ("query", "key", "value")),
    "axial-query": ("row.query_table", "column.query_table"),
    "axial-none": (),
}
# Position tables by the beginning of the network's name, as patterns of whole names; all others have none.
TIMM_TABLES = r"host\.stages\.\d\.\d\.self_attn\.pos_embed\.(height|width)_rel"
NETWORKS = {
    "aa_": r"layer\d\.\d+\.conv[12]\.relative\.(height|width)_rel",
    "attention_cnn_content": r"layers\.\d\.mixer\.(row|column)_encodings\.weight",
    "attention_cnn_learned": r"layers\.\d\.mixer\.(row|column)_encodings\.weight",
    "attention_cnn_quadratic": r"layers\.\d\.mixer\.centres",
    "eca_halonext26ts": TIMM_TABLES,
    "elsa_swin_": r"features\.7\.\d\.attn\.relative_position_bias_table",
    "elsa_volo_": r"network\.1\.pos_embed",
    "halo2botnet50ts": TIMM_TABLES,
    "halo_resnet": r"layer4\.\d\.conv2\.pos_embed\.(height|width)_rel",
    "halonet26t": TIMM_TABLES,
    "halonet50ts": TIMM_TABLES,
    "halonet_": r"layer\d\.\d+\.conv2\.pos_embed\.(height|width)_rel",
    "lavit_": r"patch_embeds\.\d\.pos_embed",
    "sasa_": r"layer\d\.\d+\.conv2\.(row|column)_embedding",
    "sehalonet33ts": TIMM_TABLES,
    "volo_": r"network\.1\.pos_embed",
    "swin_": r"features\.[1357]\.\d+\.attn\.relative_position_bias_table",
}
# The smallest network of every kind; to build the others takes longer and shows the same.
FAST = {"aa_resnet50", "attention_cnn_content", "attention_cnn_learned", "attention_cnn_quadratic", "bam_resnet50"}
FAST |= {"elsa_swin_t", "elsa_volo_d1", "halonet26t", "halonet_h0", "lavit_t", "sasa_resnet26", "swin_t", "volo_d1"}
# Names of parameters with more than one dimension that sound like tables of positions, and decay.
SOUND_ALIKE = re.compile(
    r"mixture_embedding$"  # what is mixed, not where
    r"|patch_embeds?\.(\d\.)?(proj|conv)"  # convolutions
    r"|(^|\.)position\.\d\.weight$"  # BAM's convolutions of the gate per position
    r"|^embed\.weight$"  # AttentionCNN's linear layer
)


def tables(module: nn.Module) -> set[str]:
    """Names of the parameters of more than one dimension that are exempt; those of one dimension all must be."""
    exempt = exempt_from_decay(module)
    assert {name for name, parameter in module.named_parameters() if parameter.ndim <= 1} <= exempt.keys()
    assert all(parameter is exempt[name] for name, parameter in module.named_parameters() if name in exempt)
    found = {name for name, parameter in exempt.items() if parameter.ndim > 1}
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and name not in found and re.search("embed|encod|relative|table|posit|_rel$", name):
            assert SOUND_ALIKE.search(name), name
    return found


@pytest.mark.parametrize("case", [*REFINEMENTS, *MIXERS, *OTHERS], ids=lambda case: case.name)
def test_operators_declare_their_tables(case: Case) -> None:
    matching = [name for name in OPERATORS if case.name == name or case.name.startswith(f"{name}-")]
    expected = OPERATORS[max(matching, key=len)] if matching else ()
    with torch.device("meta"):
        assert tables(case.make(*arguments(case))) == set(expected)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in backbones.list_backbones()]
)
def test_networks_declare_their_tables(name: str) -> None:
    with torch.device("meta"):
        network = backbones.build_backbone(name)
    pattern = next((pattern for start, pattern in NETWORKS.items() if name.startswith(start)), None)
    found = tables(network)
    assert bool(found) == (pattern is not None)
    assert found == {n for n, _ in network.named_parameters() if pattern is not None and re.fullmatch(pattern, n)}


@pytest.mark.parametrize(
    ("name", "options", "pattern", "count"),
    [
        ("resnet10t", {}, "", 0),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, r"host\.model\.(pos_embed|cls_token)", 2),
        (
            "swin_tiny_patch4_window7_224",
            {"strict_img_size": False},
            r"host\.layers_\d\.blocks\.\d\.attn\.relative_position_bias_table",
            12,
        ),
    ],
)
def test_timm_lists_what_does_not_decay(name: str, options: dict, pattern: str, count: int) -> None:
    found = tables(backbones.timm(name, options=options))
    assert len(found) == count and all(re.fullmatch(pattern, name) for name in found)


def test_declared_tables_do_not_decay_and_sound_alikes_do() -> None:
    """A name that only sounds like a table's does nothing: BAM's gate per position is made of convolutions."""
    host = backbones.ResNet(18, BAM)
    host.place = nn.Module()
    host.place.position_tables = ("table",)
    host.place.table, host.place.relative_scale = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3, 2))
    model = nn.ModuleDict({"net": host})
    host.stages = lambda: [[host]]
    for spared in (False, True):
        rules = ParameterRules(decay_norms_and_biases=not spared)
        optimizer = rules.build(lambda groups: torch.optim.SGD(groups, 0.1, weight_decay=0.5), model, 16)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert decay[id(host.place.table)] == (0.0 if spared else 0.5)
        assert decay[id(host.place.relative_scale)] == 0.5
        assert decay[id(host.layer1[0].attention.position[0].weight)] == 0.5
        assert decay[id(host.bn1.weight)] == (0.0 if spared else 0.5)


def test_biases_and_batch_norms_may_decay_where_layer_norms_and_tables_do_not() -> None:
    """As in Swin's and ELSA's detectors: their code goes by the names `norm` and `relative_position_bias_table`."""
    with torch.device("meta"):
        model = nn.ModuleDict({"backbone": backbones.elsa_swin_t(), "bn": nn.BatchNorm2d(8)})
    rules = ParameterRules(decay_norms_and_biases=False, decay_biases=True)
    optimizer = rules.build(lambda groups: torch.optim.SGD(groups, 0.1, weight_decay=0.5), model, 16)
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in spared}
    norms = r"backbone\.(features\.0\.2|features\.\d\.norm|features\.\d\.\d\.norm[12]|norm[0-3])\.(weight|bias)"
    assert names == {
        n for n, _ in model.named_parameters() if re.fullmatch(f"{norms}|backbone.{NETWORKS['elsa_swin_']}", n)
    }
    assert len(names) == 2 * (1 + 3 + 24 + 4) + 2
