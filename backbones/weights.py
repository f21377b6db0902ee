"""Loading of weights into a backbone: strict about the host, tolerant about inserted attention and classifiers."""

import logging
import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.namesakes import check_namesake
from backbones.weight_sources import read_file, read_weights

_logger = logging.getLogger(__name__)
_SHOWN = 3  # names of parameters that a message lists
# What wrappers put into names wherever they wrap a module: compilation, sharding, checkpointing.
_SHELLS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def load_weights(backbone: Backbone, weights: str) -> None:
    """Loads `weights` into `backbone` in place.

    Known layouts of other libraries and of the papers' code are converted (`Backbone.convert`), tables of relative
    positions of another size interpolated (`Backbone.resize`). Checkpoints may wrap the parameters as
    `{"state_dict": ...}` or `{"model": ...}`, prefix the names with `module.` (data parallel training), `_orig_mod.`
    (`torch.compile`) or `model.`, and hold a whole detector or segmentor, of which the part under `backbone.` is taken.
    Where timm's or torchvision's training scripts have put averaged weights beside the last ones (`state_dict_ema`,
    `model_ema`), the averaged ones are taken, and a message says so.

    Parameters of a classifier are ignored; unexpected names are logged as a warning; inserted attention that the
    checkpoint lacks keeps its initialisation and is logged (as a warning if the checkpoint has a part of it). Any other
    missing or misshapen parameter is an error, as are those of further blocks, and then nothing is loaded. So are
    weights of a network of timm's that fits and computes something else, where the checkpoint tells what it is.

    Args:
        backbone: Network to fill.
        weights: `imagenet` for the newest weights that torchvision (or timm) publishes for this host, `imagenet_v1` for
            the first ones of torchvision, which published baselines start from; the path of a .pth, .pt or .safetensors
            file, or its address (http, https, file; `#sha256=...` checks it, as does torch.hub's file-1a2b3c4d.pth); a
            name of torchvision's such as `ResNet50_Weights.IMAGENET1K_V2`, or of timm's such as `seresnet50.ra2_in1k`.
            Downloads are kept in torch.hub's (timm's: the Hugging Face hub's) cache.
    """
    load_entries(backbone, _read(backbone, weights), weights)


def load_entries(backbone: Backbone, entries: dict[str, Tensor], weights: str, whole: bool = False) -> None:
    """Loads entries that have been read already into `backbone`, as `load_weights` does.

    Args:
        backbone: Network to fill.
        entries: Those of the backbone, or of a whole model, without wrappers (`unwrapped`).
        weights: Where they come from, for messages.
        whole: Whether every entry must have a place in the backbone; otherwise those without one are logged.
    """
    _fill(backbone, backbone.convert(_of_backbone(entries, weights)), weights, whole)


def load_classifier(network: nn.Module, weights: str) -> None:
    """Loads `weights` into a classification network in place: into its `backbone`, and into its head what fits.

    The head is that of published networks, whose last linear layer is found under the names of all known layouts, or,
    in a file of the whole network, of any kind. Where the file has none, or one of other shapes (another number of
    classes), the head keeps its initialisation, and a warning says so.

    Args:
        network: Network with a `backbone`, as `backbones.classifier` makes it.
        weights: As for `load_weights`.
    """
    backbone = network.backbone
    assert isinstance(backbone, Backbone)
    entries = _read(backbone, weights)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith("backbone.")}
    converted = backbone.convert(_of_backbone(entries, weights))
    _fill(backbone, converted, weights)
    head = {name: value for name, value in {**entries, **converted}.items() if name in own}
    lost = [name for name, value in own.items() if name not in head or head[name].shape != value.shape]
    if lost:
        _logger.warning("%s: %d entries of the classifier stay as initialised: %s", weights, len(lost), ", ".join(lost))
    network.load_state_dict({name: value for name, value in head.items() if name not in lost}, strict=False)


def _read(backbone: Backbone, weights: str) -> dict[str, Tensor]:
    content = read_weights(weights, backbone.published_weights(), type(backbone).__name__)
    architecture = content.get("arch") if isinstance(content, dict) else None
    entries = unwrapped(content, weights)
    check_namesake(backbone, architecture, entries, weights)
    return entries


def _fill(backbone: Backbone, loaded: dict[str, Tensor], weights: str, whole: bool = False) -> None:
    """Loads entries under the backbone's own names, or raises `ValueError` and loads nothing."""
    own = backbone.state_dict()
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
    deeper = _of_further_blocks(backbone, unexpected)
    if deeper:
        raise ValueError(
            f"weights={weights!r} has {len(deeper)} entries of blocks that {type(backbone).__name__} does not have, "
            f"the first {_listed(deeper)}; give weights of the same depth"
        )
    if unexpected and whole:
        raise ValueError(
            f"weights={weights!r} has {len(unexpected)} entries that {type(backbone).__name__} does not have, the "
            f"first {_listed(unexpected)}; give weights of the same architecture and options"
        )
    if unexpected:
        _logger.warning("%s: ignored %d unexpected entries: %s", weights, len(unexpected), _listed(unexpected))
    if inserted:
        partial = any(name.startswith(backbone.inserted_prefixes()) for name in loaded)
        level = logging.WARNING if partial else logging.INFO  # other attention was trained: likely not what was meant
        places = _listed(_outermost(backbone.inserted_prefixes(), inserted))
        _logger.log(level, "%s: %d entries of attention stay as initialised, in %s", weights, len(inserted), places)
    backbone.load_state_dict({name: value for name, value in loaded.items() if name in own}, strict=False)
    backbone.start = "pretrained host" if inserted else "pretrained"


def export_weights(checkpoint: str, out: str) -> None:
    """Takes the backbone out of a run's checkpoint and writes it to a file of its own.

    Where the run averaged its weights (`--ema_decay`), these are the averaged ones, which validation has measured.

    Args:
        checkpoint: A .ckpt file of `tasks.detect` or `tasks.segment`, or any other file that `load_weights` reads.
        out: The file to write, .safetensors, or .pth for a state dict by `torch.save`.
    """
    if not out.endswith((".safetensors", ".pth", ".pt")):
        raise ValueError(f"out={out!r} has no known format; let it end in .safetensors or .pth")
    entries = _of_backbone(unwrapped(read_file(checkpoint, checkpoint), checkpoint), checkpoint)
    # Copies, because safetensors takes no two entries that share memory, and torch.save writes all that a view views.
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in entries.items()}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if out.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(state, out)
    else:
        torch.save(state, out)
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
        _logger.info("%s: interpolated %d entries of another size: %s", weights, len(changed), ", ".join(changed))
    return fitting


def unwrapped(content: object, weights: str) -> dict[str, Tensor]:
    """Parameters by name, without the wrappers of training scripts and the prefixes they leave in names."""
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            if key.endswith("_ema"):
                _logger.info("%s: took the averaged weights, %r", weights, key)
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={weights!r} holds no state dict; save one by torch.save(model.state_dict(), path)")
    content.pop("n_averaged", None)  # counts the steps of torch.optim.swa_utils.AveragedModel
    entries = {_SHELLS.sub("", str(name)).removeprefix("module."): value for name, value in content.items()}
    shell = "model." if all(name.startswith("model.") for name in entries) else ""
    return {name.removeprefix(shell): value for name, value in entries.items()}


def _of_backbone(entries: dict[str, Tensor], weights: str) -> dict[str, Tensor]:
    """Of the entries of a whole model those of its backbone, and of a linear classifier beside it.

    Names begin with `backbone.` in our classifiers, with `model.backbone.` in our tasks. Detectors put a `body`
    (torchvision, DETR) or `bottom_up` (Detectron2) beside the feature pyramid.
    """
    roots = {found[1] for name in entries if (found := re.match(r"(.*?\bbackbone\.)", name))}
    if not roots:
        return entries
    if len(roots) > 1:
        raise ValueError(
            f"weights={weights!r} holds {len(roots)} backbones, {_listed(sorted(roots))}; save the entries of one of "
            "them to a file of their own"
        )
    (prefix,) = roots
    for inside in (r"(\d+\.)?body\.", r"bottom_up\."):
        found = next(filter(None, (re.match(re.escape(prefix) + inside, name) for name in entries)), None)
        if found:
            prefix = found[0]
            break
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith((prefix, "fc."))}


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


def _of_further_blocks(backbone: Backbone, names: list[str]) -> list[str]:
    """Of unexpected names those of blocks behind the last one of a sequence, which only a deeper network has."""
    lengths = {
        name: len(module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module)
    }
    further = []
    for name in names:
        parts = name.split(".")
        if any(
            part.isdigit() and int(part) >= lengths.get(".".join(parts[:i]), math.inf) for i, part in enumerate(parts)
        ):
            further.append(name)
    return further


def _outermost(prefixes: tuple[str, ...], names: list[str]) -> list[str]:
    """The modules that `names` belong to, by their prefixes; of nested ones the outer."""
    used = [prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)]
    inner = {one for one in used for other in used if one != other and one.startswith(other)}
    return [prefix.removesuffix(".") for prefix in used if prefix not in inner]


def _listed(names: list[str]) -> str:
    """The first few of `names`, comma-separated."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
