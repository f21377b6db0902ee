"""What a recipe asks of whatever backbone is chosen: where it starts from, what it freezes, its stride and drop path.

A backbone's file says which network it is; these options belong to the pair of recipe and backbone, so that any recipe
takes any backbone. They fill in what the backbone's own options leave unsaid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from attention import IdentityStart
from backbones.dilation import Dilation
from tasks.errors import TaskError
from tasks.ranges import check_range

Start = Literal["pretrained_host", "pretrained", "scratch"]


@dataclass(frozen=True)
class HostOptions:
    """What a recipe asks of whatever backbone is chosen; null leaves an option to the backbone.

    An option that is written in the backbone's own file, or as `--model.backbone.OPTION` on the command line, is taken
    instead of the recipe's.

    Attributes:
        start: `pretrained_host`: `weights` are those of the network without the inserted attention, and a refinement
            starts as the identity (`attention.IdentityStart`), so that step 0 computes what the pretrained network
            does; `pretrained`: `weights` hold the attention, too; `scratch`: random weights, whatever `weights` says,
            and nothing of the host is frozen, stages nor norms, unless the command line asks for it.
        weights: What the backbone starts from, see `backbones.load_weights`: `imagenet` the newest published weights,
            `imagenet_v1` those behind the published baselines, a name of torchvision's or timm's, or a file.
        frozen_stages: Stages of the host that do not learn; attention that was inserted into them does.
        norms: What the host's batch normalisations learn; nothing to choose where it has none.
        output_stride: Stride of the last feature map in pixels.
        dilation: What dilates where strides are left out, in hosts with a choice: `a_trous`, as weights of the strided
            network need it, or `mmsegmentation`, as in its networks.
        multi_grid: Factors of the last stage's dilation, one for each of its blocks, such as 1, 2, 4.
        last_conv: Whether the classification network's last convolution belongs to the last map, in networks with one.
        tap_expansion: Whether maps are taken inside blocks, behind their expansion, in networks that can: one for all,
            or one for each name; a name that is not listed keeps the backbone's own.
        drop_path: Probability at which the deepest residual branch is dropped: one for every backbone that has the
            option, or one for each name (`swin_t`); a name that is not listed keeps the backbone's own.
    """

    start: Start | None = None
    weights: str | None = None
    frozen_stages: int | None = None
    norms: Literal["train", "eval", "frozen"] | None = None
    output_stride: Literal[8, 16, 32] | None = None
    dilation: Dilation | None = None
    multi_grid: tuple[int, ...] | None = None
    last_conv: bool | None = None
    tap_expansion: bool | dict[str, bool] | None = None
    drop_path: float | dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Checks the range of the probability."""
        drop_path = self.drop_path
        for value in drop_path.values() if isinstance(drop_path, dict) else [drop_path]:
            check_range("--host.drop_path", value, 0, 1)

    def asked_of(self, name: str) -> dict[str, Any]:
        """The options that the recipe sets, by their names, for the backbone of this name."""
        asked = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "start"}
        if self.start == "scratch":
            asked["weights"] = None
        asked = {option: value.get(name) if isinstance(value, Mapping) else value for option, value in asked.items()}
        return {option: value for option, value in asked.items() if value is not None}


LEARNING = {"frozen_stages": 0, "norms": "train"}
"""What a network of random weights gets in place of what a recipe freezes of a pretrained one, as in torchvision."""
NOTHING_TO_CHOOSE = ("norms", "drop_path", "last_conv", "tap_expansion", "dilation")
"""A backbone without these has no batch normalisation, no residual branch that is dropped, no such convolution, no
expansion, and one way to dilate."""


def complete_backbone(
    asked: HostOptions, backbone: dict[str, Any], explicit: dict[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """The backbone of a configuration, with what its recipe asks for wherever nobody has written anything else.

    Args:
        asked: What the recipe asks for.
        backbone: `class_path` and `init_args`, defaults included.
        explicit: What has been written down of the model, in files or on the command line. What is filled in is added.
        arguments: The command line, where `--host.OPTION` is taken instead of what a backbone's file says.

    Raises:
        TaskError: The backbone has no such option.
    """
    class_path, options = backbone["class_path"], dict(backbone.get("init_args", {}))
    written = explicit.setdefault("backbone", {}).setdefault("init_args", {})
    for option, value in asked.asked_of(class_path.rpartition(".")[2]).items():
        if option in written and not _is_commanded(option, arguments):
            continue
        if asked.start == "scratch" and not _is_commanded(option, arguments):
            value = LEARNING.get(option, value)
        if option in options:
            options[option] = written[option] = value
        elif option not in NOTHING_TO_CHOOSE:
            raise TaskError(
                f"{class_path} has no {option}, and the recipe asks for {option}={value}; take another backbone, or go "
                f"without: --host.{option} null"
            )
    is_pretrained = asked.start == "pretrained_host" and options.get("weights")
    for place in ("attention", "attention_between"):
        attention = options.get(place)
        if is_pretrained and attention and attention["class_path"].rpartition(".")[2] != IdentityStart.__name__:
            options[place] = written[place] = {
                "class_path": f"attention.{IdentityStart.__name__}",
                "init_args": {"operator": attention},
            }
    return {"class_path": class_path, "init_args": options}


def _is_commanded(option: str, arguments: Sequence[str]) -> bool:
    """Whether the command line gives the option of the host, and not that of the backbone."""
    names = [argument.partition("=")[0] for argument in arguments]
    return f"--host.{option}" in names and f"--model.backbone.{option}" not in names
