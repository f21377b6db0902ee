"""Every decode head of MMSegmentation's registry on one network; ours in the place of others, by the others."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention import CoordinateAttention
from backbones import MobileNetV2
from tasks.segmentors import EncoderDecoder, overview
from tasks.segmentors.head_config import complete_head
from tasks.segmentors.head_steps import data_samples, losses_and_logits
from tasks.segmentors.parts import build_part
from tasks.validation_loss import ValidationLosses
from tests.tasks.segmentors.test_segmentors import make_batch

ROWS = dict(re.findall(r"^\| `(\w+)` .* \| (.+) \|$", overview.PAGE.read_text(), re.MULTILINE))
"""What the page says of each head."""
K = 3
FCN: dict[str, Any] = {"type": "FCNHead", "channels": 8, "num_convs": 1, "dropout_ratio": 0.0}


def mmcv_file(name: str) -> ModuleType:
    """A file of `mmcv.ops`, which cannot be imported without its compiled code although this file has none."""
    mmcv = importlib.util.find_spec("mmcv")
    spec = importlib.util.spec_from_file_location(f"mmcv_{name}", f"{mmcv.submodule_search_locations[0]}/ops/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def maps(channels: list[int], sides: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, side, side + 1, generator=generator) for c, side in zip(channels, sides, strict=True)]


def samples(side: int, classes: int = K) -> list[Any]:
    mask = torch.randint(0, classes, (2, side, side + 8), generator=torch.Generator().manual_seed(1))
    mask[:, :3] = 255
    return data_samples(mask)


def head_of(config: dict[str, Any], channels: list[int]) -> Any:
    torch.manual_seed(0)
    return build_part(complete_head(config, channels, [4, 8, 16, 32][-len(channels) :], K))


@pytest.mark.parametrize("name", ROWS)
def test_it_trains_or_says_why_not(name: str) -> None:
    torch.manual_seed(0)
    if not ROWS[name].startswith(overview.TRAINS):
        with pytest.raises(ValueError, match=re.escape(ROWS[name])) as refusal:
            overview.small_segmentor(name)
        assert "\n" not in str(refusal.value)
        return
    model = overview.small_segmentor(name)
    overview.training_step(model)
    state = model.state_dict()
    places = model.class_tensors()
    both = {"decode_head.1.fc_seg.weight"} if name == "PointHead" else set()  # it has classes along two axes
    assert places and {key for key, place in places.items() if place is None} == both
    assert all(place.shape(state[key], model.num_classes) == state[key].shape for key, place in places.items() if place)
    model.eval()
    with torch.no_grad():
        logits = model.logits(torch.randn(1, 3, 64, 50, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (1, model.num_classes, 64, 50) and logits.isfinite().all()
    assert logits.is_contiguous(memory_format=torch.channels_last)
    batch = make_batch([(64, 50)], [(128, 100)], (64, 64)) | {"repeated": torch.tensor([False])}
    losses = ValidationLosses()
    losses.update(model, batch | {"mask": [batch["mask"][0] % model.num_classes]})
    assert losses.compute()["loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, outcome in ROWS.items() if outcome.startswith(overview.TRAINS)])
def test_mixed_precision_changes_losses_by_less_than_two_percent(name: str) -> None:
    torch.manual_seed(0)
    model = overview.small_segmentor(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    batch = make_batch([(128, 128)] * 4, [(128, 128)] * 4, (128, 128))
    batch["mask"] %= K
    torch.manual_seed(1)  # points, bases
    expected = model(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    torch.testing.assert_close({**found}, {**expected}, rtol=0.02, atol=0)


def test_page_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert overview.head_names() == [*ROWS] and sum(row.startswith(overview.TRAINS) for row in ROWS.values()) >= 28
    for name in ("FCNHead", "OCRHead", "PSAHead", "STDCHead"):
        assert overview.result(name) == ROWS[name]
    monkeypatch.setattr(overview, "result", ROWS.get)  # each was seen above
    overview.main(["--check"])
    monkeypatch.setattr(overview, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(overview, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"page\.md is outdated; run python -m tasks\.segmentors\.overview"):
        overview.main(["--check"])


CASCADES = {
    "OCRHead": [FCN, {"type": "OCRHead", "channels": 8, "ocr_channels": 4, "dropout_ratio": 0.0}],
    "PointHead": [
        {"type": "FPNHead", "channels": 8, "dropout_ratio": 0.0},
        {"type": "PointHead", "channels": 8, "num_points": 40, "subdivision_num_points": 60, "dropout_ratio": 0.0},
    ],
    "three": [FCN, *[{"type": "OCRHead", "channels": 8, "ocr_channels": 4, "dropout_ratio": 0.0}] * 2],
}


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_computes_what_mmsegmentations_does(name: str) -> None:
    from mmseg.models import CascadeEncoderDecoder
    from mmseg.models.decode_heads.point_head import PointHead

    torch.manual_seed(0)
    model = EncoderDecoder(MobileNetV2(0.25, CoordinateAttention), K, CASCADES[name], {**FCN, "in_index": 2}).eval()
    heads = [*model.decode_head]
    peer = SimpleNamespace(decode_head=heads, num_stages=len(heads), train_cfg=None, test_cfg=None)
    if name == "PointHead":
        own = ("type", "num_points", "subdivision_num_points")
        plain = PointHead(**{key: value for key, value in model._heads["decode_head.1"].items() if key not in own})
        peer.train_cfg, peer.test_cfg = heads[1].train_cfg, heads[1].test_cfg
        plain.load_state_dict(heads[1].state_dict())
        peer.decode_head = [heads[0], plain.eval()]
    image = torch.randn(2, 3, 64, 72)
    features = model.features(image)
    peer.extract_feat = lambda inputs: features
    metas = [{"img_shape": (64, 72), "pad_shape": (64, 72)}] * 2
    with torch.no_grad():
        torch.testing.assert_close(
            model.logits(image), CascadeEncoderDecoder.encode_decode(peer, image, metas), rtol=1e-4, atol=1e-5
        )
    mask = torch.randint(0, K, (2, 64, 72))
    if name == "PointHead":
        heads[1].training = True
    torch.manual_seed(3)
    expected = CascadeEncoderDecoder._decode_head_forward_train(peer, features, data_samples(mask))
    torch.manual_seed(3)
    found = model.losses(image, mask)
    ours = {key: value for key, value in (found | found.numbers).items() if key.startswith("decode_")}
    assert len(ours) == len(expected) and found.keys() - ours.keys() == {"aux_loss_ce"}
    for key, value in expected.items():
        stage, _, rest = key.partition(".")
        torch.testing.assert_close(ours[f"{stage}_{rest}"], value, rtol=1e-4, atol=1e-5)


class TestInPlaceOfOthers:
    """Heads of ours compute what MMSegmentation's of the same weights do, where these can be used."""

    def test_ddr(self) -> None:
        from mmseg.models.decode_heads import DDRHead

        loss = [{"type": "CrossEntropyLoss"}, {"type": "CrossEntropyLoss", "loss_weight": 0.4}]
        head = head_of({"type": "DDRHead", "channels": 8, "loss_decode": loss, "dropout_ratio": 0.0}, [6, 12])
        peer = DDRHead(12, 8, K, dropout_ratio=0.0, loss_decode=loss)
        peer.load_state_dict(head.state_dict())
        features, truth = maps([6, 12], [8, 4]), samples(32)
        found, logits = losses_and_logits(head, features, truth)
        context, spatial = peer(tuple(features))
        torch.testing.assert_close(logits, context)
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in truth])
        for name, map_of, share in (("loss_context", context, 1), ("loss_spatial", spatial, 0.4)):
            scores = F.interpolate(map_of, labels.shape[1:], mode="bilinear")
            expected = F.cross_entropy(scores, labels, ignore_index=255, reduction="sum") / labels.numel() * share
            torch.testing.assert_close(found[name], expected)
        assert torch.equal(head.eval()(features), peer.eval()(features[1]))

    def test_pid(self) -> None:
        from mmengine.structures import PixelData
        from mmseg.datasets.transforms import GenerateEdge
        from mmseg.models.decode_heads import PIDHead

        head = head_of({"type": "PIDHead", "channels": 8, "dropout_ratio": 0.0}, [8, 16])
        completed = complete_head({"type": "PIDHead", "channels": 8}, [8, 16], [4, 8], K)
        peer = PIDHead(16, 8, K, dropout_ratio=0.0, loss_decode=list(completed["loss_decode"]))
        peer.load_state_dict(head.state_dict())
        (details, whole), truth = maps([8, 16], [8, 4]), samples(32)
        found, logits = losses_and_logits(head, [details, whole], truth)
        for sample in truth:
            mask = sample.gt_sem_seg.data[0].numpy()
            result = GenerateEdge(edge_width=4).transform({"img_shape": mask.shape, "gt_seg_map": mask})
            sample.gt_edge_map = PixelData(data=torch.from_numpy(result["gt_edge_map"])[None].long())
        outputs = peer((details, whole, details))
        expected = peer.loss_by_feat(outputs, truth)
        assert found.keys() | found.numbers.keys() == expected.keys() and len(found) == 4
        torch.testing.assert_close({**found, **found.numbers}, expected)
        torch.testing.assert_close(logits, outputs[1])

    def test_lraspp(self) -> None:
        """Equal on maps of at least 49 x 49; on smaller ones the mean of the whole map."""
        from mmseg.models.decode_heads import LRASPPHead

        config = {"type": "LRASPPHead", "channels": 8, "branch_channels": [4, 6]}
        head = head_of(config, [4, 6, 8, 10]).eval()
        peer = LRASPPHead(
            branch_channels=(4, 6),
            in_channels=[4, 6, 10],
            in_index=[0, 1, 2],
            channels=8,
            num_classes=K,
            input_transform="multiple_select",
            norm_cfg={"type": "BN"},
        ).eval()
        peer.load_state_dict(head.state_dict())
        features = maps([4, 6, 8, 10], [104, 60, 60, 55])
        assert torch.equal(head(features), peer([features[0], features[1], features[3]]))
        small = torch.randn(1, 10, 5, 7)
        torch.testing.assert_close(head.image_pool[0](small), small.mean((2, 3), keepdim=True))

    def test_criss_cross(self) -> None:
        head = head_of({"type": "CCHead", "channels": 16, "dropout_ratio": 0.0}, [6]).eval()
        peer = mmcv_file("cc_attention").CrissCrossAttention(16)
        nn.init.constant_(head.cca.gamma, 0.7)
        names = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}
        own = head.cca.state_dict()
        peer.load_state_dict(
            {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for theirs, ours in names.items() for kind in ("weight", "bias")}
            | {"gamma.scale": own["gamma"][0]}
        )
        x = maps([16], [5])[0]
        torch.testing.assert_close(head.cca(x), peer(x))
        assert head.recurrence == 2 and head.cca.recurrence == 1

    @pytest.mark.parametrize("align_corners", [False, True])
    def test_point_sample(self, align_corners: bool) -> None:
        from tasks.segmentors.mmseg_heads import point_sample

        x, points = maps([3], [5])[0], torch.rand(2, 7, 2)
        for mode in ("bilinear", "nearest"):
            expected = mmcv_file("point_sample").point_sample(x, points, align_corners, mode=mode)
            torch.testing.assert_close(point_sample(x, points, align_corners, mode), expected)
        assert point_sample(x.bfloat16(), points).dtype == torch.float32

    def test_ann_without_dropout(self) -> None:
        head = head_of({"type": "ANNHead", "channels": 8, "project_channels": 4, "dropout_ratio": 0.0}, [6, 10])
        assert head(maps([6, 10], [8, 4])).shape == (2, K, 4, 5)


@pytest.mark.parametrize(("attention", "parameters"), [(None, 4_523_541), (CoordinateAttention, 4_969_317)])
def test_deeplabv3_of_coordinate_attentions_authors(attention: type | None, parameters: int) -> None:
    """Their figures for 21 classes: the last convolution is 1 x 1, behind it the classifier."""
    head = {"type": "ASPPHead", "channels": 256, "dilations": [1, 12, 24, 36], "projection_kernel": 1}
    model = EncoderDecoder(MobileNetV2(1.0, attention, output_stride=8), 21, head)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("neck", "channels", "strides"),
    [
        ({"type": "JPU", "start_level": 1, "mid_channels": 8}, ["from", "from", 32], [8, 16, 8]),
        ({"type": "FPN", "start_level": 1, "out_channels": 8, "num_outs": 4}, [8] * 4, [8, 16, 32, 64]),
        ({"type": "MultiLevelNeck", "out_channels": 8}, [8] * 4, [8, 8, 8, 8]),
    ],
)
def test_heads_read_what_a_neck_makes(neck: dict[str, Any], channels: list[Any], strides: list[int]) -> None:
    torch.manual_seed(0)
    backbone = MobileNetV2(0.25)
    own = list(backbone.channels)
    decoder = {"type": "UPerHead" if neck["type"] != "FPN" else "FPNHead", "channels": 8}
    model = EncoderDecoder(backbone, K, decoder, {**FCN, "in_index": 1}, neck)
    expected = [own[1 + level] if width == "from" else width for level, width in enumerate(channels)]
    config = model._heads["decode_head"]
    assert config["in_channels"] == expected
    assert config.get("feature_strides", strides) == strides
    losses = model(make_batch([(64, 64)] * 2, [(64, 64)] * 2, (64, 64)) | {"mask": torch.zeros(2, 64, 64)})
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_several_auxiliary_heads() -> None:
    torch.manual_seed(0)
    auxiliary = [{**FCN, "in_index": 1}, {**FCN, "type": "STDCHead", "in_index": 0}]
    model = EncoderDecoder(MobileNetV2(0.25), K, FCN, auxiliary)
    losses = overview.training_step(model)
    assert losses.keys() == {"loss_ce", "aux_0_loss_ce", "aux_1_loss_ce"}
    places = model.class_tensors()
    assert {name.rsplit(".", 2)[0] for name in places} == {"decode_head", "auxiliary_head.0"}
    assert model.head_name == "FCNHead" and model.auxiliary_head[1].conv_seg.out_channels == 2


class TestOneLogit:
    def test_label_maps_and_losses(self) -> None:
        torch.manual_seed(0)
        loss = {"type": "CrossEntropyLoss", "use_sigmoid": True}
        head = {**FCN, "out_channels": 1, "threshold": 0.3, "loss_decode": loss}
        model = EncoderDecoder(MobileNetV2(0.25), 2, head).eval()
        image = torch.randn(2, 3, 64, 72)
        with torch.no_grad():
            model.decode_head.conv_seg.weight.mul_(500)
            raw = model.decode_head(model.features(image))
            share = raw.sigmoid()
            assert ((share > 0.3) & (share < 0.5)).any()  # the threshold matters
            mask = torch.randint(0, 2, (2, 64, 72))
            scores = F.interpolate(raw, (64, 72), mode="bilinear")
            torch.testing.assert_close(model.logits(image).softmax(1)[:, 1], scores[:, 0].sigmoid())
            batch = {
                "image": torch.randint(0, 256, (1, 3, 64, 72), dtype=torch.uint8),
                "size": torch.tensor([[64, 72]]),
                "targets": [{"original_size": torch.tensor([64, 72])}],
            }
            above = F.interpolate(
                model.decode_head(model.features(model.normalized(batch["image"]))), (64, 72), mode="bilinear"
            ).sigmoid()
            assert torch.equal(model(batch)[0].bool(), above[0, 0] > 0.3)
            assert ((above > 0.3) & (above < 0.5)).any()
            expected = F.binary_cross_entropy_with_logits(scores[:, 0], mask.float())
            found = model.losses(image, mask)
        torch.testing.assert_close(found["loss_ce"], expected)
        assert found.numbers == {}  # MMSegmentation's accuracy takes one logit for the background

    def test_filled_in_and_class_tensors(self) -> None:
        model = EncoderDecoder(MobileNetV2(0.25), 2, {**FCN, "out_channels": 1})
        assert model.decode_head.threshold == 0.3 and model.decode_head.loss_decode.use_sigmoid
        # The logit stands for both classes: it starts anew where they are not the same in the same order.
        assert model.class_tensors() == {"decode_head.conv_seg.weight": None, "decode_head.conv_seg.bias": None}
        losses = overview.training_step(model)
        assert losses.keys() == {"loss_ce"}

    def test_two_logits_stay_possible(self) -> None:
        model = EncoderDecoder(MobileNetV2(0.25), 2, {**FCN, "out_channels": 2})
        assert model.decode_head.out_channels == 2
        assert all(place is not None for place in model.class_tensors().values())


@pytest.mark.parametrize(
    ("head", "classes", "words"),
    [
        ({**FCN, "out_channels": 1}, 3, "FCNHead has out_channels 1 for 3 classes; leave it out"),
        ({**FCN, "out_channels": 3}, 2, "out_channels 3 for 2 classes; leave it out, or give 1"),
        (
            {**FCN, "out_channels": 1, "sampler": {"type": "OHEMPixelSampler"}},
            2,
            "use loss_decode {type: OhemCrossEntropy}",
        ),
        (
            {**FCN, "type": "SegmenterMaskTransformerHead", "out_channels": 1},
            2,
            "out_channels 1 for 2 classes; leave it",
        ),
        ({"type": "FCNHead"}, 3, "FCNHead needs channels"),
        ({**FCN, "num_conv": 1}, 3, "FCNHead has no option num_conv; did you mean num_convs"),
        ({**FCN, "type": "GCHead"}, 3, "GCHead has no option num_convs"),
        ({"type": "UperHead", "channels": 8}, 3, "no 'UperHead'; did you mean UPerHead"),
        ({"type": "OCRHead", "channels": 8, "ocr_channels": 4}, 3, "OCRHead starts from the logits of another head"),
        ([FCN, FCN], 3, "FCNHead does not look at the head before it; only OCRHead and PointHead do"),
        ([], 3, "decode_head is an empty list"),
        ({**FCN, "type": "STDCHead"}, 3, "STDCHead learns something else than the classes; give it as auxiliary_head"),
        ({"type": "ANNHead", "channels": 8, "project_channels": 4, "in_index": [3]}, 3, "ANNHead reads 2 maps"),
        (
            {"type": "SETRMLAHead", "in_index": [2, 3]},
            3,
            "joins maps of one stride, and those of in_index .* have 16, 32",
        ),
        ({"type": "DDRHead", "channels": 8, "loss_decode": {"type": "CrossEntropyLoss"}}, 3, "DDRHead has 2 losses"),
        ({**FCN, "in_index": [2, 3]}, 3, "FCNHead reads one map, and in_index is .2, 3.; give one number, or"),
        ({**FCN, "in_index": 4}, 3, "in_index 4, but there are only 4 features, of stride 4, 8, 16, 32"),
        ({"type": "IterativeDecodeHead", "num_stages": 1}, 3, "needs kernel_generate_head"),
        (
            {
                "type": "IterativeDecodeHead",
                "kernel_generate_head": {"type": "DAHead", "channels": 8, "pam_channels": 4},
            },
            3,
            "cannot start from DAHead",
        ),
    ],
)
def test_refusals(head: Any, classes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        EncoderDecoder(MobileNetV2(0.25), classes, head)
    assert "\n" not in str(refusal.value)
