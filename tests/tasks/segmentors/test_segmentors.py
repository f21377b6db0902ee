"""Segmentors: MMSegmentation's heads on our backbones, and inference at original resolution."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention import CoordinateAttention
from backbones import MobileNetV2, ResNet
from tasks.segmentation import SegmentationTask
from tasks.segmentors import EncoderDecoder, SlideInference, WholeInference
from tasks.segmentors.head_steps import data_samples, head_losses
from tasks.segmentors.inference import Reading
from tasks.segmentors.upsampling import argmax_at

K = 7
AUXILIARY = {
    "type": "FCNHead",
    "in_index": 2,
    "channels": 8,
    "num_convs": 1,
    "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
}
HEADS = {
    "UPerHead": {"type": "UPerHead", "channels": 16, "pool_scales": [1, 2, 3, 6]},
    "FCNHead": {"type": "FCNHead", "channels": 16, "num_convs": 2},
    "PSPHead": {"type": "PSPHead", "channels": 16},
    "ASPPHead": {"type": "ASPPHead", "channels": 16, "dilations": [1, 2, 3, 4]},
    "DepthwiseSeparableASPPHead": {
        "type": "DepthwiseSeparableASPPHead",
        "channels": 16,
        "c1_channels": 8,
        "dilations": [1, 2, 3, 4],
    },
    "SegformerHead": {"type": "SegformerHead", "channels": 16},
    "SegmenterMaskTransformerHead": {
        "type": "SegmenterMaskTransformerHead",
        "channels": 16,
        "num_layers": 1,
        "num_heads": 2,
        "embed_dims": 16,
    },
    "OneOfSeveral": {"type": "FCNHead", "channels": 16, "in_index": 1},
}


def make_batch(sizes: list[tuple[int, int]], originals: list[tuple[int, int]], frame: tuple[int, int]) -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(len(sizes), 3, *frame, dtype=torch.uint8)
    for pixels, (height, width) in zip(image, sizes, strict=True):
        pixels[:, :height, :width] = torch.randint(0, 256, (3, height, width), generator=generator)
    return {
        "image": image,
        "size": torch.tensor(sizes),
        "mask": torch.randint(0, K, (len(sizes), *frame), generator=generator, dtype=torch.uint8),
        "targets": [{"image_id": number, "original_size": torch.tensor(size)} for number, size in enumerate(originals)],
    }


@pytest.mark.parametrize("head", HEADS)
def test_any_head_trains_and_predicts_at_original_size(head: str) -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(MobileNetV2(0.25, CoordinateAttention), K, HEADS[head], AUXILIARY)
    batch = make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    losses = model(batch)
    assert {"loss_ce", "aux_loss_ce"} <= losses.keys()
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model.eval()
    with torch.no_grad():
        maps = model(make_batch([(64, 50), (37, 64)], [(128, 100), (37, 64)], (64, 64)))
    assert [tuple(labels.shape) for labels in maps] == [(128, 100), (37, 64)]
    assert all(labels.dtype == torch.uint8 and labels.max() < K for labels in maps)


def test_neck_and_published_parameters() -> None:
    """Semantic FPN's neck, and UPerNet on a plain ResNet-50 as MMSegmentation counts it (without its deeper stem)."""
    neck = {"type": "FPN", "out_channels": 16, "num_outs": 4}
    head = {"type": "FPNHead", "channels": 16, "feature_strides": [4, 8, 16, 32]}
    model = EncoderDecoder(ResNet(18), K, head, neck=neck).eval()
    with torch.no_grad():
        assert model(make_batch([(64, 64)], [(64, 64)], (64, 64)))[0].shape == (64, 64)

    head = {"type": "UPerHead", "channels": 512, "pool_scales": [1, 2, 3, 6]}
    auxiliary = {"type": "FCNHead", "in_index": 2, "channels": 256, "num_convs": 1, "concat_input": False}
    model = EncoderDecoder(ResNet(50), 150, head, auxiliary)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.decode_head, model.auxiliary_head)]
    assert counts == [40_590_486, 66_516_108 - 40_590_486 - 23_527_264]


def test_losses_equal_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    head = {**HEADS["FCNHead"], "dropout_ratio": 0.0}
    model = EncoderDecoder(ResNet(18), K, head)
    batch = make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    image = model.normalization(batch["image"], batch["size"])
    logits = model.logits(image)
    assert logits.shape == (2, K, 64, 64)
    expected = F.cross_entropy(logits, batch["mask"].long(), ignore_index=255)
    torch.testing.assert_close(model.losses(image, batch["mask"])["loss_ce"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    """A sum over the pixels of a batch would be infinite in float16 and have two digits in bfloat16."""
    torch.manual_seed(0)
    model = EncoderDecoder(MobileNetV2(0.25), K, {**HEADS["FCNHead"], "dropout_ratio": 0.0}).eval()
    features = [torch.randn(2, channels, 8, 8) for channels in model.backbone.channels]
    samples = data_samples(torch.randint(0, K, (2, 256, 256)))
    expected = head_losses(model.decode_head, features, samples)["loss_ce"]
    half = [feature.to(dtype) for feature in features]
    torch.set_default_dtype(dtype)  # as Lightning does
    try:
        found = head_losses(model.decode_head.to(dtype), half, samples)["loss_ce"]
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_masks_of_more_classes_than_8_bits_hold() -> None:
    """They have 16 bits, in which -1 is ignored, in losses, accuracy and metric."""
    torch.manual_seed(0)
    names = [f"c{number}" for number in range(300)]
    model = EncoderDecoder(ResNet(18), len(names), {**HEADS["FCNHead"], "dropout_ratio": 0.0}, AUXILIARY)
    batch = make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    batch["mask"] = torch.randint(0, 300, (2, 64, 64), dtype=torch.int16)
    batch["mask"][:, :, :20] = -1
    image = model.normalization(batch["image"], batch["size"])
    expected = F.cross_entropy(model.logits(image), batch["mask"].long(), ignore_index=-1, reduction="sum")
    losses = model.losses(image, batch["mask"])
    torch.testing.assert_close(losses["loss_ce"], expected / batch["mask"].numel(), rtol=1e-4, atol=1e-5)
    assert {"loss_ce", "aux_loss_ce"} <= losses.keys()
    task = SegmentationTask.__new__(SegmentationTask)
    nn.Module.__init__(task)
    task.options = SimpleNamespace(class_names=names, boundary_width=0.02)
    metric = task.build_metrics()["pixels"]
    metric.update([torch.full((64, 64), 299), torch.zeros(64, 64, dtype=torch.int64)], list(batch["mask"]))
    assert metric.confusion.shape == (300, 300) and metric.confusion.sum() == 2 * 64 * 44
    assert metric.confusion[:, 299].sum() == 64 * 44
    assert metric.confusion[7, 0] == (batch["mask"][1] == 7).sum()


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_classes is 1, expected at least 2: .* --data\.values '\{0: background"):
        EncoderDecoder(MobileNetV2(0.25), 1, HEADS["FCNHead"])


def test_fully_ignored_masks_give_zero_and_not_nan() -> None:
    model = EncoderDecoder(MobileNetV2(0.25), K, HEADS["UPerHead"], AUXILIARY)
    batch = make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    batch["mask"][:] = 255
    losses = model(batch)
    total = sum(value for name, value in losses.items() if "loss" in name)
    assert total == 0
    total.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_prediction_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(MobileNetV2(0.25, CoordinateAttention), K, HEADS["UPerHead"]).eval()
    batch = make_batch([(64, 50), (37, 64)], [(64, 50), (37, 64)], (64, 64))
    alone = {
        "image": batch["image"][1:, :, :37],
        "size": batch["size"][1:],
        "targets": batch["targets"][1:],
    }
    with torch.no_grad():
        assert torch.equal(model(batch)[1], model(alone)[0])


class TestSlideInference:
    @pytest.mark.parametrize(
        ("window", "stride", "height", "width"),
        [
            (32, 20, 64, 50),
            (32, 32, 33, 95),
            (40, 13, 41, 40),
            (64, 64, 30, 70),
            ((24, 48), (16, 31), 65, 90),
            ((50, 16), (41, 16), 45, 37),
        ],
    )
    def test_equals_mmsegmentation(
        self, window: int | tuple[int, int], stride: int | tuple[int, int], height: int, width: int
    ) -> None:
        from mmengine.config import ConfigDict
        from mmseg.models import EncoderDecoder as Peer

        torch.manual_seed(0)
        network = nn.Conv2d(3, K, 5, padding=2)  # its padding makes windows matter
        image = torch.randn(2, 3, height, width)

        def encode_decode(inputs: Tensor, metas: list[dict]) -> Tensor:
            return network(inputs)

        stand_in = SimpleNamespace(
            test_cfg=ConfigDict(
                stride=(stride, stride) if isinstance(stride, int) else stride,
                crop_size=(window, window) if isinstance(window, int) else window,
            ),
            out_channels=K,
            encode_decode=encode_decode,
        )
        inference, done = SlideInference(window, stride), []
        inference.progress = lambda *windows: done.append(windows)
        with torch.no_grad():
            metas = [{"img_shape": (height, width)}] * 2
            expected = Peer.slide_inference(stand_in, image, metas)
            found = inference(image, network)
        torch.testing.assert_close(found, expected)
        down, across = (len(inference.spans(length, axis)) for axis, length in enumerate((height, width)))
        assert done == [(row * across, down * across) for row in range(1, down + 1)]

    @pytest.mark.parametrize("blend", [False, True])
    def test_pixelwise_logits_are_not_changed(self, blend: bool) -> None:
        image = torch.randn(1, 3, 70, 45)
        torch.testing.assert_close(
            SlideInference(32, 20, blend=blend)(image, lambda x: x * 2), WholeInference()(image, lambda x: x * 2)
        )

    @pytest.mark.parametrize(
        ("window", "stride", "height", "width"), [((24, 31), (11, 20), 65, 90), (40, 40, 81, 33), (64, 17, 30, 70)]
    )
    def test_blended_logits_equal_the_slow_ones(
        self, window: int | tuple[int, int], stride: int | tuple[int, int], height: int, width: int
    ) -> None:
        """Pixel by pixel: the mean over windows, weighted by the distances to their borders."""
        torch.manual_seed(0)
        network, image = nn.Conv2d(3, K, 5, padding=2), torch.randn(1, 3, height, width)
        inference = SlideInference(window, stride, blend=True)
        total, weights = torch.zeros(1, K, height, width), torch.zeros(height, width)
        with torch.no_grad():
            for rows, columns in inference.windows(height, width):
                weight = torch.empty(rows.stop - rows.start, columns.stop - columns.start)
                high, wide = weight.shape
                for y in range(high):
                    for x in range(wide):
                        weight[y, x] = min(y + 0.5, high - y - 0.5) * min(x + 0.5, wide - x - 0.5) / (high * wide / 4)
                total[..., rows, columns] += network(image[..., rows, columns]) * weight
                weights[rows, columns] += weight
            torch.testing.assert_close(inference(image, network), total / weights, rtol=1e-4, atol=1e-5)

    def test_windows_in_batches_and_rows_change_nothing(self) -> None:
        """Labels of bands equal those of all logits; a network that sees where it is, so that windows matter."""
        torch.manual_seed(0)
        network, image = nn.Conv2d(3, K, 5, padding=2), torch.randn(1, 3, 75, 50)
        with torch.no_grad():
            one = SlideInference(32, 20, windows_at_once=1)
            expected = argmax_at(one(image, network), (131, 77))
            for at_once in (2, 7):
                found = SlideInference(32, 20, at_once)
                torch.testing.assert_close(found(image, network), one(image, network))
                assert torch.equal(found.labels([image], network, (131, 77)).long(), expected)
        parts = [part.shape[2] for part in one.rows(image, network)]
        assert parts == [20, 20, 3, 32]
        tall = SlideInference(150, 100)
        assert [part.shape[2] for part in tall.rows(torch.randn(1, 3, 170, 9), network)] == [20, 64, 64, 22]

    def test_flip_and_views_average_probabilities(self) -> None:
        """As MMSegmentation's `SegTTAModel`: the mean of the softmax at original size, mirrored ones turned back."""
        torch.manual_seed(0)
        network, size = nn.Conv2d(3, K, 5, padding=2), (61, 90)
        views = [torch.randn(1, 3, *sides) for sides in ((30, 44), (45, 66))]
        with torch.no_grad():
            expected = torch.zeros(K, *size)
            for view in views:
                for image, turned in ((view, False), (view.flip(-1), True)):
                    logits = F.interpolate(network(image), size, mode="bilinear")[0]
                    expected += (logits.flip(-1) if turned else logits).softmax(dim=0) / 4
            inference = WholeInference(flip=True)
            found = inference.probabilities(views, network, size)
            labels = inference.labels(views, network, size)
            slid = SlideInference(80, 80, flip=True).probabilities(views, network, size)
        torch.testing.assert_close(found, expected.movedim(0, -1))
        torch.testing.assert_close(slid, found)
        assert torch.equal(labels.long(), found.argmax(-1))
        assert (labels != inference.labels(views[:1], network, size)).any()

    def test_gaps_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"stride is 40, expected 1\.\.32"):
            SlideInference(32, 40)
        with pytest.raises(ValueError, match=r"stride is 33, expected 1\.\.32"):
            SlideInference((64, 32), (40, 33))


class TestReading:
    """How logits become labels and probabilities at original size."""

    def test_probabilities_are_seen_as_they_are_averaged(self) -> None:
        torch.manual_seed(0)
        network, size = nn.Conv2d(3, K, 5, padding=2), (161, 90)
        views = [torch.randn(1, 3, *sides) for sides in ((30, 44), (45, 66))]
        for inference, given in ((SlideInference(32, 20), views[1:]), (WholeInference(flip=True), views)):
            seen: list[Tensor] = []
            with torch.no_grad():
                expected = inference.probabilities(given, network, size)
                labels = inference.labels(given, network, size, Reading(see=seen.append))
            assert len(seen) > 1
            torch.testing.assert_close(torch.cat(seen), expected)
            assert torch.equal(torch.cat(seen).argmax(-1), labels.long())

    def test_one_logit_is_averaged_behind_its_sigmoid(self) -> None:
        """As MMSegmentation's `SegTTAModel`: the mean of the sigmoids is compared with the threshold."""
        torch.manual_seed(0)
        network, size = nn.Conv2d(3, 1, 5, padding=2), (61, 90)
        views = [3 * torch.randn(1, 3, *sides) for sides in ((30, 44), (45, 66))]

        def pair(image: Tensor) -> Tensor:
            found = network(image)
            return torch.cat([torch.zeros_like(found), found], dim=1)

        with torch.no_grad():
            shares = [F.interpolate(network(view), size, mode="bilinear")[0, 0].sigmoid() for view in views]
            shares += [
                F.interpolate(network(view.flip(-1)), size, mode="bilinear")[0, 0].flip(-1).sigmoid() for view in views
            ]
            labels = WholeInference(flip=True).labels(views, pair, size, Reading(threshold=0.3))
            alone = WholeInference().labels(views[:1], pair, size, Reading(threshold=0.3))
        assert torch.equal(labels.bool(), torch.stack(shares).mean(0) > 0.3)
        assert torch.equal(alone.bool(), shares[0] > 0.3)
        logits = torch.stack([share.logit() for share in shares]).mean(0)
        assert (labels.bool() != (logits.sigmoid() > 0.3)).any() and (labels.bool() != (shares[0] > 0.5)).any()

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_corners_are_aligned_as_the_head_says(self, align_corners: bool) -> None:
        """In the loss, and in both resizes of MMSegmentation's inference: to the image, and to its original size."""
        from mmseg.models import EncoderDecoder as Peer
        from mmseg.models.utils import resize
        from mmseg.structures import SegDataSample

        torch.manual_seed(0)
        head = {**HEADS["PSPHead"], "align_corners": align_corners, "dropout_ratio": 0.0}
        model = EncoderDecoder(ResNet(18), K, head).eval()
        batch = make_batch([(61, 64)], [(131, 97)], (64, 64))
        with torch.no_grad():
            model.decode_head.conv_seg.weight.mul_(100)
            image = model.normalized(batch["image"][:, :, :61])
            raw = model.decode_head(model.features(image))
            enlarged = resize(raw, (61, 64), mode="bilinear", align_corners=align_corners, warning=False)
            torch.testing.assert_close(model.logits(image), enlarged)
            peer = SimpleNamespace(align_corners=align_corners)
            sample = SegDataSample(metainfo={"ori_shape": (131, 97), "img_shape": (61, 64)})
            found = Peer.postprocess_result(peer, enlarged, [sample])[0]
            seen: list[Tensor] = []
            labels = model.label_maps(batch, lambda position: seen.append)[0]
            mask = batch["mask"][:, :61]
            expected = F.cross_entropy(enlarged, mask.long(), ignore_index=255)
            torch.testing.assert_close(model.losses(image, mask)["loss_ce"], expected, rtol=1e-4, atol=1e-5)
        probabilities = found.seg_logits.data.softmax(dim=0).movedim(0, -1)
        torch.testing.assert_close(torch.cat(seen), probabilities, rtol=1e-4, atol=1e-5)
        best = probabilities.topk(2).values
        clear = best[..., 0] - best[..., 1] > 1e-4
        assert clear.float().mean() > 0.9 and torch.equal(labels.long()[clear], found.pred_sem_seg.data[0][clear])
        other = Peer.postprocess_result(SimpleNamespace(align_corners=not align_corners), enlarged, [sample])[0]
        assert (other.pred_sem_seg.data[0] != labels).any()


class TestHeadConfig:
    def test_unknown_type(self) -> None:
        with pytest.raises(ValueError, match="NoSuchHead"):
            EncoderDecoder(MobileNetV2(0.25), K, {"type": "NoSuchHead", "channels": 8})

    def test_missing_type(self) -> None:
        with pytest.raises(ValueError, match="has no type"):
            EncoderDecoder(MobileNetV2(0.25), K, {"channels": 8})

    def test_conflicting_number_of_classes(self) -> None:
        with pytest.raises(ValueError, match="19"):
            EncoderDecoder(MobileNetV2(0.25), K, {**HEADS["FCNHead"], "num_classes": 19})
