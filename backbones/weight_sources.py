"""Where weights come from: files, addresses, and the names under which torchvision and timm publish theirs."""

import hashlib
import logging
import os
import pickle
import re
from pathlib import Path
from urllib.parse import urldefrag, urlparse

import torch
from torchvision.models import WeightsEnum, get_weight

_logger = logging.getLogger(__name__)
_HASHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torch.hub's file names end in the beginning of their SHA-256


def read_weights(weights: str, published: WeightsEnum | None, network: str) -> object:
    """Content of a checkpoint: see `backbones.load_weights` for what `weights` may be.

    Args:
        weights: Name, address or path.
        published: What `imagenet` means for the network.
        network: Name of the network, for messages.
    """
    if weights == "imagenet":
        if published is None:
            raise ValueError(f"weights='imagenet': no published weights for this {network}; give the path of a file")
        return _of_torchvision(published, weights)
    if urlparse(weights).scheme in ("http", "https", "file"):
        return read_file(_download(weights), weights)
    if os.path.isfile(weights):
        return read_file(weights, weights)
    if re.fullmatch(r"\w+_Weights\.\w+", weights):
        try:
            return _of_torchvision(get_weight(weights), weights)
        except (AttributeError, ValueError, KeyError) as error:
            raise ValueError(f"weights={weights!r} is no set of weights of torchvision's ({error})") from error
    if re.fullmatch(r"\w+\.\w+|\w+", weights) and not weights.endswith((".pth", ".pt", ".safetensors")):
        return _of_timm(weights)
    raise ValueError(
        f"weights={weights!r} is no file; give 'imagenet', the path or address of a .pth, .pt or .safetensors file, or "
        "a name of torchvision's (ResNet50_Weights.IMAGENET1K_V2) or timm's (seresnet50.ra2_in1k)"
    )


def read_file(path: str, weights: str) -> object:
    """Content of a checkpoint file, tensors on the CPU; never executes code from it.

    Args:
        path: Path of the file.
        weights: What the user gave, for messages.
    """
    if path.endswith(".safetensors"):
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ValueError(f"weights={weights!r} needs the package safetensors; pip install safetensors") from error
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"weights={weights!r} is damaged or holds more than tensors; "
            "save it by torch.save(model.state_dict(), path)"
        ) from error


def _of_torchvision(published: WeightsEnum, weights: str) -> object:
    """State dict that torchvision publishes, from torch.hub's cache or the network."""
    try:
        return published.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        place = _cache() / os.path.basename(published.url)
        raise RuntimeError(
            f"weights={weights!r} could not be downloaded ({error}); "
            f"fetch {published.url} elsewhere and put it at {place}, or give the path of a file"
        ) from error


def _of_timm(weights: str) -> object:
    """State dict that timm publishes under a name such as `seresnet50.ra2_in1k`."""
    import timm

    if not timm.is_model(weights.split(".")[0]):
        raise ValueError(
            f"weights={weights!r} is no file, and timm has no network of that name; "
            "give a path, or see timm.list_pretrained()"
        )
    try:
        return timm.create_model(weights, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise RuntimeError(
            f"weights={weights!r} could not be loaded by timm ({cause}); fetch the file elsewhere and give its path"
        ) from error


def _download(weights: str) -> str:
    """Path of the file behind an address, in torch.hub's cache, checked against its SHA-256.

    The sum is the address' fragment (`#sha256=...`) or, by torch.hub's convention, the end of the file's name.
    """
    address, fragment = urldefrag(weights)
    expected = fragment.removeprefix("sha256=").lower()
    named = _HASHED.search(address)
    if fragment and not re.fullmatch("[0-9a-f]{64}", expected):
        raise ValueError(f"weights={weights!r}: the fragment is no checksum; write #sha256= and 64 hexadecimal digits")
    if not expected and named:
        expected = named[1]
    path = _cache() / os.path.basename(urlparse(address).path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), progress=False)
        except OSError as error:
            raise RuntimeError(
                f"weights={weights!r} could not be downloaded ({error}); "
                f"fetch it elsewhere and put it at {path}, or give the path of a file"
            ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not expected:
        _logger.warning("%s: not checked; add #sha256=%s to the address to check it", weights, found)
    elif not found.startswith(expected):
        raise RuntimeError(
            f"weights={weights!r}: {path} has the SHA-256 {found} and not {expected}; delete it, and fetch it again"
        )
    return str(path)


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
