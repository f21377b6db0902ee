"""Every class of hosts under every detector and segmentor: no parameter is left over, or distributed training ends."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from backbones import Backbone
from tasks.base import auxiliary_losses
from tasks.class_tensors import DenseModel
from tasks.detectors import FCOS, Detector, FocalSSDLite320, MaskRCNN, RetinaNet, SSDLite320
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions
from tasks.losses import sum_losses
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.head_steps import data_samples, head_losses
from tests.backbones.small_hosts import SMALL_HOSTS

K = 3
SIDES = {"vgg": 32, "attention_cnn": 32}  # pixels, where 64 take long
NARROW = {"channels": 8}


def segmentor(head: dict, auxiliary: bool = False, neck: bool = False) -> Callable[[Backbone], DenseModel]:
    """A segmentor without dropout; an auxiliary head reads the last map but one, a neck leaves the finest map out."""

    def build(backbone: Backbone) -> DenseModel:
        maps = len(backbone.channels)
        second = {"type": "FCNHead", "num_convs": 1, "in_index": max(0, maps - 2), "dropout_ratio": 0.0, **NARROW}
        pyramid = {"type": "FPN", "out_channels": 8, "num_outs": maps - 1, "start_level": 1}
        first = {**NARROW, "dropout_ratio": 0.0, **head}
        return EncoderDecoder(backbone, K, first, second if auxiliary else None, pyramid if neck else None)

    return build


HEADS: dict[str, Callable[[Backbone], DenseModel]] = {
    "fcos": lambda backbone: FCOS(backbone, K, channels=32, num_convs=1),
    "retinanet": lambda backbone: RetinaNet(backbone, K, channels=32),
    "ssdlite": lambda backbone: SSDLite320(backbone, K, extra_channels=(32, 32, 32, 32)),
    "focal_ssdlite": lambda backbone: FocalSSDLite320(backbone, K),
    "mask_rcnn": lambda backbone: MaskRCNN(
        backbone,
        K,
        channels=8,
        box_head=BoxHeadOptions(convs=1, conv_channels=8, fcs=1, fc_channels=16),
        mask_head=MaskHeadOptions(convs=1, channels=8),
    ),
    "upernet": segmentor({"type": "UPerHead", "pool_scales": [1, 2]}, auxiliary=True),
    "fcn": segmentor({"type": "FCNHead", "num_convs": 1}),
    "fcn_of_the_finest_map": segmentor({"type": "FCNHead", "num_convs": 1, "in_index": 0}),
    "pspnet": segmentor({"type": "PSPHead", "pool_scales": [1, 2]}),
    "deeplabv3": segmentor({"type": "ASPPHead", "dilations": [1, 2]}, auxiliary=True),
    "deeplabv3plus": segmentor({"type": "DepthwiseSeparableASPPHead", "dilations": [1, 2], "c1_channels": 4}),
    "segformer": segmentor({"type": "SegformerHead"}),
    "segmenter": segmentor({"type": "SegmenterMaskTransformerHead", "num_layers": 1, "num_heads": 2, "embed_dims": 8}),
    "semantic_fpn": segmentor({"type": "FPNHead"}, neck=True),
}
FAST = {"vgg": ("fcn_of_the_finest_map",), "timm_halo": ("upernet",)}  # of the large hosts one head each
EVERYWHERE = ("retinanet", "upernet", "fcn_of_the_finest_map")  # the other pairs of head and host are slow tests
# Pairs that are refused, with the words.
REFUSED = {("semantic_fpn", "attention_cnn"): "this network has 1 feature maps"}  # and the neck begins with the second
REFUSED |= {
    (head, host): r"SSDLite320 needs 16 and 32"
    for host in ("attention_cnn", "elsa_volo", "volo")
    for head in ("ssdlite", "focal_ssdlite")
}
REFUSED |= {("mask_rcnn", host): "MaskRCNN needs 4, 8, 16 and 32" for host in ("elsa_volo", "volo")}
# Parameters whose gradient may be zero, as patterns of whole names.
ZERO = (
    r"head\.regression_head\.bbox_reg\.(weight|bias)",  # FCOS: behind a ReLU, which so few steps may leave at zero
    r"extras\.\d\.[47]\.bias",  # SSDLite of coordinate attention's authors: of what is normalised next
    r"head\.(classification|regression)_head\.module_list\.\d\.0\.bias",
    r"head\.regression_head\.module_list\.4\.\d\.(weight|bias)",  # the same: its 2 x 2 boxes are beside the objects
)


def batch_of(side: int) -> dict:
    """Two images of noise with a random mask, and an object in the size of every level of SSDLite's default boxes."""
    generator = torch.Generator().manual_seed(0)
    extents = (side * scale / 2 for scale in (0.2, 0.35, 0.5, 0.65, 0.8, 0.95))
    centres = (side / 8, side / 4, *[side / 2] * 4)
    boxes = [[c - half, c - half, c + half, c + half] for c, half in zip(centres, extents, strict=True)]
    target = {
        "boxes": torch.tensor(boxes),
        "labels": torch.arange(6) % K,
        "masks": torch.randint(0, 2, (6, side, side), generator=generator, dtype=torch.uint8),
        "original_size": torch.tensor([side, side]),
    }
    return {
        "image": torch.randint(0, 256, (2, 3, side, side), generator=generator, dtype=torch.uint8),
        "size": torch.tensor([[side, side]] * 2),
        "mask": torch.randint(0, K, (2, side, side), generator=generator, dtype=torch.uint8),
        "targets": [target, target],
    }


def left_over(model: DenseModel, side: int) -> tuple[set[str], set[str]]:
    """Trainable parameters without a gradient after one step, and those whose gradient is zero in two steps."""
    batch = batch_of(side)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.Adam(trainable.values(), lr=1e-3)
    sum_losses({**model(batch), **auxiliary_losses(model)}).backward()
    without = {name for name, parameter in trainable.items() if parameter.grad is None}
    zero = {name for name, parameter in trainable.items() if parameter.grad is None or not parameter.grad.any()}
    optimizer.step()
    optimizer.zero_grad()
    sum_losses({**model(batch), **auxiliary_losses(model)}).backward()
    return without, {name for name in zero if trainable[name].grad is None or not trainable[name].grad.any()}


@pytest.mark.parametrize(
    ("head", "host"),
    [
        pytest.param(head, host, marks=() if host == "swin" or head in FAST.get(host, EVERYWHERE) else pytest.mark.slow)
        for host in SMALL_HOSTS
        for head in HEADS
    ],
)
def test_every_parameter_is_used(head: str, host: str) -> None:
    torch.manual_seed(0)
    backbone = SMALL_HOSTS[host]()
    if (head, host) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[head, host]):
            HEADS[head](backbone)
        return
    model = HEADS[head](backbone)
    without, zero = left_over(model, 320 if head == "focal_ssdlite" else SIDES.get(host, 64))
    assert without == set()
    assert {name for name in zero if not any(re.fullmatch(pattern, name) for pattern in ZERO)} == set()


def librarys_losses(head: str, model: Detector, batch: dict) -> dict[str, torch.Tensor]:
    """What torchvision's model of the same parts returns."""
    images = model.image_list(batch)
    maps = model.neck(model.backbone(images.tensors))
    outputs, anchors, targets = model.head(maps), model.anchor_generator(images, maps), batch["targets"]
    parts = SimpleNamespace(head=model.head, box_coder=model.box_coder, neg_to_pos_ratio=3, center_sampling_radius=1.5)
    if head == "ssdlite":
        targets = [{**target, "labels": target["labels"] + 1} for target in targets]
        matches = [SSDMatcher(0.5)(box_iou(t["boxes"], a)) for t, a in zip(targets, anchors, strict=True)]
        return SSD.compute_loss(parts, targets, outputs, anchors, matches)
    if head == "fcos":
        return detection.FCOS.compute_loss(parts, targets, outputs, anchors, [level[0, 0].numel() for level in maps])
    parts.proposal_matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return detection.RetinaNet.compute_loss(parts, targets, outputs, anchors)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("focal_ssdlite", "mask_rcnn")])
def test_the_total_is_the_librarys_own(head: str) -> None:
    """torchvision's reference training sums all that its models return; MMSegmentation trains on `parse_losses`."""
    from mmengine.model import BaseModel

    torch.manual_seed(0)
    model = HEADS[head](SMALL_HOSTS["resnet"]()).eval()
    model.training = True  # norms in evaluation mode: equal in every call
    batch = batch_of(64)
    output = model(batch)
    if isinstance(model, EncoderDecoder):
        image = model.normalization(batch["image"], batch["size"])
        features, samples = model.features(image), data_samples(batch["mask"])
        heads = {"decode": model.decode_head, "aux": model.auxiliary_head}
        own = {
            f"{prefix}.{name}": value
            for prefix, part in heads.items()
            if part is not None
            for name, value in part.loss(features, samples, train_cfg=None).items()
        }
        expected, _ = BaseModel.parse_losses(None, own)
        assert len(output) + len(output.numbers) == len(own) and output.numbers.keys() <= {"acc_seg", "aux_acc_seg"}
    else:
        expected = sum(librarys_losses(head, model, batch).values())
        assert output.numbers == {} and not any("loss" in name for name in output)
    torch.testing.assert_close(sum_losses(output), expected)


def test_what_a_head_measures_is_not_minimised() -> None:
    """A number that is no loss by name is logged beside the losses; lists of losses count by their sum."""

    class Measuring(torch.nn.Module):
        def loss(self, features: list, samples: list, train_cfg: None) -> dict:
            stages = [torch.tensor([1.0, 3.0]), torch.tensor(5.0)]
            return {"loss_mask": torch.tensor([2.0, 4.0]), "recall": torch.tensor(50.0), "d1.loss_dice": stages}

    losses = head_losses(Measuring(), [], [], "aux_")
    assert losses.keys() == {"aux_loss_mask", "aux_d1.loss_dice"} and losses.numbers == {"aux_recall": 50}
    assert sum_losses(losses) == 3 + 2 + 5
