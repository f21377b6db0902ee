"""The contract of a backbone: features, their channels and strides, freezing, and groups for layer-wise learning rates.

Necks and heads read `channels` and `strides`; nothing outside a backbone assumes 256, 512, 1024 and 2048.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

from attention.base import Mixer, Refine

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


Norms = Literal["train", "eval", "frozen"]


class Backbone(nn.Module, ABC):
    """A network that turns a batch of normalised images into feature maps, finest first.

    A host derives from this class, calls `super().__init__()` first and `freeze(...)` last, sets the four attributes
    below, and supplies `forward` and `stages`; freezing and layer groups then follow from `stages`. One whose maps are
    not the ends of the stages behind the stem, or that has parts for a single map, supplies `unused_parts` as well.

    Attributes:
        channels: Number of channels of each feature map, finest first.
        strides: Pixels of the image per cell of each feature map, finest first. A side of N pixels gives a map side of
            ceil(N / stride).
        size_divisibility: Both sides of the images must be multiples of this many pixels; 1 accepts every size.
        norms: What the host's batch normalisations learn; set by `set_norms`.
        frozen_stages: How many entries of `stages()` are frozen; set by `freeze`.
        classifier_prefixes: Beginnings of the parameter names that checkpoints of this network may have in addition,
            because they also hold a classifier, or what `use_maps` left out. `load_weights` ignores these names.
        start: How the weights began: `scratch`, `pretrained`, or `pretrained host` where inserted attention did not.
            Set by `load_weights`.
        published_name: Name in `backbones.list_backbones()`, if the network was made by that function.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_divisibility: int = 1
    frozen_stages: int = 0
    norms: Norms = "train"
    classifier_prefixes: tuple[str, ...] = ("fc.", "classifier.")
    published_name: str = ""
    start: Literal["scratch", "pretrained", "pretrained host"] = "scratch"
    _number_of_maps: int = 0  # before `use_maps`
    _used_maps: tuple[int, ...] = ()
    _left_out: tuple[str, ...] = ()
    _auxiliary: Tensor | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of `x` (B, 3, H, W), finest first: (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Modules in the order of the data flow, by stage; together they hold every parameter exactly once.

        The first entry is the stem; its modules form one layer group together. Every module of the later entries is a
        layer group of its own, usually one block.
        """

    def use_maps(self, indices: Sequence[int]) -> None:
        """Keeps the chosen maps alone. Who builds a neck or a head on a backbone says by this which maps it reads.

        What a call returns, `channels` and `strides` follow. What only the other maps need is neither computed nor
        kept: a parameter that nothing reads would get no gradient, which distributed training does not survive.
        Checkpoints may still have it. There is no way back; a second call chooses among the maps that are left.

        Args:
            indices: Numbers of the maps, ascending, at least one; negative ones count from the last.

        Raises:
            ValueError: There are no such maps.
        """
        count = len(self.channels)
        chosen = [index + count if index < 0 else index for index in indices]
        if not chosen or chosen != sorted({*chosen} & {*range(count)}):
            raise ValueError(
                f"out_indices={tuple(indices)}: this network has {count} feature maps; choose 0 to {count - 1}, in "
                "ascending order"
            )
        if len(chosen) == count:
            return
        if not self._used_maps:
            self._number_of_maps, self._used_maps = count, tuple(range(count))
            self.register_forward_hook(_used_features)
            self.register_load_state_dict_pre_hook(_forget_unused)
        self._used_maps = tuple(self._used_maps[index] for index in chosen)
        self.channels = tuple(self.channels[index] for index in chosen)
        self.strides = tuple(self.strides[index] for index in chosen)
        before = [*self.state_dict()]
        names = {id(module): name for name, module in self.named_modules()}
        for part in self.unused_parts(self._used_maps):
            self.set_submodule(names[id(part)], LeftOut())
        kept = self.state_dict().keys()
        lost = tuple(name for name in before if name not in kept)
        self._left_out += lost
        self.classifier_prefixes += lost

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """Modules that none of some maps needs; `LeftOut` takes their place.

        By default, where every stage behind the stem ends in a map, all modules behind the last one that is needed.

        Args:
            maps: Numbers of the maps that are needed among all that the network was built with, ascending.
        """
        stages = self.stages()
        aligned = len(stages) == 1 + self._number_of_maps
        return [module for stage in stages[maps[-1] + 2 :] for module in stage] if aligned else []

    @property
    def label(self) -> str:
        """Name of the network without its attention, for tables: "ResNet-50"."""
        return self.published_name or type(self).__name__

    def network_options(self) -> dict[str, object]:
        """Options, by their names, that say what is computed beside the attention; weights show few of them.

        `--model.weights` compares them with those that a published network was trained with.
        """
        return {}

    @property
    def position_tables(self) -> tuple[str, ...]:
        """Names of parameters that say something of places and that no module inside the host declares itself.

        See `attention.base.find_position_tables`.
        """
        return ()

    def published_weights(self) -> "WeightsEnum | str | None":
        """ImageNet weights of torchvision, or timm's name of them, for this configuration; None if there are none."""
        return None

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names of parameters that published weights of the host lack: those of inserted operators.

        A host whose operators belong to the published network itself returns fewer.
        """
        return tuple(f"{name}." for name, module in self.named_modules() if isinstance(module, Refine | Mixer))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of a checkpoint under this backbone's own names, whatever known layout it has.

        A host that has weights in the layouts of other libraries or of the authors' code overrides this. Entries that
        it does not know, or that have this backbone's own names already, are passed on as they are, so that they can be
        reported; a classifier's last layer is called `fc.weight` and `fc.bias`.

        Args:
            state: Parameters and buffers by name, prefixes of training wrappers removed.
        """
        return state

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """An entry of a checkpoint brought to another shape, where that has a meaning (tables of relative positions).

        Args:
            name: Name of the parameter.
            value: What the checkpoint has.
            shape: Shape that this backbone has.

        Returns:
            The interpolated parameter, or None where another shape means another network.
        """
        return None

    def auxiliary_loss(self) -> Tensor | None:
        """A loss that training adds for the last forward pass, already weighted; None where there is none.

        It is handed out once per pass, so that no graph is kept. A host that has one leaves it in `_auxiliary`.
        """
        loss, self._auxiliary = self._auxiliary, None
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the loss of the last pass, whose graph can neither be copied nor written."""
        state = cast("dict[str, Any]", super().__getstate__())
        return {name: value for name, value in state.items() if name != "_auxiliary"}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Every parameter exactly once, grouped from shallow to deep: the stem, then block by block.

        Parameters of frozen stages are included; they have `requires_grad=False`.
        """
        stem, *stages = self.stages()
        modules = [stem, *([block] for stage in stages for block in stage)]
        groups = [[parameter for module in group for parameter in module.parameters()] for group in modules]
        count = sum(map(len, groups))
        expected = {id(parameter): name for name, parameter in self.named_parameters()}
        missing = expected.keys() - {id(parameter) for group in groups for parameter in group}
        if missing or count != len(expected):
            names = ", ".join(sorted(expected[key] for key in missing)) or "a parameter that occurs twice"
            raise ValueError(f"{type(self).__name__}.stages() must cover every parameter once; correct it for {names}")
        return [group for group in groups if group]

    def freeze(self, stages: int) -> None:
        """Freezes the first `stages` entries of `stages()` and thaws those which an earlier call froze beyond them.

        Frozen modules get no gradients and stay in evaluation mode whatever `train()` says, so that the running
        statistics of their batch normalisations do not move either. Operators that were inserted into them learn
        all the same: published weights lack them, so there is nothing that could be kept.

        Args:
            stages: 0 freezes nothing, 1 the stem, 2 the stem and stage 1, and so on up to the whole backbone.
        """
        modules = self.stages()
        if not 0 <= stages <= len(modules):
            raise ValueError(
                f"frozen stages={stages} is out of range; {type(self).__name__} takes 0 (none) to {len(modules)} (all)"
            )
        for index, stage in enumerate(modules[: max(stages, self.frozen_stages)]):
            for module in stage:
                module.requires_grad_(index >= stages)
        for part in self._inserted_parts():
            part.requires_grad_(True)
        self.frozen_stages = stages
        self.set_norms(self.norms)

    def set_norms(self, norms: Norms) -> None:
        """Chooses what the host's batch normalisations learn; those inside attention operators always learn.

        An operator that was inserted into a pretrained host has no statistics yet that could be kept.

        Args:
            norms: `train`: statistics and affine parameters; `eval`: affine parameters alone, with fixed running
                statistics (MMDetection's `norm_eval`); `frozen`: nothing (torchvision's FrozenBatchNorm2d).
        """
        frozen_parts = nn.ModuleList(part for stage in self.stages()[: self.frozen_stages] for part in stage)
        frozen = set(frozen_parts.modules())
        for module in host_norms(self):
            if module not in frozen:
                module.requires_grad_(norms != "frozen")
        self.norms = norms
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """Sets training mode, except for frozen stages, which stay in evaluation mode."""
        super().train(mode)
        if self.norms != "train":
            for norm in host_norms(self):
                norm.eval()
        for stage in self.stages()[: self.frozen_stages] if self.frozen_stages else []:
            for module in stage:
                module.eval()
        for part in self._inserted_parts() if self.frozen_stages else []:
            part.train(mode)
        return self

    def _inserted_parts(self) -> list[nn.Module]:
        """Operators that published weights of the host lack."""
        prefixes = set(self.inserted_prefixes())
        operators = [(name, module) for name, module in self.named_modules() if isinstance(module, Refine | Mixer)]
        return [module for name, module in operators if f"{name}." in prefixes]


class LeftOut(nn.Identity):
    """Stands where a network had a part that no feature map in use needs."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """Hands on its first input."""
        return input


def _used_features(backbone: Backbone, inputs: tuple[Tensor, ...], features: list[Tensor]) -> list[Tensor]:
    """Forward hook: of all maps those that are used."""
    return [features[index] for index in backbone._used_maps]


def _forget_unused(backbone: Backbone, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Hook of `load_state_dict`: takes the entries of parts that were left out off."""
    for name in backbone._left_out:
        state.pop(prefix + name, None)


def host_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The batch normalisations in a module that do not belong to an attention operator."""
    for child in module.children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            yield child
        elif not isinstance(child, Refine | Mixer):
            yield from host_norms(child)
