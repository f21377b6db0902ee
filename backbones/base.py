"""The contract of a backbone: features, their channels and strides, freezing, and groups for layer-wise learning rates.

Necks and heads read `channels` and `strides`; nothing outside a backbone assumes 256, 512, 1024 and 2048.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from attention.base import Mixer, Refine

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


Norms = Literal["train", "eval", "frozen"]


class Backbone(nn.Module, ABC):
    """A network that turns a batch of normalised images into feature maps, finest first.

    A host derives from this class, calls `super().__init__()` first and `freeze(...)` last, sets the four attributes
    below, and supplies `forward` and `stages`; freezing and layer groups then follow from `stages`.

    Attributes:
        channels: Number of channels of each feature map, finest first.
        strides: Pixels of the image per cell of each feature map, finest first. A side of N pixels gives a map side of
            ceil(N / stride).
        size_divisibility: Both sides of the images must be multiples of this many pixels; 1 accepts every size.
        norms: What the host's batch normalisations learn; set by `set_norms`.
        frozen_stages: How many entries of `stages()` are frozen; set by `freeze`.
        classifier_prefixes: Beginnings of the parameter names that checkpoints of this network may have in addition,
            because they also hold a classifier. `load_weights` ignores these names.
        published_name: Name in `backbones.list_backbones()`, if the network was made by that function.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_divisibility: int = 1
    frozen_stages: int = 0
    norms: Norms = "train"
    classifier_prefixes: tuple[str, ...] = ("fc.", "classifier.")
    published_name: str = ""

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of `x` (B, 3, H, W), finest first: (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Modules in the order of the data flow, by stage; together they hold every parameter exactly once.

        The first entry is the stem; its modules form one layer group together. Every module of the later entries is a
        layer group of its own, usually one block.
        """

    @property
    def label(self) -> str:
        """Name of the network without its attention, for tables: "ResNet-50"."""
        return self.published_name or type(self).__name__

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

        It is handed out once per pass.
        """
        return None

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
        statistics of their batch normalisations do not move either. What was inserted into them learns all the same:
        published weights lack it, so there is nothing that could be kept.

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
        """What published weights of the host lack."""
        prefixes = set(self.inserted_prefixes())
        return [module for name, module in self.named_modules() if f"{name}." in prefixes]


def host_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The batch normalisations in a module that do not belong to an attention operator."""
    for child in module.children():
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
            yield child
        elif not isinstance(child, Refine | Mixer):
            yield from host_norms(child)
