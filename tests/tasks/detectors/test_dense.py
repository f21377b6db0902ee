"""What dense detectors share: which boxes are handed out, and anchors in crowd regions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import generalized_box_iou_loss, nms, sigmoid_focal_loss

from backbones import MobileNetV2
from tasks.detectors import FCOS, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.detectors.crowds import inside_crowds
from tasks.detectors.dense import DenseDetector
from tasks.detectors.focal import focal_loss
from tasks.detectors.giou import giou_loss
from tasks.detectors.selection import Selection

K = 5
DETECTORS: dict[str, Callable[..., DenseDetector]] = {
    "retinanet": lambda **o: RetinaNet(MobileNetV2(0.25), K, channels=32, **o),
    "fcos": lambda **o: FCOS(MobileNetV2(0.25), K, channels=64, num_convs=1, **o),
    "ssdlite": lambda **o: SSDLite320(MobileNetV2(0.25, last_conv=True), K, **o),
    "focal_ssdlite": lambda **o: FocalSSDLite320(MobileNetV2(0.25, last_conv=True), K, **o),
}


def select_slowly(selection: Selection, scores: Tensor, boxes: Tensor, ends: list[int]) -> list[tuple[int, int]]:
    """(anchor, class) of the boxes that are handed out, strongest first: group by group, class by class."""
    pairs = [(score, anchor, label) for anchor, row in enumerate(scores.tolist()) for label, score in enumerate(row)]
    pairs = sorted((pair for pair in pairs if pair[0] > selection.score_threshold), reverse=True)
    groups: dict[int, list] = {}
    for pair in pairs:
        level = sum(pair[1] >= end for end in ends)
        groups.setdefault(pair[2] if selection.per_class else level, []).append(pair)
    taken = [pair for group in groups.values() for pair in group[: selection.candidates]]
    found = []
    for label in range(scores.shape[1]):
        own = [pair for pair in taken if pair[2] == label]
        if own:
            kept = nms(boxes[[pair[1] for pair in own]], torch.tensor([p[0] for p in own]), selection.nms_threshold)
            found += [own[place] for place in kept.tolist()]
    return [(anchor, label) for _, anchor, label in sorted(found, reverse=True)[: selection.max_detections]]


@pytest.mark.parametrize(("candidates", "per_class"), [(None, False), (40, True), (120, False)])
@pytest.mark.parametrize(("threshold", "spread"), [(0.2, 100.0), (0.7, 100.0), (0.2, 1.0), (0.9999, 1.0)])
def test_selection_equals_the_slow_one(
    threshold: float, spread: float, candidates: int | None, per_class: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first candidates suffice, and where nearly all boxes cover each other and more are needed."""
    monkeypatch.setattr("tasks.detectors.selection._FIRST", 60)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(230, 2, generator=generator) * spread
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand(230, 2, generator=generator)], dim=1)
    scores = torch.rand(230, 7, generator=generator)
    selection = Selection(threshold, 0.5, 50, candidates, per_class)
    expected = select_slowly(selection, scores, boxes, [150, 210, 230])
    found = selection(scores, lambda chosen: boxes[chosen], torch.tensor([150, 210, 230]))
    pairs = torch.tensor(expected, dtype=torch.int64).reshape(-1, 2)
    assert torch.equal(found["boxes"], boxes[pairs[:, 0]]) and torch.equal(found["labels"], pairs[:, 1])
    assert torch.equal(found["scores"], scores[pairs[:, 0], pairs[:, 1]])


def test_focal_loss_equals_torchvisions() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 40, 6, dtype=torch.float64) * 8).requires_grad_()
    labels = torch.randint(-2, 6, (3, 40))
    wanted = torch.zeros(3, 40, 7).scatter_(2, labels.remainder(7)[..., None], 1)[..., :6]
    wanted[labels < 0] = 0
    expected = sigmoid_focal_loss(logits, wanted.double(), reduction="none").sum(-1) * (labels > -2)
    found = focal_loss(logits, labels)
    torch.testing.assert_close(found, expected)
    weights = torch.rand(3, 40)
    gradients = [torch.autograd.grad((loss * weights).sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_giou_loss_equals_torchvisions() -> None:
    torch.manual_seed(0)
    corners = torch.rand(2, 500, 2, dtype=torch.float64) * 3  # about half of the pairs do not touch
    boxes = torch.cat([corners, corners + torch.rand(2, 500, 2, dtype=torch.float64) * 2], dim=2).requires_grad_()
    losses = [loss(boxes[0], boxes[1]) for loss in (giou_loss, generalized_box_iou_loss)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), boxes)[0] for loss in losses))


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for a GPU: sizes and numbers that depend on values."""

    NAMES = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if len(args) > 2 and indices and args[2].numel() == 1:
            indices = ()  # of a mask and one number PyTorch makes a fill
        if name in self.NAMES or any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DETECTORS)
def test_training_does_not_wait_for_the_device(name: str) -> None:
    side = 320 if "ssd" in name else 128
    boxes = torch.tensor([[0.2, 0.1, 0.9, 0.8], [0.5, 0.4, 0.6, 0.7]]) * side
    target = {"boxes": boxes, "labels": torch.tensor([2, 0]), "crowd": boxes[1:]}
    image = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    batch = {"image": image, "size": torch.tensor([[side, side], [side, 90]]), "targets": [target, target]}
    model = DETECTORS[name](ignore_crowds=True)
    with Waits() as waits:
        sum(model(batch).values()).backward()
    assert waits.found == []
    with Waits() as waits:  # as evaluation must
        model.eval()(batch | {"targets": [{"original_size": torch.tensor([side, side])}] * 2})
    assert waits.found


class TestCrowds:
    def test_half_of_a_boxs_own_area(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [0, 0, 40, 40], [30, 30, 32, 34]])
        crowds = torch.tensor([[0.0, 0, 10, 20], [29, 29, 50, 50]])
        assert inside_crowds(boxes, crowds).tolist() == [True, True, False, False, True]
        assert inside_crowds(boxes, crowds[:0]).tolist() == [False] * 5

    @pytest.mark.parametrize("name", DETECTORS)
    def test_anchors_inside_take_no_part(self, name: str) -> None:
        """Neither a gradient nor, in what the others cost, a trace; unless asked for, all take part."""
        side = 320 if "ssd" in name else 128
        crowd = torch.tensor([[0.0, 0.0, side / 2, side]])
        target = {"boxes": torch.tensor([[0.55, 0.1, 0.95, 0.9]]) * side, "labels": torch.tensor([2]), "crowd": crowd}
        image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        batch = {"image": image, "size": torch.tensor([[side, side]]), "targets": [target]}
        torch.manual_seed(0)
        plain = DETECTORS[name]().eval()
        ignoring = DETECTORS[name](ignore_crowds=True).eval()
        ignoring.load_state_dict(plain.state_dict())
        losses = []
        for model in (plain, ignoring):
            model.training = True
            kept: dict[str, Tensor] = {}
            model.head.register_forward_hook(lambda _, __, output, kept=kept: kept.update(output))
            losses.append(model(batch))
            kept["cls_logits"].retain_grad()
            sum(losses[-1].values()).backward()
            maps = model.neck(model.backbone(model.image_list(batch).tensors))
            inside = inside_crowds(model.anchors(model.image_list(batch), maps)[0], crowd)
            touched = kept["cls_logits"].grad[0].abs().sum(1) > 0
            assert inside.any() and (~inside).any()
            assert not touched[inside].any() if model is ignoring else touched[inside].any()
            assert touched[~inside].any()
        assert losses[0]["classification"] > losses[1]["classification"] > 0
        without = {**batch, "targets": [{name: target[name] for name in ("boxes", "labels")}]}
        assert ignoring(without)["classification"] == losses[0]["classification"]
