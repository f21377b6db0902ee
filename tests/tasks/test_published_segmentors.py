"""MMSegmentation's published segmentors: their sizes, their layouts, and what they compute, in ours."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from backbones import Backbone, MobileNetV2, ResNet, Swin
from datamodules.ade20k import read_class_names
from tasks import segment
from tasks.errors import TaskError
from tasks.published_segmentors import of_mmsegmentation
from tasks.published_weights import require_fitting
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.conversions.config_text import model_config
from tasks.segmentors.conversions.hosts import host_of
from tasks.segmentors.conversions.options import part_differences
from tasks.weights import load_model_weights
from tests.tasks.building import CONFIGS, build_task

Part = dict[str, Any]
NAMES = ["wall", "sea", "sky", "tree", "road", "bed", "lake"]
BN = {"type": "BN", "requires_grad": True}
D8: Part = {"dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1), "contract_dilation": True}
MOBILE: Part = {"type": "MobileNetV2", "strides": (1, 2, 2, 1, 1, 1, 1), "dilations": (1, 1, 1, 2, 2, 4, 4)}
LOSS: Part = {"type": "CrossEntropyLoss", "loss_weight": 0.4}
AUX: Part = {
    "type": "FCNHead",
    "in_index": 2,
    "channels": 256,
    "num_convs": 1,
    "concat_input": False,
    "loss_decode": LOSS,
}
FCN: Part = {"type": "FCNHead", "channels": 512, "num_convs": 2}
PSP: Part = {"type": "PSPHead", "channels": 512, "pool_scales": [1, 2, 3, 6]}
ASPP: Part = {"type": "ASPPHead", "channels": 512, "dilations": [1, 12, 24, 36]}
ASPP_PLUS: Part = {**ASPP, "type": "DepthwiseSeparableASPPHead", "c1_channels": 48}
UPER: Part = {"type": "UPerHead", "channels": 512, "pool_scales": [1, 2, 3, 6]}
FPN: Part = {"type": "FPN", "out_channels": 256, "num_outs": 4}


pytestmark = pytest.mark.usefixtures("without_initialisation")


def theirs(backbone: Part, head: Part, auxiliary: Part | None, channels: list[int], **options: Any) -> Part:
    """Config of a whole model as MMSegmentation has it, every size written out."""
    single = head["type"] != "UPerHead"
    common = {"num_classes": len(NAMES), "norm_cfg": BN, "dropout_ratio": 0.0}
    places = {"in_index": 3 if single else [0, 1, 2, 3], "in_channels": channels[3] if single else channels}
    config = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": {**common, **places, **head}, **options}
    if head["type"] == "DepthwiseSeparableASPPHead":
        config["decode_head"]["c1_in_channels"] = channels[0]
    if auxiliary:
        config["auxiliary_head"] = {**common, "in_channels": channels[2], **auxiliary}
    return config


def scattered(config: Part) -> Any:
    """Their model of a config, with norms that are not trivial."""
    init_default_scope("mmseg")
    model = MODELS.build(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
    for name, value in model.named_parameters():
        if name.endswith(("conv_seg.weight", "relative_position_bias_table")):
            nn.init.normal_(value, 0, 0.5)
    return model


def saved(model: Any, config: Part, path: Path, key: str = "cfg", names: list[str] = NAMES) -> Path:
    """A file as their training scripts write it."""
    meta = {key: Config({"norm_cfg": BN, "model": config}).pretty_text, "dataset_meta": {"classes": names}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path


SMALL_SWIN: Part = {"embed_dims": 32, "depths": (1, 2, 2, 2), "num_heads": (1, 2, 4, 8), "drop_path_rate": 0.0}
NARROW = {"channels": 24, "dropout_ratio": 0.0}
CASES: dict[str, tuple[Part, list[int], Part, Callable[..., Backbone], Part]] = {
    "resnet": (
        {"type": "ResNetV1c", "depth": 50, **D8},
        [256, 512, 1024, 2048],
        PSP,
        ResNet,
        {"variant": "v1c", "output_stride": 8},
    ),
    "mobilenet": (
        MOBILE,
        [24, 32, 96, 320],
        ASPP_PLUS,
        MobileNetV2,
        {"output_stride": 8, "dilation": "mmsegmentation"},
    ),
    "swin": (
        {"type": "SwinTransformer", **SMALL_SWIN},
        [32, 64, 128, 256],
        UPER,
        lambda **options: Swin(32, (1, 2, 2, 2), drop_path=0.0, **options),
        {"shift_small_maps": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_losses_are_mmsegmentations(case: str, tmp_path: Path) -> None:
    """Through a file of theirs, which a model with other options refuses by naming them."""
    torch.manual_seed(0)
    backbone, channels, head, build, options = CASES[case]
    auxiliary = {**AUX, "channels": 16, "dropout_ratio": 0.0}
    config = theirs(backbone, {**head, "channels": 24}, auxiliary, channels)
    peer = scattered(config)
    path = saved(peer, config, tmp_path / "theirs.pth")
    with torch.device("meta"):
        plain = EncoderDecoder(build(), len(NAMES), {**head, **NARROW}, auxiliary)
    with pytest.raises(TaskError) as error:
        load_model_weights(plain, NAMES, path)
    asked = shlex.split(str(error.value).partition("; give ")[2])
    given = [str(word) for name, value in options.items() for word in (f"--model.backbone.{name}", str(value))]
    assert [word.lower() for word in asked] == [word.lower() for word in given]

    ours = EncoderDecoder(build(**options), len(NAMES), {**head, **NARROW}, auxiliary).eval()
    load_model_weights(ours, NAMES, path)
    image, mask = torch.randn(2, 3, 72, 99), torch.randint(len(NAMES), (2, 72, 99))
    mask[:, 30:40] = 255
    metas = [{"img_shape": (72, 99), "pad_shape": (72, 99)}] * 2
    with torch.no_grad():
        expected = peer.eval().encode_decode(image, metas)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.logits(image), expected, rtol=1e-4, atol=1e-4)
        samples = [
            SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=m[None]))
            for meta, m in zip(metas, mask, strict=True)
        ]
        wanted, found = peer.train().loss(image, samples), ours.train().losses(image, mask)
    losses = {name.removeprefix("decode.").replace("aux.", "aux_"): value for name, value in wanted.items()}
    assert found.keys() == {"loss_ce", "aux_loss_ce"}
    for name, value in {**found, **found.numbers}.items():
        torch.testing.assert_close(value.reshape(()), losses[name].reshape(()), rtol=1e-4, atol=1e-5)


def built(config: Part) -> Any:
    """Their module of a config, without memory; Swin's rates of dropped paths have to be read."""
    init_default_scope("mmseg")
    swin = "SwinTransformer" in (config["type"], config.get("backbone", {}).get("type"))
    with torch.device("cpu" if swin else "meta"):
        return MODELS.build(config)


RESNETS: list[Part] = [
    {"type": kind, "depth": depth, **D8} for kind, depth in (("ResNet", 18), ("ResNetV1c", 50), ("ResNetV1d", 18))
]
SWINS: list[Part] = [
    {"type": "SwinTransformer"},
    {"type": "SwinTransformer", **SMALL_SWIN, "window_size": 12},
]


@pytest.mark.parametrize("config", [*RESNETS, MOBILE, *SWINS], ids=lambda config: "-".join(map(str, config.values())))
def test_every_key_has_its_place(config: Part) -> None:
    peer, host = built(config), host_of(config)
    assert host is not None
    own = {name: value.shape for name, value in host.state_dict().items()}
    assert {name: value.shape for name, value in host.convert(peer.state_dict()).items()} == own


def file_of(config: Part | None, count: int = 150, **meta: Any) -> Any:
    """What would be read of a file with the config of a model and a classifier of so many classes."""
    text = {} if config is None else {"config": f"norm_cfg = dict(type='SyncBN')\nmodel = {config!r}\n"}
    return of_mmsegmentation({"decode_head.conv_seg.weight": torch.ones(count, 1)}, text | meta, "FILE")


class TestRefused:
    """Weights that fit and compute something else: one line says what to set."""

    @pytest.mark.parametrize(
        ("config", "changed", "expected"),
        [
            (FCN, {"dilation": 6}, "--model.segmentor.decode_head.dilation 6"),
            (ASPP, {"dilations": (1, 6, 12, 18)}, "--model.segmentor.decode_head.dilations '[1, 6, 12, 18]'"),
            (PSP, {"align_corners": True}, "--model.segmentor.decode_head.align_corners true"),
        ],
    )
    def test_options_of_heads(self, config: Part, changed: Part, expected: str) -> None:
        with torch.device("meta"):
            plain = EncoderDecoder(MobileNetV2(output_stride=8, dilation="mmsegmentation"), 7, config, AUX)
        same = theirs(MOBILE, config, AUX, [24, 32, 96, 320])
        require_fitting(plain, file_of(same), "FILE")
        with pytest.raises(TaskError, match="give") as error:
            require_fitting(plain, file_of({**same, "decode_head": {**same["decode_head"], **changed}}), "FILE")
        assert str(error.value).partition("; give ")[2] == expected

    def test_parts_that_are_missing_or_too_many(self) -> None:
        with torch.device("meta"):
            plain = EncoderDecoder(MobileNetV2(output_stride=8, dilation="mmsegmentation"), 7, FCN, AUX)
        config = {**theirs(MOBILE, PSP, None, [24, 32, 96, 320]), "neck": FPN}
        with pytest.raises(TaskError) as error:
            require_fitting(plain, file_of(config), "FILE")
        words = shlex.split(str(error.value).partition("; give ")[2])
        given = {name: json.loads(value) for name, value in zip(words[::2], words[1::2], strict=True)}
        assert given == {
            "--model.segmentor.neck": FPN,
            "--model.segmentor.decode_head": {**PSP, "in_index": 3, "dropout_ratio": 0.0},
            "--model.segmentor.auxiliary_head": None,
        }

    @pytest.mark.parametrize(
        ("backbone", "expected"),
        [
            ({"type": "ResNet", "depth": 50, "style": "caffe"}, "Caffe"),
            ({"type": "ResNetV1c", "depth": 50, "strides": (1, 2, 1, 1)}, r"dilations \(1, 1, 1, 1\).*\(1, 1, 2, 4\)"),
            ({"type": "SwinTransformer", "use_abs_pos_embed": True}, "absolute positions"),
            ({"type": "SwinTransformer", "num_heads": (3, 6, 12, 11)}, "channels of stage 4=768 is not a multiple"),
        ],
    )
    def test_backbones_that_are_not_here(self, backbone: Part, expected: str) -> None:
        with pytest.raises(TaskError, match=expected):
            file_of({"backbone": backbone})

    def test_what_is_asked_for_can_be_given(self, shapes: Path) -> None:
        """The command line with the options of a refusal builds a model that fits."""
        head = {**ASPP, "dilations": [1, 6, 12, 18], "align_corners": True}
        places = {"dilations": (1, 1, 1, 2), "strides": (1, 2, 2, 1), "multi_grid": (1, 2, 4)}
        backbone = {"type": "ResNetV1c", "depth": 101, **places}
        published = file_of(theirs(backbone, head, {**AUX, "align_corners": True}, [256, 512, 1024, 2048]))
        recipe, options = CONFIGS / "segment" / "deeplabv3_160k.yaml", ["--host.weights=null"]
        plain = build_task(recipe, shapes, *options, device="meta").model
        with pytest.raises(TaskError) as error:
            require_fitting(plain, published, "FILE")
        words = shlex.split(str(error.value).partition("; give ")[2])
        fitting = build_task(recipe, shapes, *options, *words, device="meta").model
        require_fitting(fitting, published, "FILE")
        assert fitting.backbone.network_options()["multi_grid"] == (1, 2, 4)

    def test_another_kind_of_model(self) -> None:
        with pytest.raises(TaskError, match=r"this model is no segmentor.*--model.backbone.weights FILE"):
            require_fitting(build_detector(), file_of(None), "FILE")


def build_detector() -> Any:
    from tasks.detectors import FCOS

    with torch.device("meta"):
        return FCOS(ResNet(18), 3)


@pytest.mark.slow
def test_validate(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One command, and no download for the backbone although the recipe asks for ImageNet's weights."""
    names = read_class_names(shapes / "ade20k")
    heads = [{**part, "num_classes": len(names)} for part in (ASPP, AUX)]
    config = theirs(MOBILE, *heads, [24, 32, 96, 320])
    saved(scattered(config), config, tmp_path / "theirs.pth", "config", names[::-1])
    caplog.set_level("INFO")
    arguments = [
        f"--config={CONFIGS}/segment/deeplabv3_160k.yaml",
        f"--data={CONFIGS}/data/shapes_segment.yaml",
        f"--data.root={shapes}/ade20k",
        "--data.num_workers=0",
        "--model.backbone=mobilenet_v2",
        "--model.backbone.dilation=mmsegmentation",
        f"--model.weights={tmp_path}/theirs.pth",
        "--trainer.accelerator=cpu",
        "--trainer.limit_val_batches=1",
        f"--runs={tmp_path}/runs",
        "--name=test",
    ]
    segment.main(["validate", *arguments])
    count = len(names)
    expected = (
        f"MMSegmentation's ASPPHead on MobileNetV2, {count} outputs; {count} of {count} classes taken over by name"
    )
    assert expected in caplog.text


def test_config_text_is_read_and_not_run() -> None:
    text = "x = print('run')\nmodel = dict(dict(a=1), b=[(2, -0.5), None], **dict(c={'d': True}))\n"
    assert model_config({"cfg": text}) == {"a": 1, "b": [[2, -0.5], None], "c": {"d": True}}
    for other in ("model = dict(a=open('x'))", "model = 3", "model = dict(", "", "y = dict(a=1)"):
        assert model_config({"config": other}) is None


def test_names_of_classes() -> None:
    """Those in the file; ADE20K's as its own list spells them; and what the file says of windows."""
    config = theirs(
        MOBILE, FCN, None, [24, 32, 96, 320], test_cfg={"mode": "slide", "crop_size": [9, 9], "stride": [5, 5]}
    )
    assert file_of(None, 2, CLASSES=("elk", "hen")).class_names == ["elk", "hen"]
    found = file_of(config, 7, CLASSES=NAMES)
    assert found.title == (
        "MMSegmentation's FCNHead on MobileNetV2, scored in windows of [9, 9] pixels, [5, 5] apart, 7 outputs"
    )
    ade = file_of(None).class_names
    assert len(ade) == 150 and {"bed", "television"} <= set(ade)


ROOT = Path(mmseg.__file__).parent / ".mim" / "configs"
FAMILIES = ("ResNet", "ResNetV1c", "ResNetV1d", "MobileNetV2", "SwinTransformer")


PLAIN_HEADS = {"FCNHead", "PSPHead", "ASPPHead", "DepthwiseSeparableASPPHead", "UPerHead", "FPNHead"}


def published() -> dict[str, Part]:
    """Configs of MMSegmentation's whose backbones are here, one for each network, whatever data it was trained on."""
    init_default_scope("mmseg")
    paths = {path.stem.split("xb")[0]: path for path in sorted(ROOT.glob("[!_]*/*xb*.py"))}
    models = {name: Config.fromfile(path, import_custom_modules=False).model for name, path in paths.items()}
    return {
        name: model.to_dict()
        for name, model in models.items()
        if model.type == "EncoderDecoder" and model.backbone.type in FAMILIES
    }


@pytest.mark.slow
def test_every_published_segmentor_of_these_families() -> None:
    """The heads that a refusal asks for, on the host that it asks for, make a model of the same entries, all but six.

    Five dilate without leaving strides out, and one compares two images.
    """
    results = {
        name: result_of(config)
        for name, config in published().items()
        if not isinstance(config["decode_head"], list) and config["decode_head"]["type"] in PLAIN_HEADS
    }
    refused = {name: result for name, result in results.items() if result != "loads"}
    dilated = "has strides (1, 2, 2, 2) with dilations (1, 1, 2, 4); here these would be (1, 1, 1, 1)"
    assert refused == {
        "fastfcn_r50-d32_jpu_aspp_4": dilated,
        "fastfcn_r50-d32_jpu_psp_4": dilated,
        "pspnet_r50-d32_4": dilated,
        "pspnet_r50-d32_rsb_4": dilated,
        "pspnet_r50b-d32_4": dilated,
        "swin-tiny-patch4-window7_upernet_1": "has a backbone for 6 channels, here images have 3",
    }
    assert len(results) == 48 + len(refused)


def result_of(config: Part) -> str:
    """`loads`, or the first word that stands in the way."""
    try:
        backbone, given = host_of(plain(config["backbone"])), {}
    except ValueError as error:
        return str(error)
    assert backbone is not None
    for part in ("neck", "decode_head", "auxiliary_head"):
        if config.get(part):
            given[part] = to_give(plain(config[part]))
    heads = config["decode_head"] if isinstance(config["decode_head"], list) else [config["decode_head"]]
    try:
        with torch.device("meta"):
            ours = EncoderDecoder(backbone, heads[-1]["num_classes"], **given)
    except Exception as error:
        return f"not built: {error}"
    peer = built({**config, "data_preprocessor": None, "pretrained": None})
    names = {name: value.shape for name, value in peer.state_dict().items()}
    inside = {n.removeprefix("backbone."): v for n, v in peer.state_dict().items() if n.startswith("backbone.")}
    names = {name: shape for name, shape in names.items() if not name.startswith("backbone.")}
    names |= {f"backbone.{name}": value.shape for name, value in backbone.convert(inside).items()}
    own = {name: value.shape for name, value in ours.state_dict().items()}
    left_out = {f"backbone.{name}" for name in backbone._left_out}
    if own.keys() != names.keys() - left_out:
        return f"other entries: {sorted(own.keys() ^ (names.keys() - left_out))[:3]}"
    different = [name for name, shape in own.items() if shape != names[name]]
    return f"other shapes: {different[:3]}" if different else "loads"


def plain(value: Any) -> Any:
    """A config as it is read of text: lists for tuples."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def to_give(config: Any) -> Any:
    """What a refusal asks for of a head or neck, of heads in a list each."""
    return [to_give(part) for part in config] if isinstance(config, list) else part_differences(None, config)[""]
