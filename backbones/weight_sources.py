"""Where weights come from: files, addresses, and the names under which torchvision and timm publish theirs."""

import argparse
import hashlib
import http.client
import logging
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import torch
from torchvision.models import WeightsEnum, get_weight

_logger = logging.getLogger(__name__)
HASHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torch.hub's file names end in the beginning of their SHA-256


def read_weights(weights: str, published: WeightsEnum | str | None, network: str) -> object:
    """Content of a checkpoint: see `backbones.load_weights` for what `weights` may be.

    Args:
        weights: Name, address or path.
        published: What `imagenet` means for the network: weights of torchvision's, or a name of timm's.
        network: Name of the network, for messages.
    """
    if weights in ("imagenet", "imagenet_v1"):
        if published is None:
            raise ValueError(f"weights={weights!r}: no published weights for this {network}; give the path of a file")
        if weights == "imagenet_v1" and isinstance(published, WeightsEnum):
            published = type(published)["IMAGENET1K_V1"]
        _logger.info("%s: %s", weights, published)
        return _of_timm(published) if isinstance(published, str) else _of_torchvision(published, weights)
    if urlparse(weights).scheme in ("http", "https", "file"):
        return read_file(_download(weights, weights), weights)
    path = os.path.expanduser(weights)
    if os.path.isfile(path):
        return read_file(path, weights)
    if re.fullmatch(r"\w+_Weights\.\w+", weights):
        try:
            chosen = get_weight(weights)
        except (AttributeError, ValueError, KeyError) as error:
            raise ValueError(f"weights={weights!r} is no set of weights of torchvision's ({error})") from error
        return _of_torchvision(chosen, weights)
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
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        # Training scripts of torchvision and timm store their arguments as well; reading these runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ValueError(f"weights={weights!r} needs the package safetensors; pip install safetensors") from error
    except PermissionError as error:
        raise ValueError(f"weights={weights!r} cannot be read ({error.strerror}); make it readable") from error
    except Exception as error:  # of a damaged file, readers raise whatever they stumble over
        named = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        beside = f" ({named[1]})" if named else ""
        place = "" if path == weights else f" (its file is {path})"
        raise ValueError(
            f"weights={weights!r} is damaged or holds more than tensors{beside}; "
            f"save it by torch.save(model.state_dict(), path){place}"
        ) from error


def _of_torchvision(published: WeightsEnum, weights: str) -> object:
    """State dict that torchvision publishes, from torch.hub's cache or the network."""
    return read_file(_download(published.url, weights), weights)


def _of_timm(weights: str) -> object:
    """State dict that timm publishes under a name such as `seresnet50.ra2_in1k`, and `arch`, the network's name."""
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if not timm.is_model(weights.split(".")[0]):
        near = get_close_matches(weights, ("imagenet", "imagenet_v1"), n=1)
        remedy = f"did you mean {near[0]}?" if near else "give a path, or see timm.list_pretrained()"
        raise ValueError(f"weights {weights}: no such file, and timm has no network of that name; {remedy}")
    try:
        with _without_retries_in_the_log():
            network = timm.create_model(weights, pretrained=True)
    except (OSError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise RuntimeError(
            f"weights={weights!r} could not be loaded by timm ({cause}); fetch the file elsewhere and give its path"
        ) from error
    trained: Any = network.pretrained_cfg
    if (trained["mean"], trained["std"]) != (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        _logger.warning(
            "%s expects images normalised by mean %s and deviation %s of grey levels in [0, 1]; with ImageNet's, which "
            "detectors and segmentors use here, it starts from a worse place",
            weights,
            trained["mean"],
            trained["std"],
        )
    return {"arch": trained["architecture"], "state_dict": network.state_dict()}


@contextmanager
def _without_retries_in_the_log() -> Iterator[None]:
    """Silences the Hugging Face hub's two lines per attempt; what failed is in the error that it raises."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _download(source: str, weights: str) -> str:
    """Path of the file behind an address, in torch.hub's cache, checked against its SHA-256.

    The sum is the address' fragment (`#sha256=...`) or, by torch.hub's convention, the end of the file's name. Names
    without a sum are preceded by that of the fragment or of the address: many files are called `model.pth`. Local
    files without a sum are read where they are, because they may change.

    Args:
        source: Address, with or without a fragment.
        weights: What the user gave, for messages.
    """
    address, fragment = urldefrag(source)
    expected = fragment.removeprefix("sha256=").lower()
    parts = urlparse(address)
    name = os.path.basename(unquote(parts.path))
    named = HASHED.search(name)
    if fragment and not re.fullmatch("[0-9a-f]{64}", expected):
        raise ValueError(f"weights={weights!r}: the fragment is no checksum; write #sha256= and 64 hexadecimal digits")
    if not name:
        raise ValueError(f"weights={weights!r} is the address of no file; let it end in the name of one")
    if named and not expected:
        expected = named[1]
    if not named:
        name = f"{(expected or hashlib.sha256(address.encode()).hexdigest())[:8]}-{name}"
    path = _cache() / name
    if parts.scheme == "file" and not expected and os.path.isfile(unquote(parts.path)):
        path = Path(unquote(parts.path))
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), progress=False)
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(
                f"weights={weights!r} could not be downloaded ({error}); "
                f"fetch {address} elsewhere and put it at {path}, or give the path of a file"
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
