"""Loading of weights into a backbone: strict about the host, tolerant about inserted attention and classifiers."""

import logging
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor

from backbones.base import Backbone

_logger = logging.getLogger(__name__)
_SHOWN = 3  # names of parameters that a message lists


def load_weights(backbone: Backbone, weights: str) -> None:
    """Loads `weights` into `backbone` in place.

    Checkpoints may wrap the parameters as `{"state_dict": ...}` or `{"model": ...}` and prefix the names with `module.`
    (data parallel training) or `backbone.` (a saved `Classifier`). Parameters of a classifier are ignored; unexpected
    names are logged as a warning; inserted attention that the checkpoint lacks keeps its initialisation and is logged
    (as a warning if the checkpoint has a part of it). Any other missing or misshapen parameter is an error, and then
    nothing is loaded.

    Args:
        backbone: Network to fill.
        weights: `imagenet` for the weights torchvision publishes for this host, or the path of a .pth, .pt or
            .safetensors file.
    """
    loaded = _published(backbone) if weights == "imagenet" else _read(weights)
    loaded = _unwrapped(loaded, weights)
    loaded = {name: value for name, value in loaded.items() if not name.startswith(backbone.classifier_prefixes)}
    own = backbone.state_dict()
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


def _published(backbone: Backbone) -> object:
    """State dict that torchvision publishes for the host, from torch.hub's cache or the network."""
    published = backbone.published_weights()
    if published is None:
        raise ValueError(
            f"weights='imagenet': no published weights for this {type(backbone).__name__}; give the path of a file"
        )
    try:
        return published.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(published.url)
        raise RuntimeError(
            f"weights='imagenet' could not be downloaded ({error}); "
            f"fetch {published.url} elsewhere and put it at {place}, or give the path of a file"
        ) from error


def _read(path: str) -> object:
    """Content of a checkpoint file, tensors on the CPU; never executes code from it."""
    if not os.path.isfile(path):
        raise ValueError(
            f"weights={path!r} is no file; give 'imagenet' or the path of a .pth, .pt or .safetensors file"
        )
    if path.endswith(".safetensors"):
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ValueError(f"weights={path!r} needs the package safetensors; pip install safetensors") from error
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"weights={path!r} is damaged or holds more than tensors; save it by torch.save(model.state_dict(), path)"
        ) from error


def _unwrapped(content: object, weights: str) -> dict[str, Tensor]:
    """Parameters by name, without the wrappers of training scripts and the prefixes they leave in names."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={weights!r} holds no state dict; save one by torch.save(model.state_dict(), path)")
    return {str(name).removeprefix("module.").removeprefix("backbone."): value for name, value in content.items()}


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
