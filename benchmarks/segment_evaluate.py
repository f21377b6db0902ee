"""Evaluation of segmentors against MMSegmentation: from logits to labels to scores, and sliding windows.

    python -m benchmarks.segment_evaluate [--json]

Networks are left out, or replaced by one that costs next to nothing. Equal integers are checked first; memory is that
of a process of its own.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Goal, finish, keep_freed_memory, parse_options, peak_memory, ratio_goal, time_in_turn
from tasks.metrics import BoundaryMetric, SegmentationMetric
from tasks.segmentors.inference import SlideInference, WholeInference
from tasks.segmentors.upsampling import argmax_at

CLASSES = 150
SIZE = (512, 683)


def confusion_goals() -> list[Goal]:
    """Label maps of 150 classes in memory to added counts, ten images at a time."""
    from mmseg.evaluation.metrics import IoUMetric
    from torchmetrics.classification import MulticlassConfusionMatrix

    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 150, (512, 683), generator=random, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=random) < 0.1] = 255
    wrong = torch.rand(target.shape, generator=random) < 0.3
    other = torch.randint(0, 150, target.shape, generator=random)
    prediction = torch.where(wrong | (target == 255), other, target.long())
    wide = target.long()  # the others do not take uint8
    metric = SegmentationMetric([str(label) for label in range(150)])
    peer = MulticlassConfusionMatrix(150, ignore_index=255)

    metric.update([prediction], [target])
    peer.update(prediction[None], wide[None])
    areas = IoUMetric.intersect_and_union(prediction, wide, 150, 255)
    counts = metric.confusion
    intersection, predicted, annotated = counts.diagonal(), counts.sum(dim=0), counts.sum(dim=1)
    union = predicted + annotated - intersection
    assert torch.equal(counts, peer.confmat)
    for found, area in zip((intersection, union, predicted, annotated), areas, strict=True):
        assert torch.equal(found, area.long())

    totals = [torch.zeros(150) for _ in range(4)]

    def accumulate_areas() -> None:
        for _ in range(10):
            for total, area in zip(totals, IoUMetric.intersect_and_union(prediction, wide, 150, 255), strict=True):
                total += area

    seconds = time_in_turn(
        {
            "ours": lambda: metric.update([prediction] * 10, [target] * 10),
            "mmseg": accumulate_areas,
            "torchmetrics": lambda: [peer.update(prediction[None], wide[None]) for _ in range(10)],
        },
        rounds=7,
    )
    return [
        ratio_goal("confusion of 150 classes: MMSegmentation / ours", seconds["mmseg"], seconds["ours"], 6),
        ratio_goal("confusion of 150 classes: torchmetrics / ours", seconds["torchmetrics"], seconds["ours"], 20),
    ]


def label_goals() -> list[Goal]:
    """Logits of 150 classes at stride 4 to labels: to the network's input as a head does, then to the original size."""
    logits = torch.randn(1, 150, 128, 171, generator=torch.Generator().manual_seed(0))

    def resize(values: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(values, size=size, mode="bilinear", align_corners=False)

    goals = []
    for original in ((512, 683), (480, 640), (768, 1024)):

        def plain(original: tuple[int, int] = original) -> Tensor:
            return resize(resize(logits, (512, 683)), original)[0].argmax(dim=0)

        def ours(original: tuple[int, int] = original) -> Tensor:
            return argmax_at(resize(logits.contiguous(memory_format=torch.channels_last), (512, 683)), original)

        unequal = (plain() != ours()).float().mean().item()
        assert unequal < 1e-5, f"{unequal} of the labels differ"  # where two classes are equal up to rounding
        seconds = time_in_turn({"plain": plain, "ours": ours}, rounds=5)
        name = f"resizing to {original[0]}x{original[1]} and argmax: plain / ours"
        goals.append(ratio_goal(name, seconds["plain"], seconds["ours"], 1.5))
    return goals


def blocks(seed: int, size: tuple[int, int], classes: int) -> Tensor:
    """A label map (H, W) uint8 of squares of 32 pixels; a tenth of its pixels is ignored."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (size[0] // 32 + 1, size[1] // 32 + 1), generator=random, dtype=torch.uint8)
    labels = coarse.repeat_interleave(32, 0).repeat_interleave(32, 1)[: size[0], : size[1]].contiguous()
    labels[torch.rand(size, generator=random) < 0.1] = 255
    return labels


def evaluation_goals() -> list[Goal]:
    """From the head's logits at stride 4 to the scores of images of the size of the network's input."""
    from mmengine.structures import PixelData
    from mmseg.evaluation.metrics import IoUMetric
    from mmseg.models import EncoderDecoder
    from mmseg.structures import SegDataSample

    targets = [blocks(seed, SIZE, CLASSES) for seed in range(5)]
    logits = [torch.randn(1, CLASSES, 128, 171, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    model: Any = SimpleNamespace(align_corners=False, decode_head=None)
    names = [str(label) for label in range(CLASSES)]
    counted: dict[str, Tensor] = {}

    def resized(values: Tensor) -> Tensor:
        return F.interpolate(values, SIZE, mode="bilinear", align_corners=False)

    def peer() -> None:
        metric = IoUMetric(iou_metrics=["mIoU"])
        metric.dataset_meta = {"classes": names}
        for values, target in zip(logits, targets, strict=True):
            sample = SegDataSample(metainfo={"ori_shape": SIZE})
            sample.gt_sem_seg = PixelData(data=target[None].long())
            found = EncoderDecoder.postprocess_result(model, resized(values), [sample])
            metric.process({}, [entry.to_dict() for entry in found])
        counted["peer"] = torch.stack([sum(areas) for areas in zip(*metric.results, strict=True)])

    def ours(more: bool = False) -> None:
        metric, boundaries = SegmentationMetric(names), BoundaryMetric(names)
        for values, target in zip(logits, targets, strict=True):
            innermost = resized(values.contiguous(memory_format=torch.channels_last))
            labels = WholeInference().labels([innermost], lambda image: image, SIZE)
            metric.update([labels], [target])
            if more:
                boundaries.update([labels], [target])
        metric.compute()
        both, annotated, predicted = metric.confusion.diagonal(), metric.confusion.sum(1), metric.confusion.sum(0)
        counted["ours"] = torch.stack([both, annotated + predicted - both, predicted, annotated])

    runs = {"peer": peer, "ours": ours, "with contours": lambda: ours(more=True)}
    for run in runs.values():
        run()
    assert torch.equal(counted["peer"].long(), counted["ours"]), "the areas differ"
    seconds = time_in_turn(runs, rounds=7)
    name = "150 classes at 512x683, logits to scores: MMSegmentation / ours"
    return [
        ratio_goal(name, seconds["peer"], seconds["ours"], 4),
        ratio_goal(f"{name} with boundary IoU", seconds["peer"], seconds["with contours"], 4),
    ]


def prepare_slide(side: str) -> Callable[[], Tensor]:
    """An image of 2048 x 4096 in windows of 1024 at a distance of 768, 19 classes; returns labels."""
    from mmengine.config import ConfigDict
    from mmseg.models import EncoderDecoder

    torch.set_num_threads(1)
    image = torch.randn(1, 3, 2048, 4096, generator=torch.Generator().manual_seed(0))
    mixing = torch.randn(19, 3, generator=torch.Generator().manual_seed(1))

    def network(windows: Tensor) -> Tensor:
        coarse = torch.einsum("kc,bchw->bkhw", mixing, windows[:, :, ::8, ::8])
        return F.interpolate(coarse, windows.shape[-2:], mode="bilinear", align_corners=False)

    if side == "ours":
        inference = SlideInference(1024, 768, windows_at_once=1)
        return lambda: inference.labels([image], network, (2048, 4096)).long()
    peer: Any = SimpleNamespace(
        test_cfg=ConfigDict(stride=(768, 768), crop_size=(1024, 1024)),
        out_channels=19,
        encode_decode=lambda inputs, metas: network(inputs),
        align_corners=False,
    )

    def plain() -> Tensor:
        logits = EncoderDecoder.slide_inference(peer, image, [{"img_shape": (2048, 4096)}])
        found = EncoderDecoder.postprocess_result(peer, logits, [_sample((2048, 4096))])
        labels: Tensor = found[0].pred_sem_seg.data[0]
        return labels

    return plain


def _sample(size: tuple[int, int]) -> Any:
    from mmseg.structures import SegDataSample

    return SegDataSample(metainfo={"ori_shape": size})


def slide_goals() -> list[Goal]:
    """Time and memory of sliding windows over a large image."""
    runs = {side: prepare_slide(side) for side in ("peer", "ours")}
    expected, found = (run() for run in runs.values())
    assert (expected != found).float().mean() < 1e-5, "the labels differ"
    seconds = time_in_turn(runs, rounds=7)
    megabytes = {side: [peak_memory("benchmarks.segment_evaluate", "prepare_slide", side)] for side in runs}
    name = "windows over 2048x4096, 19 classes"
    return [
        ratio_goal(f"{name}: time, MMSegmentation / ours", seconds["peer"], seconds["ours"], 1.5),
        ratio_goal(f"{name}: memory, MMSegmentation / ours", megabytes["peer"], megabytes["ours"], 2),
    ]


def main() -> None:
    """Runs everything; exit code 1 when a goal was missed."""
    chosen = parse_options(__doc__.splitlines()[0])
    keep_freed_memory()
    torch.set_num_threads(1)
    parts = (confusion_goals, label_goals, evaluation_goals, slide_goals)
    finish((goal for part in parts for goal in part()), chosen.json)


if __name__ == "__main__":
    main()
