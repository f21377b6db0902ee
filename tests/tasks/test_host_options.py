"""What a recipe asks of whatever backbone is chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention import BAM, CBAM, IdentityStart, NonLocal
from attention.base import Operator
from backbones import Backbone, ResNet
from tasks.errors import TaskError
from tasks.host_options import HostOptions, complete_backbone
from tests.selection import mostly_slow
from tests.tasks.building import CONFIGS, build_task

CBAM_OPTIONS = {"class_path": "attention.CBAM", "init_args": {"reduction": 4}}
RESNET = {
    "depth": 50,
    "attention": CBAM_OPTIONS,
    "output_stride": 32,
    "frozen_stages": 0,
    "norms": "train",
    "weights": None,
}


def complete(asked: HostOptions, written: dict[str, Any], *arguments: str, **options: Any) -> dict[str, Any]:
    backbone = {"class_path": "backbones.ResNet", "init_args": {**RESNET, **options, **written}}
    return complete_backbone(asked, backbone, {"backbone": {"init_args": {**written}}}, arguments)["init_args"]


def test_what_the_backbone_leaves_unsaid_is_filled_in() -> None:
    asked = HostOptions(weights="imagenet", frozen_stages=2, norms="eval", output_stride=8, drop_path=0.3)
    filled = {"weights": "imagenet", "frozen_stages": 2, "norms": "eval", "output_stride": 8}
    assert complete(asked, {}) == RESNET | filled  # a ResNet drops no paths
    assert complete(asked, {"frozen_stages": 0, "weights": None}) == RESNET | {"norms": "eval", "output_stride": 8}


def test_the_command_line_is_taken_before_a_file_and_the_option_of_the_backbone_before_that_of_the_host() -> None:
    asked, written = HostOptions(frozen_stages=1), {"frozen_stages": 3}
    assert complete(asked, written)["frozen_stages"] == 3
    assert complete(asked, written, "--host.frozen_stages", "1")["frozen_stages"] == 1
    assert complete(asked, written, "--host.frozen_stages=1", "--model.backbone.frozen_stages=3")["frozen_stages"] == 3


def test_what_is_filled_in_counts_as_written() -> None:
    explicit: dict[str, Any] = {}
    complete_backbone(HostOptions(norms="eval"), {"class_path": "backbones.ResNet", "init_args": RESNET}, explicit, ())
    assert explicit == {"backbone": {"init_args": {"norms": "eval"}}}


def test_a_host_that_cannot_have_it_refuses() -> None:
    backbone = {"class_path": "backbones.swin_t", "init_args": {"drop_path": 0.2, "frozen_stages": 0, "weights": None}}
    with pytest.raises(TaskError) as refusal:
        complete_backbone(HostOptions(output_stride=8), backbone, {}, ())
    assert str(refusal.value) == (
        "backbones.swin_t has no output_stride, and the recipe asks for output_stride=8; take another backbone, or go "
        "without: --host.output_stride null"
    )
    assert complete_backbone(HostOptions(norms="eval"), backbone, {}, ()) == backbone  # it has no batch normalisation


@pytest.mark.parametrize(("name", "rate"), [("swin_t", 0.1), ("swin_s", 0.3), ("swin_b", 0.5)])
def test_drop_path_of_each_backbone(name: str, rate: float) -> None:
    backbone = {"class_path": f"backbones.{name}", "init_args": {"drop_path": 0.5}}
    asked = HostOptions(drop_path={"swin_t": 0.1, "swin_s": 0.3})
    assert complete_backbone(asked, backbone, {}, ())["init_args"] == {"drop_path": rate}


def test_maps_inside_blocks_are_asked_of_all_or_of_some_that_have_them() -> None:
    for asked, expected in ((True, True), ({"MobileNeXt": True}, True), ({"mobilenext": True}, False)):
        backbone = {"class_path": "backbones.MobileNeXt", "init_args": {"tap_expansion": False}}
        found = complete_backbone(HostOptions(tap_expansion=asked), backbone, {}, ())["init_args"]
        assert found == {"tap_expansion": expected}
        assert "tap_expansion" not in complete(HostOptions(tap_expansion=asked), {})  # a ResNet has none


def test_dilation_is_asked_of_hosts_with_a_choice() -> None:
    asked = HostOptions(dilation="mmsegmentation")
    assert complete(asked, {}, dilation="a_trous")["dilation"] == "mmsegmentation"
    assert "dilation" not in complete(asked, {})


def test_random_weights_are_not_frozen_unless_the_command_line_says_so() -> None:
    asked = HostOptions(start="scratch", weights="imagenet", frozen_stages=2, norms="eval")
    options = complete(asked, {})
    assert (options["weights"], options["frozen_stages"], options["norms"]) == (None, 0, "train")
    options = complete(asked, {}, "--host.start=scratch", "--host.frozen_stages=2")
    assert (options["frozen_stages"], options["norms"]) == (2, "train")
    options = complete(HostOptions(start="pretrained_host", frozen_stages=2, norms="eval"), {})
    assert (options["frozen_stages"], options["norms"]) == (2, "eval")


@pytest.mark.parametrize(
    ("start", "weights", "wraps"),
    [("pretrained_host", "imagenet", True), ("pretrained", "file.pth", False), ("scratch", "imagenet", False)],
)
def test_a_refinement_in_a_pretrained_host_starts_as_the_identity(start: Any, weights: str, wraps: bool) -> None:
    options = complete(HostOptions(start=start, weights=weights), {})
    wrapped = {"class_path": "attention.IdentityStart", "init_args": {"operator": CBAM_OPTIONS}}
    assert options["attention"] == (wrapped if wraps else CBAM_OPTIONS)
    assert options["weights"] == (None if start == "scratch" else weights)
    assert complete(HostOptions(start="pretrained_host"), {})["attention"] == CBAM_OPTIONS  # without weights
    again = complete(HostOptions(start=start, weights=weights), {}, attention=options["attention"])
    assert again["attention"] == options["attention"]
    between = complete(HostOptions(start=start, weights=weights), {}, attention=None, attention_between=CBAM_OPTIONS)
    assert between["attention_between"] == (wrapped if wraps else CBAM_OPTIONS) and between["attention"] is None


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 as torchvision stores it, with statistics that are not those of the initialisation."""
    torch.manual_seed(0)
    host = ResNet(50)
    for module in host.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(host.state_dict(), path)
    return path


REFINED = {"resnet50_cbam": (CBAM, 16), "resnet50_bam": (BAM, 3), "resnet50_non_local": (NonLocal, 10)}
"""Within each block, between stages, and within some blocks."""


@pytest.mark.parametrize("name", mostly_slow(REFINED, {"resnet50_cbam", "resnet50_bam"}))
def test_features_at_step_0_are_those_of_the_pretrained_host(name: str, published: Path, shapes: Path) -> None:
    recipe = CONFIGS / "detect" / "retinanet_1x.yaml"
    backbone = build_task(recipe, shapes, f"--model.backbone={name}", f"--host.weights={published}").model.backbone
    assert isinstance(backbone, Backbone)
    host = ResNet(50, weights=str(published))
    host.use_maps((1, 2, 3))  # those of a RetinaNet
    image = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        for one, other in zip(host.eval()(image), backbone.eval()(image), strict=True):
            assert torch.equal(one, other)
    kind, count = REFINED[name]
    kinds = [type(module) for module in backbone.modules() if isinstance(module, Operator)]
    assert kinds.count(IdentityStart) == kinds.count(kind) == count


def test_the_recipe_says_what_norms_and_frozen_stages_of_one_backbone_do(published: Path, shapes: Path) -> None:
    """RetinaNet keeps the statistics of the pretrained network; UPerNet trains them."""
    options = ("--model.backbone=resnet50_cbam", f"--host.weights={published}")
    detector = build_task(CONFIGS / "detect" / "retinanet_1x.yaml", shapes, *options).train()
    segmentor = build_task(CONFIGS / "segment" / "upernet_160k.yaml", shapes, *options).train()
    for task, stages, learns in ((detector, 2, False), (segmentor, 0, True)):
        backbone = task.model.backbone
        assert isinstance(backbone, ResNet) and backbone.frozen_stages == stages
        assert [norm.training for norm in (backbone.layer2[0].bn1, backbone.layer4[2].bn3)] == [learns, learns]
        assert backbone.layer1[0].conv1.weight.requires_grad is learns
        attention = backbone.layer1[0].attention
        assert isinstance(attention, IdentityStart) and all(part.requires_grad for part in attention.parameters())


def test_attention_in_frozen_stages_learns(published: Path, shapes: Path) -> None:
    task = build_task(
        CONFIGS / "detect" / "retinanet_1x.yaml",
        shapes,
        "--model.backbone=resnet50_cbam",
        f"--host.weights={published}",
    )
    frozen = [name for name, parameter in task.model.backbone.named_parameters() if not parameter.requires_grad]
    operators = [name for name, module in task.model.backbone.named_modules() if isinstance(module, Operator)]
    assert frozen and not [name for name in frozen if name.startswith(tuple(f"{operator}." for operator in operators))]
