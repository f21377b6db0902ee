"""Two-stage detectors and cascades as a whole: training, evaluation, and what a cascade does between its stages."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from pycocotools import mask as rle
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

from backbones import ResNet
from tasks.callbacks import StepSeed
from tasks.detectors import CascadeMaskRCNN, CascadeRCNN, FasterRCNN, MaskRCNN
from tasks.detectors.two_stage.convention import MMDETECTION, TORCHVISION
from tasks.detectors.two_stage.detector import TwoStageDetector
from tasks.detectors.two_stage.mask_head import mask_targets
from tasks.detectors.two_stage.options import ONE_STAGE, CascadeOptions
from tasks.losses import sum_losses
from tests.selection import mostly_slow
from tests.tasks.detectors.two_stage.small import BOX, BUILDERS, CONVS, MASK, RPN, SMALL, K, small_batch, spread

MASKED = ("mask", "mask_torchvision", "cascade_mask")
every_part = pytest.mark.parametrize("name", mostly_slow(BUILDERS, {*MASKED, "cascade"}))
"""In every run all but Faster R-CNN, which is a part of Mask R-CNN."""


def names_of_losses(name: str) -> set[str]:
    own = {"classification", "bbox_regression", *(["mask"] if name in MASKED else [])}
    stages = [f"stage{number}_" for number in range(3)] if name.startswith("cascade") else [""]
    return {"rpn_classification", "rpn_bbox_regression", *(stage + loss for stage in stages for loss in own)}


@every_part
def test_every_parameter_is_trained_and_losses_fall(name: str) -> None:
    torch.manual_seed(0)
    model, batch = BUILDERS[name](), small_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history, unused = [], {name for name, _ in model.named_parameters()}
    for _ in range(6):
        losses = model(batch)
        assert losses.keys() == names_of_losses(name)
        optimizer.zero_grad()
        sum_losses(losses).backward()
        optimizer.step()
        history.append(sum_losses(losses).item())
        unused -= {own for own, parameter in model.named_parameters() if parameter.grad.any()}
    assert history[-1] < history[0]
    # Anchors of stride 32 do not fit into so small an image.
    assert unused <= (
        {f"neck.fpn.layer_blocks.3.0.{kind}" for kind in ("weight", "bias")} if model.rpn.inside else set()
    )


@every_part
def test_images_without_objects(name: str) -> None:
    """They are all background; every parameter has a gradient, or distributed training would wait for it."""
    torch.manual_seed(0)
    model = BUILDERS[name]()
    losses = model(small_batch([[], []]))
    assert losses.keys() == names_of_losses(name)
    for key, loss in losses.items():
        assert torch.isfinite(loss) and (loss > 0) == key.endswith("classification"), key
    sum_losses(losses).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@every_part
def test_detections(name: str) -> None:
    """In original pixels, best first; masks of the original's size, in their boxes."""
    torch.manual_seed(0)
    model = BUILDERS[name](score_threshold=0.0, max_detections=9).eval()
    spread(model)
    with torch.no_grad():
        found = model(small_batch([[], []]))
    for detections, (height, width) in zip(found, [(192, 256), (256, 200)], strict=True):
        boxes, scores, labels = (detections[key] for key in ("boxes", "scores", "labels"))
        assert len(boxes) == len(scores) == len(labels) == 9
        assert (boxes >= 0).all() and (boxes[:, 2::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        assert boxes[:, 2].max() > width / 2
        assert (scores[:-1] >= scores[1:]).all() and 0 <= labels.min() and labels.max() < K
        assert ("masks" in detections) == model.with_masks == (name in MASKED)
        for encoded, box in zip(detections.get("masks", []), boxes, strict=False):
            assert encoded["size"] == [height, width]
            if rle.area(encoded):
                x, y, w, h = rle.toBbox(encoded)
                assert x >= box[0] - 8 and y >= box[1] - 8 and x + w <= box[2] + 8 and y + h <= box[3] + 8


@pytest.mark.parametrize("name", ["mask", "cascade_mask"])
def test_half_precision(name: str) -> None:
    """Within 2 % of float32; the boxes that are trained on are the same ones, all of them."""
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    model.training = True  # norms stay in evaluation mode
    batch = small_batch()
    with torch.no_grad():
        expected = model(batch)
        plugin = MixedPrecision("bf16-mixed", "cpu")
        with plugin.forward_context():
            found = model(batch)
    for key, loss in expected.items():
        assert found[key].dtype == torch.float32
        torch.testing.assert_close(found[key], loss, rtol=0.02, atol=2e-3)


def test_losses_do_not_depend_on_the_place_in_the_batch() -> None:
    torch.manual_seed(0)
    model, batch = BUILDERS["cascade_mask"]().eval(), small_batch()
    model.training = True
    turned = {key: value.flip(0) if isinstance(value, Tensor) else value[::-1] for key, value in batch.items()}
    other = {**batch, "keys": [key._replace(epoch=1) for key in batch["keys"]]}
    with torch.no_grad():
        first, second, third = model(batch), model(turned), model(other)
        model.seed = 1
        fourth = model(batch)
    for key, loss in first.items():
        torch.testing.assert_close(second[key], loss)
    assert first["rpn_classification"] != third["rpn_classification"] != fourth["rpn_classification"]


def one_stage(masks: bool, convention: str) -> tuple[TwoStageDetector, TwoStageDetector]:
    beta = {"mmdetection": 0.0, "torchvision": 1 / 9}[convention]
    rpn = replace(RPN, beta=beta, inside=False)
    box = replace(BOX, beta=beta)
    small = {"convention": convention, "channels": 16, "rpn": rpn, "box_head": box, "score_threshold": 0.0}
    if masks:
        single = MaskRCNN(ResNet(18), K, mask_head=MASK, **small)
        return single, CascadeMaskRCNN(ResNet(18), K, mask_head=MASK, stages=ONE_STAGE, **small)
    return FasterRCNN(ResNet(18), K, **small), CascadeRCNN(ResNet(18), K, stages=ONE_STAGE, **small)


@pytest.mark.parametrize(("masks", "convention"), [(False, "mmdetection"), (True, "torchvision")])
def test_cascade_of_one_stage(masks: bool, convention: str) -> None:
    """Is Faster, or Mask, R-CNN."""
    torch.manual_seed(0)
    single, cascade = one_stage(masks, convention)
    spread(single)
    cascade.load_state_dict(single.state_dict())
    batch = small_batch()
    with torch.no_grad():
        for model in (single.eval(), cascade.eval()):
            model.training = True
        expected, found = single(batch), cascade(batch)
        assert {key.removeprefix("stage0_"): value for key, value in found.items()} == expected
        for model in (single, cascade):
            model.training = False
        for one, other in zip(single(batch), cascade(batch), strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert value == other[key] if key == "masks" else torch.equal(value, other[key])


def decode(offset: Tensor, box: Tensor, deviations: tuple[float, ...], size: tuple[int, int] | None) -> Tensor:
    """One box, by the formula."""
    dx, dy, dw, dh = (float(value) * by for value, by in zip(offset, deviations, strict=True))
    x1, y1, x2, y2 = box.tolist()
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    w, h = (x2 - x1) * torch.tensor(dw).exp().item(), (y2 - y1) * torch.tensor(dh).exp().item()
    corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    if size is not None:
        corners = [min(max(value, 0), side) for value, side in zip(corners, (size[1], size[0]) * 2, strict=True)]
    return torch.tensor(corners)


def test_stages_of_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assignment, refinement, losses and averages, box by box: class-specific regressors, GIoU on decoded boxes.

    All boxes are trained on, so that nothing is drawn.
    """
    torch.manual_seed(0)
    everything = replace(CONVS, samples=10**6, positive_fraction=0.5)
    model = CascadeMaskRCNN(ResNet(18), K, box_head=everything, mask_head=MASK, score_threshold=0.0, **SMALL).eval()
    spread(model)
    batch = small_batch()
    targets, sizes = batch["targets"], [tuple(size) for size in batch["size"].tolist()]
    model.training = True
    with torch.no_grad():
        losses = model(batch)
        images = model.image_list(batch)
        features = model.neck(model.backbone(images.tensors))
        proposals = model.rpn.propose(model.rpn(features, (128, 128)), images.image_sizes, training=True).boxes
    final = [[box for box in of_image] for of_image in proposals]
    for number, (iou, deviations, weight) in enumerate(
        zip((0.5, 0.6, 0.7), model_deviations(), (1.0, 0.5, 0.25), strict=True)
    ):
        rows, refined = [], [[], []]
        entropy, giou, drawn, masks = 0.0, 0.0, [], 0
        for image, (target, boxes) in enumerate(zip(targets, final, strict=True)):
            overlaps = box_iou(target["boxes"], torch.stack(boxes))
            for place, box in enumerate([*target["boxes"], *boxes]):
                is_object = place < len(target["boxes"])
                if is_object:
                    matched = place
                else:
                    own = overlaps[:, place - len(target["boxes"])]
                    matched = int(own.argmax()) if own.max() >= iou else -1
                roi = torch.cat([torch.tensor([float(image)]), box])[None]
                with torch.no_grad():
                    logits, offsets = model.box_heads[number](model.box_pooling(features, roi))
                label = int(target["labels"][matched]) if matched >= 0 else K
                entropy += F.cross_entropy(logits, torch.tensor([label])).item()
                used = label if matched >= 0 else int(logits[0, :K].argmax())
                if matched >= 0:
                    free = decode(offsets[0, label], box, deviations, None)
                    giou += generalized_box_iou_loss(free, target["boxes"][matched]).item()
                    with torch.no_grad():
                        shown = model.mask_heads[number](model.mask_pooling(features, roi), torch.tensor([label]))
                    wanted = mask_targets(
                        target["masks"], torch.tensor([matched]), box[None], shown.shape[-1], model.convention
                    )
                    drawn.append(F.binary_cross_entropy_with_logits(shown, wanted).item())
                    masks += 1
                rows.append(label)
                if not is_object:
                    refined[image].append(decode(offsets[0, used], box, deviations, sizes[image]))
        expected = {
            f"stage{number}_classification": weight * entropy / len(rows),
            f"stage{number}_bbox_regression": weight * 10 * giou / len(rows),
            f"stage{number}_mask": weight * sum(drawn) / masks,
        }
        for key, value in expected.items():
            assert losses[key].item() == pytest.approx(value, rel=1e-4), key
        final = refined

    # Evaluation: each stage scores the boxes of the stage before; logits are averaged, boxes are the last stage's.
    model.training = False
    with torch.no_grad():
        found = model(batch)
        proposals = model.rpn.propose(model.rpn(features, (128, 128)), images.image_sizes, training=False).boxes
        for image, of_image in enumerate(proposals):
            candidates = []
            for box in of_image:
                total, current = torch.zeros(K + 1), box
                for number, deviations in enumerate(model_deviations()):
                    roi = torch.cat([torch.tensor([float(image)]), current])[None]
                    logits, offsets = model.box_heads[number](model.box_pooling(features, roi))
                    total += logits[0] / 3
                    if number < 2:
                        current = decode(offsets[0, logits[0, :K].argmax()], current, deviations, sizes[image])
                scores = total.softmax(0)
                candidates += [
                    (scores[label].item(), label, decode(offsets[0, label], current, deviations, sizes[image]))
                    for label in range(K)
                ]
            candidates.sort(key=lambda entry: -entry[0])
            kept: list[tuple[float, int, Tensor]] = []
            for score, label, box in candidates:
                if all(label != other or box_iou(box[None], stronger[None]) <= 0.5 for _, other, stronger in kept):
                    kept.append((score, label, box))
            kept = kept[:100]
            assert found[image]["labels"].tolist() == [label for _, label, _ in kept]
            torch.testing.assert_close(found[image]["scores"], torch.tensor([score for score, *_ in kept]))
            boxes = torch.stack([box for *_, box in kept])
            torch.testing.assert_close(found[image]["boxes"], 2 * boxes, rtol=0, atol=2e-3)
            rois = torch.cat([torch.full((len(boxes), 1), float(image)), boxes], dim=1)
            pooled, labels = model.mask_pooling(features, rois), found[image]["labels"]
            shares = [head(pooled, labels).sigmoid() for head in model.mask_heads]
            drawn = model.draw(
                features, [{"boxes": boxes[:0], "labels": labels[:0]}] * image + [found[image] | {"boxes": boxes}]
            )
            torch.testing.assert_close(drawn[image], sum(shares) / 3)


def model_deviations() -> tuple[tuple[float, float, float, float], ...]:
    return (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)


def test_masks_that_are_learned() -> None:
    """A mask that fills the left half of its box; both conventions see cells, one of them rounds shares."""
    masks = torch.zeros(2, 40, 60, dtype=torch.uint8)
    masks[1, 10:30, 20:34] = 1
    boxes = torch.tensor([[20.0, 10.0, 48.0, 30.0]])
    binary = mask_targets(masks, torch.tensor([1]), boxes, 14, MMDETECTION)[0]
    expected = (torch.arange(14) < 7).float()[None].expand(14, -1)  # cell 6 reaches from 32 to 34
    assert torch.equal(binary, expected)
    shares = mask_targets(masks, torch.tensor([1]), boxes, 14, TORCHVISION)[0]
    assert 0 < shares[7, 6] < 1 and shares[7, 3] == 1 and shares[7, 10] == 0
    assert not mask_targets(masks, torch.tensor([0]), boxes, 14, MMDETECTION).any()


@pytest.mark.parametrize("name", ["faster", "cascade_mask"])
def test_crowds_are_ignored_by_option(name: str) -> None:
    """A crowd over the whole image leaves nothing but the objects to learn from; by default nothing changes."""
    torch.manual_seed(0)
    usual, careful = (BUILDERS[name](ignore_crowds=option).eval() for option in (False, True))
    careful.load_state_dict(usual.state_dict())
    batch = small_batch()
    crowded = {
        **batch,
        "targets": [{**target, "crowd": torch.tensor([[-99.0, -99, 999, 999]])} for target in batch["targets"]],
    }
    for model in (usual, careful):
        model.training = True
    with torch.no_grad():
        expected = usual(batch)
        assert usual(crowded) == expected == careful(batch)
        found = careful(crowded)
    assert found["rpn_classification"] == found["rpn_bbox_regression"] == 0
    first = "stage0_" if name.startswith("cascade") else ""
    assert found[f"{first}bbox_regression"] < expected[f"{first}bbox_regression"] or found[f"{first}classification"] > 0


def test_the_run_hands_on_its_seed() -> None:
    model = BUILDERS["faster"]()
    StepSeed(7).on_fit_start(None, model)  # type: ignore[arg-type]
    assert model.seed == 7


def test_masks_are_needed() -> None:
    batch = small_batch()
    for target in batch["targets"]:
        del target["masks"]
    with pytest.raises(ValueError, match=r"MaskRCNN learns masks, and the objects have none; use --data.masks true"):
        BUILDERS["mask"]()(batch)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="have 2, 3 and 3 entries; give one of each for every stage"):
        CascadeOptions(ious=(0.5, 0.6))
    message = r"the backbone has strides \(4, 8, 16, 16\), FasterRCNN needs 4, 8, 16 and 32"
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        FasterRCNN(ResNet(50, output_stride=16), K)
