"""Checkpoints of residual networks in the layouts of timm, OpenMMLab and the attention papers, under our names."""

import re

from torch import Tensor, nn

from attention.global_context import GlobalContext

# Authors', timm's and OpenMMLab's names to ours, applied in order; torchvision's own names match none of them.
_RENAMED = [
    (r"^last_linear\.", "fc."),
    # OpenMMLab's deep stem.
    (r"^stem\.([01346])\.", r"conv1.\1."),
    (r"^stem\.7\.", "bn1."),
    # timm: SE, ECA, CBAM and global context are a block's `se`; selective kernels' neighbours have norms inside.
    (r"^(layer\d\.\d+)\.se\.spatial\.conv\.conv\.", r"\1.attention.spatial.conv."),
    (r"^(layer\d\.\d+)\.se\.spatial\.conv\.bn\.", r"\1.attention.spatial.bn."),
    (r"^(layer\d\.\d+)\.se\.conv_attn\.", r"\1.attention.key."),
    (r"^(layer\d\.\d+)\.se\.mlp_(?:add|scale)\.", r"\1.attention."),
    (r"^(layer\d\.\d+)\.se\.", r"\1.attention."),
    (r"^(layer\d\.\d+)\.conv([13])\.conv\.", r"\1.conv\2."),
    (r"^(layer\d\.\d+)\.conv([13])\.bn\.", r"\1.bn\2."),
    (r"^(layer\d\.\d+)\.conv2\.attn\.", r"\1.conv2."),
    # The authors of CBAM and BAM.
    (r"^(layer\d\.\d+)\.cbam\.ChannelGate\.mlp\.1\.", r"\1.attention.channel.fc1."),
    (r"^(layer\d\.\d+)\.cbam\.ChannelGate\.mlp\.3\.", r"\1.attention.channel.fc2."),
    (r"^(layer\d\.\d+)\.cbam\.SpatialGate\.spatial\.(conv|bn)\.", r"\1.attention.spatial.\2."),
    (r"^bam([123])\.channel_att\.gate_c\.gate_c_fc_0\.", r"bam\1.channel.0."),
    (r"^bam([123])\.channel_att\.gate_c\.gate_c_bn_1\.", r"bam\1.channel.1."),
    (r"^bam([123])\.channel_att\.gate_c\.gate_c_fc_final\.", r"bam\1.channel.3."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_conv_reduce0\.", r"bam\1.position.0."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_bn_reduce0\.", r"bam\1.position.1."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_conv_di_0\.", r"bam\1.position.3."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_bn_di_0\.", r"bam\1.position.4."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_conv_di_1\.", r"bam\1.position.6."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_bn_di_1\.", r"bam\1.position.7."),
    (r"^bam([123])\.spatial_att\.gate_s\.gate_s_conv_final\.", r"bam\1.position.9."),
]


def from_known_layout(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Entries of a residual network under the names of `backbones.ResNet`; torchvision's are left as they are.

    Fully connected layers of gates become 1x1 convolutions where the network has these, and timm's order of the two
    planes of spatial attention, mean before maximum, is reversed.

    Args:
        state: Entries in any known layout.
        network: The network that is to be filled; it tells which shapes are needed.

    Raises:
        ValueError: The entries are those of a network from Caffe (Cadene's, timm's `legacy_`), which has its strides in
            other convolutions and pools differently: the same shapes, but another function. Or timm's global context
            is used otherwise than the network's.
    """
    if any(name.startswith("layer0.") for name in state):
        raise ValueError(
            "these weights come from a Caffe network (timm's legacy_ family), whose first pooling and strides differ: "
            "here they would compute something else; take those of timm's seresnet50 or seresnext50_32x4d"
        )
    if any(".se.conv_attn." in name for name in state):
        _check_global_context(state, network)
    own = network.state_dict()
    converted = {}
    for name, value in state.items():
        new = _renamed(name)
        if ".se.spatial.conv.conv." in name:
            value = value.flip(1)
        if new in own and value.ndim == 2 and own[new].ndim == 4:
            value = value[:, :, None, None]
        converted[new] = value
    return converted


def _check_global_context(state: dict[str, Tensor], network: nn.Module) -> None:
    """Raises `ValueError` if the network's global context is not that of timm's entries, whose epsilon is 1e-6."""
    adds, multiplies = (any(f".se.{mlp}." in name for name in state) for mlp in ("mlp_add", "mlp_scale"))
    if adds and multiplies:
        raise ValueError("these weights add the global context and multiply by it; GlobalContext does one of them")
    fusion = "add" if adds else "multiply"
    for module in network.modules():
        if isinstance(module, GlobalContext) and (module.fusion, module.norm.eps) != (fusion, 1e-6):
            raise ValueError(
                f"these weights are of timm's global context, and this network's has fusion={module.fusion!r}, "
                f"epsilon={module.norm.eps}; give GlobalContext fusion={fusion!r} and epsilon=1e-6"
            )


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^bam([123])\.", lambda found: f"between.{int(found[1]) - 1}.", name)
