"""Loading of weights into a backbone: strict about the host, tolerant about inserted attention and classifiers."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.weight_sources import read_file, read_weights

_logger = logging.getLogger(__name__)
_SHOWN = 3  # names of parameters that a message lists


def load_weights(backbone: Backbone, weights: str) -> None:
    """Loads `weights` into `backbone` in place.

    Known layouts of other libraries and of the papers' code are converted (`Backbone.convert`), tables of relative
    positions of another size interpolated (`Backbone.resize`). Checkpoints may wrap the parameters as
    `{"state_dict": ...}` or `{"model": ...}`, prefix the names with `module.` (data parallel training), and hold a
    whole detector or segmentor, of which the part under `backbone.` is taken.

    Parameters of a classifier are ignored; unexpected names are logged as a warning; inserted attention that the
    checkpoint lacks keeps its initialisation and is logged (as a warning if the checkpoint has a part of it). Any other
    missing or misshapen parameter is an error, and then nothing is loaded.

    Args:
        backbone: Network to fill.
        weights: `imagenet` for the weights torchvision publishes for this host; the path of a .pth, .pt or .safetensors
            file, or its address (http, https, file; `#sha256=...` checks it, as does torch.hub's file-1a2b3c4d.pth); a
            name of torchvision's such as `ResNet50_Weights.IMAGENET1K_V2`, or of timm's such as `seresnet50.ra2_in1k`.
            Downloads are kept in torch.hub's (timm's: the Hugging Face hub's) cache.
    """
    loaded = _unwrapped(read_weights(weights, backbone.published_weights(), type(backbone).__name__), weights)
    own = backbone.state_dict()
    if not own.keys() <= loaded.keys():
        loaded = backbone.convert(loaded)
    loaded = {name: value for name, value in loaded.items() if not name.startswith(backbone.classifier_prefixes)}
    loaded = _resized(backbone, loaded, own, weights)
    _check_shapes(loaded, own, weights)
    missing = [name for name in own if name not in loaded and not name.endswith("num_batches_tracked")]
    inserted = [name for name in missing if name.startswith(backbone.inserted_prefixes())]
    lost = [name for name in missing if name not in set(inserted)]
    if lost:
        raise ValueError(
            f"weights={weights!r} lacks {len(lost)} of {len(own)} entries of {type(backbone).__name__}, the first "
            f"{_listed(lost)}; give weights of the same architecture (the file begins with {_listed(list(loaded))})"
        )
    unexpected = [name for name in loaded if name not in own]
    if unexpected:
        _logger.warning("%s: ignored %d unexpected entries: %s", weights, len(unexpected), _listed(unexpected))
    if inserted:
        partial = any(name.startswith(backbone.inserted_prefixes()) for name in loaded)
        level = logging.WARNING if partial else logging.INFO  # other attention was trained: likely not what was meant
        _logger.log(
            level, "%s: %d entries of attention stay as initialised: %s", weights, len(inserted), _listed(inserted)
        )
    backbone.load_state_dict({name: value for name, value in loaded.items() if name in own}, strict=False)


def export_weights(checkpoint: str, out: str) -> None:
    """Takes the backbone out of a run's checkpoint and writes it to a file of its own.

    Where the run averaged its weights (`--ema_decay`), these are the averaged ones, which validation has measured.

    Args:
        checkpoint: A .ckpt file of `tasks.detect` or `tasks.segment`, or any other file that `load_weights` reads.
        out: The file to write, .safetensors, or .pth for a state dict by `torch.save`.
    """
    state = _unwrapped(read_file(checkpoint, checkpoint), checkpoint)
    if out.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, out)
    elif out.endswith((".pth", ".pt")):
        torch.save(state, out)
    else:
        raise ValueError(f"out={out!r} has no known format; let it end in .safetensors or .pth")
    _logger.info("%s: %d entries written to %s", checkpoint, len(state), Path(out).resolve())


def _resized(backbone: Backbone, loaded: dict[str, Tensor], own: dict[str, Tensor], weights: str) -> dict[str, Tensor]:
    """Entries whose other shape has a meaning, interpolated; the rest as it is."""
    fitting, changed = dict(loaded), []
    for name, value in loaded.items():
        if name in own and value.shape != own[name].shape:
            resized = backbone.resize(name, value, tuple(own[name].shape))
            if resized is not None:
                fitting[name] = resized
                changed.append(name)
    if changed:
        _logger.info("%s: interpolated %d entries of another size: %s", weights, len(changed), _listed(changed))
    return fitting


def _unwrapped(content: object, weights: str) -> dict[str, Tensor]:
    """Parameters by name, without the wrappers of training scripts and the prefixes they leave in names."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={weights!r} holds no state dict; save one by torch.save(model.state_dict(), path)")
    entries = {str(name).removeprefix("module."): value for name, value in content.items()}
    prefix = _backbone_prefix(entries)
    return {name.removeprefix(prefix): value for name, value in entries.items() if _belongs(name, prefix)}


def _backbone_prefix(names: Iterable[str]) -> str:
    """What the names of the backbone's entries begin with in the checkpoint of a whole model, or nothing.

    Ours: `backbone.` in a classifier and `model.backbone.` in a task; torchvision's detectors put a `body` beside the
    feature pyramid.
    """
    for pattern in (r"(.*?\bbackbone\.body\.)", r"(.*?\bbackbone\.)"):
        for name in names:
            found = re.match(pattern, name)
            if found:
                return found[1]
    return ""


def _belongs(name: str, prefix: str) -> bool:
    """Whether an entry is the backbone's, or that of a linear classifier beside it."""
    return name.startswith(prefix) or name.startswith("fc.")


def _check_shapes(loaded: dict[str, Tensor], own: dict[str, Tensor], weights: str) -> None:
    """Raises `ValueError` listing the first parameters whose shapes in the file and in the network differ."""
    misshapen = [
        f"{name} {tuple(loaded[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if name in loaded and loaded[name].shape != value.shape
    ]
    if misshapen:
        raise ValueError(
            f"weights={weights!r} has {len(misshapen)} entries of other shapes, the first {_listed(misshapen)}; "
            "give weights of the same architecture and options"
        )


def _listed(names: list[str]) -> str:
    """The first few of `names`, comma-separated."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
