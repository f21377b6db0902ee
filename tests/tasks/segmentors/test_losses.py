"""Losses by slow references: ignored pixels, class weights, one logit for two classes; and in half precision."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones import MobileNetV2
from tasks.losses import sum_losses
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.class_weights import balanced_weights
from tests.tasks.segmentors.test_segmentors import make_batch

K = 3
IGNORED = 255
WEIGHTS = [0.5, 2.0, 1.25]


def build(config: dict[str, Any]) -> Any:
    from tasks.segmentors import losses

    return {found.__name__: found for found in losses.OWN}[config["type"]](
        **{name: value for name, value in config.items() if name != "type"}
    )


def case(channels: int = K, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits (2, C, 3, 4) and labels, some of which are ignored."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, channels, 3, 4, generator=generator) * 2
    labels = torch.randint(0, max(channels, 2), (2, 3, 4), generator=generator)
    return logits, labels.masked_fill(torch.rand(2, 3, 4, generator=generator) < ignored, IGNORED)


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """Softmax of every labelled pixel and its class; of one logit, the sigmoid's two probabilities."""
    found = []
    for image, mask in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for row, classes in enumerate(mask):
            for column, label in enumerate(classes):
                if label != IGNORED:
                    scores = [plane[row][column] for plane in image]
                    scores = [0.0, *scores] if len(scores) == 1 else scores
                    total = sum(map(math.exp, scores))
                    found.append(([math.exp(score) / total for score in scores], label))
    return found


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return sum(-math.log(p[label]) for p, label in pixels(logits, labels)) / labels.numel()


def weighted_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    seen = pixels(logits, labels)
    return sum(-WEIGHTS[k] * math.log(p[k]) for p, k in seen) / sum(WEIGHTS[k] for _, k in seen)


def mean_of_labelled(logits: Tensor, labels: Tensor) -> float:
    seen = pixels(logits, labels)
    return sum(-math.log(p[label]) for p, label in seen) / len(seen)


def yes_or_no(logits: Tensor, labels: Tensor) -> float:
    """Binary cross-entropy of every class, the positive ones weighted by class; the mean over pixels and classes."""
    total = 0.0
    for image, mask in zip(logits.double(), labels, strict=True):
        for k, plane in enumerate(image):
            for score, label in zip(plane.flatten().tolist(), mask.flatten().tolist(), strict=True):
                if label != IGNORED:
                    p = 1 / (1 + math.exp(-score))
                    total -= WEIGHTS[k] * math.log(p) if label == k else math.log(1 - p)
    return total / logits.numel()


def ohem(logits: Tensor, labels: Tensor) -> float:
    """Of at least 5 pixels, and all whose own class has a probability below 0.2."""
    own = sorted(p[label] for p, label in pixels(logits, labels))
    threshold = max(0.2, own[min(5, len(own) - 1)])
    hard = [-math.log(p) for p in own if p < threshold]
    assert 5 <= len(hard) < len(own)
    return sum(hard) / len(hard)


def dice(logits: Tensor, labels: Tensor) -> float:
    """One minus twice the product of probabilities and labels over their squares, for each image."""
    images = []
    for image, mask in zip(logits, labels, strict=True):
        seen = pixels(image[None], mask[None])
        if image.shape[0] == 1:  # the foreground alone
            seen = [(p[1:], label - 1) for p, label in seen]
        product = sum(p[label] for p, label in seen if label >= 0)
        squares = sum(x * x for p, _ in seen for x in p) + 1e-3 + sum(label >= 0 for _, label in seen) + 1e-3
        images.append(1 - 2 * product / squares)
    return sum(images) / len(images)


def lovasz(logits: Tensor, labels: Tensor) -> float:
    """The extension of 1 - IoU: errors in falling order, each times how much IoU falls when it is made as well."""
    seen = pixels(logits, labels)
    terms = []
    for k in sorted({label for _, label in seen}):
        errors = sorted(((abs((label == k) - p[k]), label == k) for p, label in seen), reverse=True)
        positives, missed, extra, before, total = sum(own for _, own in errors), 0, 0, 0.0, 0.0
        for error, own in errors:
            missed, extra = missed + own, extra + (not own)
            jaccard = 1 - (positives - missed) / (positives + extra)
            total, before = total + error * (jaccard - before), jaccard
        terms.append(total)
    return sum(terms) / len(terms)


def focal(logits: Tensor, labels: Tensor) -> float:
    total = 0.0
    for image, mask in zip(logits.double(), labels, strict=True):
        for k, plane in enumerate(image):
            for score, label in zip(plane.flatten().tolist(), mask.flatten().tolist(), strict=True):
                if label != IGNORED:
                    p = 1 / (1 + math.exp(-score))
                    positive = label == (k if len(image) > 1 else 1)
                    total -= 0.25 * (1 - p) ** 2 * math.log(p) if positive else 0.75 * p**2 * math.log(1 - p)
    return total / logits.numel()


CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], float]]] = {
    "cross-entropy": ({"type": "CrossEntropyLoss"}, cross_entropy),
    "labelled pixels": ({"type": "CrossEntropyLoss", "avg_non_ignore": True}, mean_of_labelled),
    "class weights": (
        {"type": "CrossEntropyLoss", "class_weight": WEIGHTS, "avg_non_ignore": True},
        weighted_cross_entropy,
    ),
    "yes or no": ({"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": WEIGHTS}, yes_or_no),
    "ohem": ({"type": "OhemCrossEntropy", "thres": 0.2, "min_kept": 5}, ohem),
    "dice": ({"type": "DiceLoss", "use_sigmoid": False}, dice),
    "lovasz": ({"type": "LovaszLoss"}, lovasz),
    "focal": ({"type": "FocalLoss", "alpha": 0.25}, focal),
}
ONE_LOGIT = {
    "cross-entropy": ({"type": "CrossEntropyLoss", "use_sigmoid": True}, cross_entropy),
    "class weights": (
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": WEIGHTS[:2]},
        weighted_cross_entropy,
    ),
    "dice": ({"type": "DiceLoss"}, dice),
    **{name: CASES[name] for name in ("labelled pixels", "ohem", "lovasz", "focal")},
}


def assert_equal_to(config: dict[str, Any], reference: Callable[[Tensor, Tensor], float], channels: int) -> None:
    logits, labels = case(channels)
    logits.requires_grad_()
    loss = build({**config, "loss_weight": 1.5})
    found = loss(logits, labels, ignore_index=IGNORED)
    assert found.item() == pytest.approx(1.5 * reference(logits.detach(), labels), rel=1e-5)
    found.backward()
    ignored = (labels == IGNORED).unsqueeze(1).expand_as(logits)
    assert not logits.grad[ignored].any() and logits.grad[~ignored].any()
    # Batches in which nothing, or a single pixel, has a label.
    nothing = torch.full_like(labels, IGNORED)
    logits.grad = None
    empty = loss(logits, nothing, ignore_index=IGNORED)
    empty.backward()
    assert empty == 0 and logits.grad is not None and not logits.grad.any()
    nothing[1, 2, 3] = 1
    assert loss(logits, nothing, ignore_index=IGNORED).isfinite()


@pytest.mark.parametrize("name", CASES)
def test_of_all_classes(name: str) -> None:
    assert_equal_to(*CASES[name], K)


@pytest.mark.parametrize("name", ONE_LOGIT)
def test_of_one_logit(name: str) -> None:
    assert_equal_to(*ONE_LOGIT[name], 1)


def test_mmsegmentations_own_where_they_hold() -> None:
    from mmseg.models import losses as theirs

    logits, labels = case()
    whole = labels.where(labels != IGNORED, 2)
    arguments = {"ignore_index": IGNORED}
    for config, mask in (
        ({"type": "CrossEntropyLoss"}, labels),
        ({"type": "CrossEntropyLoss", "class_weight": WEIGHTS}, labels),
        ({"type": "CrossEntropyLoss", "avg_non_ignore": True}, labels),
        ({"type": "CrossEntropyLoss", "use_sigmoid": True}, labels),
        ({"type": "DiceLoss", "use_sigmoid": False}, whole),
        ({"type": "DiceLoss", "naive_dice": True}, whole),
        ({"type": "LovaszLoss", "reduction": "none", "class_weight": WEIGHTS}, labels),
        ({"type": "LovaszLoss", "per_image": True}, labels),
        ({"type": "OhemCrossEntropy", "thres": 0.6, "min_kept": 3, "class_weight": WEIGHTS}, labels),
    ):
        options = {name: value for name, value in config.items() if name != "type"}
        peer = getattr(theirs, config["type"])(**options)
        expected = peer(logits, mask) if config["type"] == "OhemCrossEntropy" else peer(logits, mask, **arguments)
        torch.testing.assert_close(build(config)(logits, mask, **arguments), expected)


def test_binary_lovasz_is_mmsegmentations_hinge() -> None:
    from mmseg.models.losses.lovasz_loss import lovasz_hinge

    logits, labels = case(1)
    found = build({"type": "LovaszLoss", "loss_type": "binary"})(logits, labels, ignore_index=IGNORED)
    torch.testing.assert_close(found, lovasz_hinge(logits[:, 0], labels, ignore_index=IGNORED))


HALF = {
    "class weights": {"type": "CrossEntropyLoss", "class_weight": [1.0, 0.5, 2.0, 1.0, 0.25, 3.0, 1.0]},
    "ohem": {"type": "OhemCrossEntropy", "min_kept": 500},
    "dice": {"type": "DiceLoss", "use_sigmoid": False},
    "lovasz": {"type": "LovaszLoss"},
    "focal": {"type": "FocalLoss"},
}


@pytest.mark.parametrize("head", ["CAAHead", "FCNHead"])
def test_mixed_precision_changes_losses_by_less_than_two_percent(head: str) -> None:
    """All losses at once, which is also how a config combines them."""
    torch.manual_seed(0)
    config = {"type": head, "channels": 16, "dropout_ratio": 0.0, "loss_decode": list(HALF.values())}
    model = EncoderDecoder(MobileNetV2(0.25, output_stride=16), 7, config)
    batch = make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    batch["mask"][:, :20] = IGNORED
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    assert expected.keys() == {"loss_ce", "loss_ohem", "loss_dice", "loss_lovasz", "loss_focal"}
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close({**found}, {**expected}, rtol=0.02, atol=0)
    sum_losses(found).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class TestClassWeights:
    def test_balanced(self) -> None:
        """Every class with pixels has the same share of the weight of all pixels."""
        counts = [10, 0, 30, 60]
        weights = balanced_weights(counts)
        assert [n * w for n, w in zip(counts, weights, strict=True)] == pytest.approx([100 / 3, 0, 100 / 3, 100 / 3])

    @pytest.mark.parametrize("form", ["json", "npy", "txt", "list"])
    def test_from_counts(self, form: str, tmp_path: Path) -> None:
        counts = [4, 1, 5]
        path = tmp_path / f"counts.{form}"
        if form == "npy":
            np.save(path, np.array(counts))
        else:
            path.write_text(json.dumps(counts) if form == "json" else "\n".join(map(str, counts)))
        loss = {"type": "CrossEntropyLoss", "class_weight": "balanced"}
        head = {"type": "FCNHead", "channels": 8, "num_convs": 1, "loss_decode": [loss, {"type": "LovaszLoss"}]}
        loss["pixel_counts"] = counts if form == "list" else str(path)
        first, second = EncoderDecoder(MobileNetV2(0.25), 3, head).decode_head.loss_decode
        assert first.class_weight == pytest.approx(balanced_weights(counts)) and second.class_weight is None

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"class_weight": "balanced"}, "class_weight balanced; give pixel_counts"),
            ({"class_weight": "balanced", "pixel_counts": "nowhere.json"}, "nowhere.json, which cannot be read"),
            ({"class_weight": "balanced", "pixel_counts": [1, -2, 3]}, "no list of numbers of pixels"),
            ({"class_weight": "balanced", "pixel_counts": [1, 2]}, "2 class weights for 3 classes"),
            ({"class_weight": [1.0, 2.0]}, "2 class weights for 3 classes"),
        ],
    )
    def test_refusals(self, options: dict, words: str) -> None:
        head = {"type": "FCNHead", "channels": 8, "loss_decode": {"type": "CrossEntropyLoss", **options}}
        with pytest.raises(ValueError, match=words):
            EncoderDecoder(MobileNetV2(0.25), 3, head)


def test_what_goes_wrong_in_mmsegmentation() -> None:
    """The reasons for losses of ours; where one is gone, so can ours be."""
    from mmseg.models import losses as theirs

    logits, labels = case()
    logits.requires_grad_()
    nothing = torch.full_like(labels, IGNORED)
    theirs.DiceLoss(use_sigmoid=False)(logits, labels, ignore_index=IGNORED).backward()
    assert logits.grad[(labels == IGNORED).unsqueeze(1).expand_as(logits)].any()
    foreground = torch.ones_like(labels)
    right, wrong = (theirs.DiceLoss()(torch.full((2, 1, 3, 4), score), foreground) for score in (9.0, -9.0))
    assert wrong <= right
    assert theirs.LovaszLoss(reduction="none")(logits, nothing, ignore_index=IGNORED).numel() == 0
    assert not theirs.OhemCrossEntropy()(logits, nothing).requires_grad
    with pytest.raises(TypeError):
        theirs.OhemCrossEntropy()(logits, labels, weight=None, ignore_index=IGNORED)
    with pytest.raises(IndexError):
        weighted = theirs.CrossEntropyLoss(class_weight=WEIGHTS, avg_non_ignore=True)
        weighted(logits, labels, ignore_index=IGNORED)
    with pytest.raises(RuntimeError):
        theirs.CrossEntropyLoss(use_sigmoid=True)(logits[:, :1], nothing, ignore_index=IGNORED)
    with pytest.raises((RuntimeError, ValueError)):
        theirs.FocalLoss()(logits, labels, ignore_index=IGNORED)
