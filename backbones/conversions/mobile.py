"""Checkpoints of mobile networks in the layouts of timm and of the authors of coordinate attention, under our names."""

import re
from collections.abc import Iterable

from torch import Tensor

# Where modules of an inverted residual lie in the flat layout of the coordinate attention code.
_FIRST_BLOCK = {"0": "conv.0.0", "1": "conv.0.1", "3": "conv.1", "4": "conv.2"}
_BLOCK = {"0": "conv.0.0", "1": "conv.0.1", "3": "conv.1.0", "4": "conv.1.1"}
_PROJECTION = {True: {"7": "conv.2", "8": "conv.3"}, False: {"6": "conv.2", "7": "conv.3"}}  # with attention, without
_COORDINATE = {"conv1": "conv1", "bn1": "bn1", "conv2": "conv_h", "conv3": "conv_w"}  # conv2 gates rows, conv3 columns

# Modules of a block of timm's, in the order of the data flow.
_TIMM_SEPARABLE = ("conv_dw", "bn1", "conv_pw", "bn2")
_TIMM_INVERTED = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")


def with_linear_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries with the classifier's linear layer as `fc`; elsewhere its name is `classifier` or `classifier.1`."""
    return {re.sub(r"^classifier(\.1)?\.(weight|bias)$", r"fc.\2", name): value for name, value in state.items()}


def from_flat_mobilenet_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A MobileNetV2 whose blocks are flat sequences, as `mbv2_ca` of the coordinate attention code, in our layout.

    Without attention the same layout is that of many other published MobileNetV2s.
    """
    last = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("features."))
    converted = {}
    for name, value in state.items():
        head = re.fullmatch(r"conv\.([01])\.(\w+)", name)
        block = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(.+)", name)
        if head:
            name = f"features.{last}.{head[1]}.{head[2]}"
        elif block:
            number, module, rest = block.groups()
            attended = f"features.{number}.conv.6.conv1.weight" in state
            gate, _, parameter = rest.partition(".")
            if number == "1" and module in _FIRST_BLOCK:
                name = f"features.1.{_FIRST_BLOCK[module]}.{rest}"
            elif number != "1" and module in _BLOCK | _PROJECTION[attended]:
                name = f"features.{number}.{(_BLOCK | _PROJECTION[attended])[module]}.{rest}"
            elif attended and module == "6" and gate in _COORDINATE:
                name = f"features.{number}.attention.{_COORDINATE[gate]}.{parameter}"
        converted[name] = value
    return converted


def is_flat_mobilenet_v2(names: Iterable[str]) -> bool:
    """Whether entries have the layout that `from_flat_mobilenet_v2` reads."""
    return {"features.1.conv.0.weight", "features.2.conv.3.weight"} <= set(names)


def from_openmmlab(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A MobileNetV2 of MMSegmentation's, MMDetection's or MMPretrain's, rows and blocks apart, in our layout."""
    blocks = sorted({(int(name[5]), int(name.split(".")[1])) for name in state if re.match(r"layer\d\.\d", name)})
    converted = {}
    for name, value in state.items():
        if outer := re.fullmatch(r"conv([12])\.(conv|bn)\.(\w+)", name):
            name = f"features.{0 if outer[1] == '1' else len(blocks) + 1}.{int(outer[2] == 'bn')}.{outer[3]}"
        elif block := re.fullmatch(r"layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)\.(\w+)", name):
            row, number, part, norm = int(block[1]), int(block[2]), int(block[3]), int(block[4] == "bn")
            projects = f"layer{row}.{number}.conv.{part + 1}.conv.weight" not in state
            place = f"{part + norm}" if projects else f"{part}.{norm}"
            name = f"features.{1 + blocks.index((row, number))}.conv.{place}.{block[5]}"
        converted[name] = value
    return converted


def is_openmmlab(names: Iterable[str]) -> bool:
    """Whether entries have the layout that `from_openmmlab` reads."""
    return {"conv1.conv.weight", "layer1.0.conv.0.conv.weight"} <= set(names)


def from_timm(state: dict[str, Tensor], staged: bool) -> dict[str, Tensor]:
    """A MobileNetV2 or EfficientNet of timm's, under torchvision's names.

    Args:
        state: Entries in timm's layout.
        staged: Whether torchvision keeps the stages apart (EfficientNet) or counts blocks through (MobileNetV2).
    """
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in state if name.startswith("blocks.")})
    places = {}
    for index, (stage, number) in enumerate(blocks):
        prefix = f"blocks.{stage}.{number}."
        separable = f"{prefix}conv_pwl.weight" not in state
        modules = _TIMM_SEPARABLE if separable else _TIMM_INVERTED
        squeezes = f"{prefix}se.conv_reduce.weight" in state
        place = f"features.{stage + 1}.{number}.block" if staged else f"features.{index + 1}.conv"
        for position, module in enumerate(modules):
            part, projects = position // 2, position >= len(modules) - 2
            part += int(squeezes and projects)
            if projects and not staged:  # torchvision's projection is not nested
                places[prefix + module] = f"{place}.{part + position % 2}"
            else:
                places[prefix + module] = f"{place}.{part}.{position % 2}"
        between = len(modules) // 2 - 1
        places[f"{prefix}se.conv_reduce"] = f"{place}.{between}.fc1"
        places[f"{prefix}se.conv_expand"] = f"{place}.{between}.fc2"
    last = (blocks[-1][0] + 2) if staged else len(blocks) + 1
    places |= {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "fc"}
    places |= {"conv_head": f"features.{last}.0", "bn2": f"features.{last}.1"}
    converted = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        converted[f"{places.get(module, module)}.{parameter}"] = value
    return converted


def is_timm(names: Iterable[str]) -> bool:
    """Whether entries have the layout that `from_timm` reads."""
    return {"conv_stem.weight", "blocks.0.0.conv_dw.weight"} <= set(names)
