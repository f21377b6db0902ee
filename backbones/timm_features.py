"""Any network of timm (Ross Wightman) with feature maps as a backbone, by its name there."""

import re
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import check_choice
from backbones.base import Backbone, Norms
from backbones.timm_halo import Network
from backbones.weights import load_weights

_FINEST = 4  # stride of the finest feature map that is returned unless asked for


class TimmFeatures(Backbone):
    """A network of timm's that yields feature maps, as necks and heads here take it; `backbones.timm` builds it.

    Features, channels and strides are those of timm's `features_only` network. Images of every size are accepted. Where
    a network rounds sides up by itself, as ResNets do, it sees the image as it is. One that rounds down, as those made
    of patches do, sees the image extended by zeros at the bottom and at the right to a multiple of its coarsest stride,
    and its maps are cut to ceil(side / stride) cells.

    Stages, for `freeze` and layer-wise learning rates, end where the feature maps are taken; what comes before the part
    that yields the first one is the stem. Networks with parameters of their own beside their modules (vision
    transformers' position embedding) are a stem as a whole.

    Args:
        name: Timm's name of the network such as `convnext_tiny`.
        out_indices: Numbers of timm's feature maps to return, from 0; by default all of stride 4 and coarser that timm
            returns.
        options: Further arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`, or for timm's own
            attention layers in its ResNets `{"block_args": {"attn_layer": "eca"}}` (`se`, `cbam`, `gc`, `coord`, ...).
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and what leads to the first map, and on.
        norms: What batch normalisations learn: `train` statistics and affine parameters, `eval` affine parameters only,
            `frozen` nothing.
        weights: `imagenet` for timm's default weights of the network, one of its names such as
            `convnext_tiny.fb_in22k_ft_in1k`, or the path of a file; see `backbones.load_weights`. None leaves the
            random initialisation.
    """

    def __init__(
        self,
        name: str,
        out_indices: tuple[int, ...] | None = None,
        options: dict[str, Any] | None = None,
        frozen_stages: int = 0,
        norms: Norms = "train",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("norms", norms, get_args(Norms))
        self.name = name
        self.options = dict(options or {})
        self.host = _host(name, out_indices, self.options)
        infos = self.host.feature_info.get_dicts()
        self._kept = [i for i, info in enumerate(infos) if out_indices is not None or info["reduction"] >= _FINEST]
        self.channels = tuple(infos[i]["num_chs"] for i in self._kept)
        self.strides = self._all_strides = tuple(infos[i]["reduction"] for i in self._kept)
        self._modules_of_features = [infos[i]["module"].replace(".", "_") for i in self._kept]
        self._fills_up = self._must_fill_up()
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W), finest first."""
        height, width = x.shape[2:]
        if self._fills_up:
            below, right = -height % max(self._all_strides), -width % max(self._all_strides)
            if torch.compiler.is_exporting() or below or right:
                x = F.pad(x, (0, right, 0, below))
        features = self._features(x)
        if self._fills_up:
            features = [
                feature[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
                for feature, stride in zip(features, self._all_strides, strict=True)
            ]
        return features

    def stages(self) -> list[list[nn.Module]]:
        """What comes before the first feature map's part, then what each feature map adds, block by block."""
        root = self._root()
        groups = [] if root._parameters else [*_blocks("", root)]
        ends = []
        for feature in self._modules_of_features:
            inside = [i for i, (name, _) in enumerate(groups) if _within(name, feature) or _within(feature, name)]
            ends.append(max(inside, default=-1) + 1)
        if not groups or 0 in ends or ends != sorted(set(ends)):
            return [[self.host]]
        parts = [name.split(".")[0] for name, _ in groups]
        bounds = [0, parts.index(parts[ends[0] - 1]), *ends[:-1], len(groups)]
        return [[module for _, module in groups[start:end]] for start, end in pairwise(bounds)]

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """The blocks behind the last map; where the network is one stage, what follows the map's block beside it."""
        end = self._modules_of_features[maps[-1]]
        found = next((name for name, _ in self.named_modules() if name.replace(".", "_").endswith(end)), "")
        parent, _, last = found.rpartition(".")
        if len(self.stages()) > 1 or not parent:
            return super().unused_parts(maps)
        siblings = [*self.get_submodule(parent).named_children()]
        place = [name for name, _ in siblings].index(last)
        return [module for _, module in siblings[place + 1 :]]

    @property
    def label(self) -> str:
        """Timm's name of the network."""
        return self.name

    @property
    def position_tables(self) -> tuple[str, ...]:
        """What timm's network lists in `no_weight_decay()`, as its own optimisers read it: tables, class tokens."""
        with torch.device("meta"):  # feature networks do not hand the list on
            whole = _timm().create_model(self.name, **self.options)
        listed = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
        own = {name for name, _ in self.named_parameters()}
        return tuple(own & self.convert(dict.fromkeys(listed, torch.empty(0))).keys())

    def published_weights(self) -> str:
        """Timm's name of the network, which stands for its default weights."""
        return self.name

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of timm's networks, whole or `features_only`, under our names."""
        own = self.state_dict().keys()
        classifier = _timm().models.get_pretrained_cfg(self.name, allow_unregistered=False)
        last = getattr(classifier, "classifier", None)
        converted = {}
        for name, value in state.items():
            # features_only networks lift the children of a sequence, or keep the network as a whole inside
            for other in (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}"):
                if f"host.{other}" in own:
                    name = f"host.{other}"
                    break
            else:
                name = re.sub(rf"^{last}\.(weight|bias)$", r"fc.\1", name)
            converted[name] = value
        return converted

    def _features(self, x: Tensor) -> list[Tensor]:
        """The chosen maps of timm's network, channels first."""
        features = [*self.host(x)]
        if str(getattr(self.host, "output_fmt", "NCHW")).endswith("NHWC"):
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return [features[i] for i in self._kept]

    def _root(self) -> nn.Module:
        """The network without the shells that timm puts around it."""
        root: nn.Module = self.host
        while not root._parameters and len(children := [*root.children()]) == 1:
            root = children[0]
        return root

    def _must_fill_up(self) -> bool:
        """Whether the network rounds sides down; `ValueError` if its strides hold for no size."""
        coarsest = max(self.strides)
        causes = []
        for side in (2 * coarsest + 1, 2 * coarsest):
            try:
                found = [tuple(feature.shape[1:]) for feature in self._tried(side)]
            except (AssertionError, RuntimeError, ValueError) as error:
                causes.append(_first_line(error))
                continue
            sides = [-(-side // stride) for stride in self.strides]
            if found == [(channels, n, n) for channels, n in zip(self.channels, sides, strict=True)]:
                return side == 2 * coarsest
            causes.append(f"features of {side} x {side} pixels have shapes {found}")
        remedy = (
            "choose another network, or give options={'dynamic_img_size': True} to a transformer, "
            "{'strict_img_size': False} to one with windows"
        )
        if self.name.split(".")[0] in get_args(Network):
            remedy = f"backbones.TimmHaloNet({self.name.split('.')[0]!r}) does"
        raise ValueError(f"name={self.name!r} does not take images of every size ({causes[-1]}); {remedy}")

    def _tried(self, side: int) -> list[Tensor]:
        """Features of a square image of zeros; leaves no traces in the network."""
        like = next(self.host.parameters())
        training = self.host.training
        try:
            with torch.no_grad():
                self.host.eval()
                return self._features(torch.zeros(1, 3, side, side, dtype=like.dtype, device=like.device))
        finally:
            self.host.train(training)


def timm(
    name: str,
    out_indices: tuple[int, ...] | None = None,
    options: dict[str, Any] | None = None,
    frozen_stages: int = 0,
    norms: Norms = "train",
    weights: str | None = None,
) -> TimmFeatures:
    """A network of timm's that yields feature maps, as a backbone; see `TimmFeatures`.

    Args:
        name: Timm's name of the network such as `convnext_tiny`; `timm.list_models()` has all.
        out_indices: Numbers of timm's feature maps to return, from 0; by default all of stride 4 and coarser that timm
            returns.
        options: Further arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`, or for timm's own
            attention layers in its ResNets `{"block_args": {"attn_layer": "eca"}}` (`se`, `cbam`, `gc`, `coord`, ...).
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and what leads to the first map, and on.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        weights: `imagenet` for timm's default weights, one of timm's names, or the path of a file; see
            `backbones.load_weights`. None leaves the random initialisation.
    """
    return TimmFeatures(name, out_indices, options, frozen_stages, norms, weights)


def _host(name: str, out_indices: tuple[int, ...] | None, options: dict[str, Any]) -> Any:
    """Timm's network with feature maps."""
    library = _timm()
    if not library.is_model(name):
        from difflib import get_close_matches

        close = ", ".join(get_close_matches(name, library.list_models(), 3, 0.5)) or "call timm.list_models()"
        raise ValueError(f"name={name!r} is no network of timm {library.__version__}; did you mean {close}?")
    if out_indices is not None:
        options = {**options, "out_indices": out_indices}
    try:
        return library.create_model(name, features_only=True, **options)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"name={name!r} cannot be built with feature maps and options={options} ({_first_line(error)}); "
            "choose a network that supports features_only, or change the options"
        ) from error


def _blocks(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the blocks of a part of a network, in the order of the data flow."""
    sequence = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    stage = hasattr(module, "blocks") or type(module).__name__.endswith("Stage")
    if (not name or sequence or stage) and not module._parameters and [*module.children()]:
        for child_name, child in module.named_children():
            yield from _blocks(f"{name}.{child_name}".lstrip("."), child)
    else:
        yield name, module


def _within(name: str, part: str) -> bool:
    """Whether a module's name is that of a part or of something inside it; points count as underscores."""
    name, part = name.replace(".", "_"), part.replace(".", "_")
    return name == part or name.startswith(f"{part}_")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _timm() -> ModuleType:
    """Timm, imported when a network is built: it takes a second."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("backbones.timm needs the package timm; pip install timm") from error
    return timm
