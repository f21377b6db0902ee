"""What holds for every published network, and on one network of every host what costs more to find out.

Sizes and exports are checked for all networks. One network per class of hosts goes through gradients, freezing,
checkpointing, compilation and training; `-m slow` does so for all networks where that means something new.
"""

import copy
import inspect
import io
import math
import typing

import pytest
import torch
from torch import nn

import attention
import backbones
import datamodules
import tasks.detectors
import tasks.segmentors
from attention.base import Mixer, Refine
from attention.maps import record_attention
from backbones import Backbone, overview
from backbones.zoo.options import USE
from backbones.zoo.registry import backbone_function, published_figures
from datamodules import ADE20K, COCO, FixedSize, RandomRatioCrop
from tasks.detectors import RetinaNet
from tasks.profile.counting import count_macs
from tasks.segmentors import EncoderDecoder
from tests.selection import mostly_slow

NAMES = backbones.list_backbones()
FIGURES = published_figures()
# One network per class of hosts, small, with attention; and a size in pixels that leaves borders everywhere.
HOSTS = {
    "attention_cnn_quadratic": (15, 21),
    "cbam_mobilenet_v1": (43, 61),
    "efficientnet_b0_ca": (43, 61),
    "elsa_swin_t": (43, 61),
    "elsa_volo_d1": (43, 61),
    "halonet26t": (43, 61),
    "halonet_h0": (43, 61),
    "lavit_t": (43, 61),
    "ltpa_vgg": (33, 21),
    "mobilenet_v2_ca": (43, 61),
    "mobilenext_ca": (43, 61),
    "sasa_resnet26": (43, 61),
    "swin_t": (43, 61),
    "volo_d1": (43, 61),
}
# In every run of the tests; all with -m slow, and smaller networks of each class in the test file of its host.
# Hosts whose own test files hold no published numbers, by parameters and operations, in every run.
COUNTED_HERE = {"attention_cnn_quadratic", "cbam_mobilenet_v1", "efficientnet_b0_ca", "halonet26t", "lavit_t"}
COUNTED_HERE |= {"ltpa_vgg", "sasa_resnet26"}
BUILT_HERE = {"elsa_volo_d1", "halonet26t", "ltpa_vgg", "mobilenet_v2_ca", "swin_t"}
CHECKPOINTED_HERE = {"mobilenet_v2_ca"}
# Sides of the training images where 40 pixels take too long: these work at strides 1 and 2.
SIDES = {"attention_cnn_quadratic": 24, "attention_cnn_learned": 24, "attention_cnn_content": 24, "ltpa_vgg": 24}

every_network = pytest.mark.parametrize("name", NAMES)
every_host = pytest.mark.parametrize("name", HOSTS)


@pytest.fixture(scope="module", params=mostly_slow(HOSTS, BUILT_HERE))
def host(request):
    """Name and network of every host, built once for all tests that copy it."""
    return request.param, build(request.param)


def build(name, **options):
    """A network with reproducible weights; what starts at zero gets weight, or it would pass no gradient on."""
    torch.manual_seed(0)
    backbone = backbones.build_backbone(name, **options)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if not parameter.any():
                parameter.uniform_(0.1, 0.5)  # as a bias it keeps the hidden units of small gates alive
    return backbone


def expected_shapes(backbone, batch, height, width):
    return [
        (batch, channels, math.ceil(height / stride), math.ceil(width / stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


def check_contract(backbone):
    assert len(backbone.channels) == len(backbone.strides) >= 1
    assert sorted(set(backbone.strides)) == list(backbone.strides)
    assert backbone.size_divisibility == 1


def total(features):
    return sum(feature.square().mean() for feature in features)


def test_table_and_list_have_the_same_networks():
    assert sorted(FIGURES) == NAMES and list(FIGURES) == NAMES
    for name, figures in FIGURES.items():
        assert figures.reading in ("verified", "reconstruction"), name
        assert figures.source and (figures.reading == "verified" or figures.notes), name


def test_page_shows_the_table(tmp_path, monkeypatch, capsys):
    overview.main(["--check"])
    lines = overview.page().splitlines()
    for name in NAMES:
        (row,) = [line for line in lines if line.startswith(f"| [`{name}`]")]
        cells = [cell.strip() for cell in row.split(" | ")]
        assert len(cells) == len(overview.COLUMNS) and cells[1] == f"{FIGURES[name].parameters:,}"
        assert (overview.ROOT / "docs" / cells[0].split("(")[1].rstrip(")")).is_file()
    overview.main(["--write", str(tmp_path / "page.md")])
    overview.main([])
    assert (tmp_path / "page.md").read_text() == capsys.readouterr().out == overview.page()
    (tmp_path / "page.md").write_text("old")
    monkeypatch.setattr(overview, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(overview, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"page\.md is outdated; run python -m backbones\.overview"):
        overview.main(["--check"])


def test_every_class_of_hosts_has_a_network_here():
    classes = {typing.get_type_hints(backbone_function(name))["return"] for name in NAMES}
    assert classes == {typing.get_type_hints(backbone_function(name))["return"] for name in HOSTS}


@every_network
def test_entry_is_a_typed_function_of_the_package(name):
    function = getattr(backbones, name)
    assert function is backbone_function(name) and name in backbones.__all__ and inspect.isfunction(function)
    hints, parameters = typing.get_type_hints(function), inspect.signature(function).parameters
    assert issubclass(hints["return"], Backbone) and hints.keys() == {*parameters, "return"}
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters.values())
    required = {"weights": None, "frozen_stages": 0, "checkpointing": False}
    defaults = {option: parameter.default for option, parameter in parameters.items()}
    assert inspect.Parameter.empty not in defaults.values() and required.items() <= defaults.items()
    summary, _, arguments = inspect.getdoc(function).partition("Args:\n")
    assert summary.splitlines()[0].endswith((".", ":", ","))
    described = [line.split(":")[0].strip() for line in arguments.splitlines() if line[4:5].strip()]
    assert described == list(parameters)


@every_network
def test_what_was_published_is_fixed(name):
    """Options of use are the host's, with its defaults where the network has none; all others are refused, unbuilt."""
    function = backbone_function(name)
    host = inspect.signature(typing.get_type_hints(function)["return"]).parameters
    shown = inspect.signature(function).parameters
    own = inspect.signature(function.__wrapped__).parameters
    own = {option for option, parameter in own.items() if parameter.kind is not parameter.VAR_KEYWORD}
    assert {*shown} == own | ({*host} & {*USE})
    assert all(shown[option] == host[option] for option in {*shown} - own)
    for option in [*({*host} - {*shown}), "weight"]:
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument '{option}'$"):
            function(**{option: None})


def test_a_networks_own_default_is_shown_described_and_used():
    parameter = inspect.signature(backbones.swin_b).parameters["drop_path"]
    assert parameter.default == 0.5 and parameter.annotation is float
    document = inspect.getdoc(backbones.swin_b)
    assert document.startswith("Swin-B: 83.5 %") and "    drop_path: Probability of skipping the last" in document
    with torch.device("meta"):
        assert backbones.elsa_swin_s().features[-1][-1].stochastic_depth.p == 0.3
        assert backbones.elsa_swin_s(drop_path=0.25).features[-1][-1].stochastic_depth.p == 0.25
    assert "reduction: Divisor r of the hidden width m = max(" in inspect.getdoc(backbones.mobilenext_ca)  # CA's text
    assert "it; `last` behind the last one, which gives the paper's 4.09 M" in inspect.getdoc(backbones.mobilenext_ca)


def test_public_constructors_name_their_options():
    """`**options` stand in the sources of the zoo alone, and are not seen from outside."""
    packages = (attention, backbones, datamodules, tasks.detectors, tasks.segmentors)
    classes = [getattr(package, name) for package in packages for name in package.__all__]
    constructors = [vars(made)["__init__"] for made in classes if inspect.isclass(made) and "__init__" in vars(made)]
    for function in [*constructors, *map(backbone_function, NAMES)]:
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, function
    assert len(constructors) > 50


@pytest.mark.parametrize("name", mostly_slow(NAMES, COUNTED_HERE))
def test_published_size_and_cost(name):
    """Without storage, so at full size; shapes of the features are seen on the way."""
    figures = FIGURES[name]
    with torch.device("meta"):
        network = backbones.classifier(name, figures.classes).eval()
        assert isinstance(network.backbone, typing.get_type_hints(backbone_function(name))["return"])
        seen = []
        network.backbone.register_forward_hook(lambda module, inputs, features: seen.append((module, features)))
        image = torch.zeros(1, 3, figures.size, figures.size)
        macs = count_macs(lambda: network(image))
    assert sum(parameter.numel() for parameter in network.parameters()) == figures.parameters
    assert macs == pytest.approx(figures.macs, rel=0.005)
    for backbone, features in seen:  # VOLO's and LTPA's classifiers read more than the features
        check_contract(backbone)
        assert [tuple(f.shape) for f in features] == expected_shapes(backbone, 1, figures.size, figures.size)


def test_features_of_odd_images(host):
    backbone = host[1].eval()
    check_contract(backbone)
    fine = backbone.strides[0] == 2 or isinstance(backbone, backbones.VGG)  # time of a full-size image: minutes
    with torch.no_grad():
        for height, width in [(51, 83) if fine else (75, 107), (33, 1)]:
            features = backbone(torch.randn(1, 3, height, width))
            assert [tuple(f.shape) for f in features] == expected_shapes(backbone, 1, height, width)
            assert all(f.isfinite().all() for f in features)


@pytest.mark.slow
@every_network
def test_shapes_of_odd_images(name):
    with torch.device("meta"), torch.no_grad():
        backbone = backbones.build_backbone(name).eval()
        check_contract(backbone)
        for batch, height, width in [(1, 203, 331), (2, 33, 65)]:
            features = backbone(torch.zeros(batch, 3, height, width))
            assert [tuple(f.shape) for f in features] == expected_shapes(backbone, batch, height, width)


def test_backward_reaches_every_parameter(host):
    """No exception: the one that errata 1 names is behind the features, see below."""
    name, backbone = host[0], copy.deepcopy(host[1]).eval()
    total(backbone(torch.randn(2, 3, *HOSTS[name]))).backward()
    assert [n for n, p in backbone.named_parameters() if not p.grad.any() or not p.grad.isfinite().all()] == []


def test_backward_through_a_classifier_of_attended_maps():
    """Weights of parametrised attention do not depend on the global vector, so what only makes that is not reached."""
    torch.manual_seed(0)
    network = backbones.classifier("ltpa_vgg", 100).double().eval()
    network(torch.randn(2, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
    sizes = {n: float(p.grad.abs().max()) for n, p in network.backbone.named_parameters()}
    lost = {n for n, size in sizes.items() if size < 1e-9 * max(sizes.values())}  # rounding leaves 1e-16
    behind_the_last_tap = ("blocks.5.", "blocks.6.")
    assert lost == {n for n, _ in network.backbone.named_parameters() if n.startswith(behind_the_last_tap)}


@pytest.mark.parametrize("name", mostly_slow(HOSTS, BUILT_HERE))
def test_frozen_stages_and_groups(name):
    backbone = build(name, frozen_stages=2)
    assert backbone.train() is backbone and backbone.frozen_stages == 2
    inserted = {  # published weights lack them: they learn everywhere
        id(part)
        for name, module in backbone.named_modules()
        if isinstance(module, Refine | Mixer) and f"{name}." in backbone.inserted_prefixes()
        for part in (*module.modules(), *module.parameters(), *module.buffers())
    }
    for number, stage in enumerate(backbone.stages()):
        for part in stage:
            assert all(p.requires_grad == (number >= 2 or id(p) in inserted) for p in part.parameters())
            assert all(module.training == (number >= 2 or id(module) in inserted) for module in part.modules())
    before = copy.deepcopy(backbone.state_dict())
    total(backbone(torch.randn(2, 3, *HOSTS[name]))).backward()
    frozen = nn.ModuleList(part for stage in backbone.stages()[:2] for part in stage)
    assert all(p.grad is None for p in frozen.parameters() if id(p) not in inserted)
    state = {id(value): key for key, value in backbone.state_dict(keep_vars=True).items()}
    for value in (*frozen.parameters(), *frozen.buffers()):
        if id(value) in state and id(value) not in inserted:
            assert torch.equal(value, before[state[id(value)]])
    groups = backbone.layer_groups()  # raises unless every parameter is in it once
    assert {id(p) for group in groups for p in group} == {id(p) for p in backbone.parameters()}
    assert len(groups) > len(backbone.stages()) / 2


def test_state_survives_a_file(host):
    name, source, file = host[0], host[1].eval(), io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    target = backbones.build_backbone(name).eval()
    target.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 3, *HOSTS[name])
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(source(x), target(x), strict=True))


@pytest.mark.parametrize("name", mostly_slow(HOSTS, CHECKPOINTED_HERE))
def test_checkpointing_changes_nothing_but_memory(name):
    plain, spared = (build(name, checkpointing=on).double().train() for on in (False, True))
    x = torch.randn(2, 3, *HOSTS[name], dtype=torch.float64)
    kept = []
    for backbone in (plain, spared):
        own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
        storages = {}

        def pack(value, own=own, storages=storages):
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return value

        torch.manual_seed(2)  # of dropout and stochastic depth
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = total(backbone(x))
        loss.backward()
        kept.append(sum(storages.values()))
    for (n, p), q in zip(plain.named_parameters(), spared.parameters(), strict=True):
        scale = max(1e-12, 1e-9 * float(p.grad.abs().max()))
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=scale, msg=n)
    for (n, b), c in zip(plain.named_buffers(), spared.buffers(), strict=True):
        torch.testing.assert_close(c, b, msg=n)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.slow  # in every run: test_swin.py
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@every_host
def test_compiled_networks_agree(name, backend):
    network = build(name).double().eval()
    x = torch.randn(1, 3, *HOSTS[name], dtype=torch.float64)
    torch.compiler.reset()
    expected, found = network(x), torch.compile(network, backend=backend, fullgraph=True)(x)
    for feature, value in zip(found, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(total(features), parameters) for features in (found, expected)]
    for n, gradient, value in zip(names, *gradients, strict=True):
        scale = max(1e-12, 1e-9 * float(value.abs().max()))
        torch.testing.assert_close(gradient, value, rtol=1e-9, atol=scale, msg=n)


def test_attention_is_recorded_where_there_is_some(host):
    name, backbone = host[0], host[1].eval()
    with torch.no_grad(), record_attention(backbone) as maps:
        backbone(torch.randn(1, 3, *HOSTS[name]))
    without = ("swin_t", "ltpa_vgg")  # windows are those of torchvision's Swin; LTPA's maps are its classifier's
    assert bool(maps) == (name not in without)


def check_training(model, batch, head_rate=1e-2, steps=20):
    """Adam on one batch: every loss is finite, and the last ones are clearly below the first ones."""
    rest = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
    groups = [{"params": model.backbone.parameters(), "lr": 1e-3}, {"params": rest, "lr": head_rate}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    history = []
    model.train()
    for _ in range(steps):
        loss = sum(value for key, value in model(batch).items() if "acc" not in key)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        history.append(loss.item())
    assert all(map(math.isfinite, history)), history
    assert sum(history[-3:]) < 0.8 * sum(history[:3]), history


@pytest.mark.slow  # in every run: tests/golden, and a step under every head in tests/tasks/test_every_head.py
@every_network
def test_a_segmentor_learns(name, shapes):
    side = SIDES.get(name, 40)
    pipeline = RandomRatioCrop(longest=2 * side, shorter=side, crop=side, ratio=(1.0, 1.0), photometric=False)
    data = ADE20K(shapes / "ade20k", pipeline=pipeline, batch_size=2, num_workers=0)
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    head = {"type": "FCNHead", "channels": 32, "num_convs": 1, "dropout_ratio": 0.0}
    check_training(EncoderDecoder(backbones.build_backbone(name), len(data.read_class_names()), head), batch)


@pytest.mark.slow  # in every run: tests/tasks/detectors/test_detectors.py
def test_a_detector_learns(shapes):
    data = COCO(shapes / "coco", pipeline=FixedSize(64, 64), batch_size=2, num_workers=0)
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    detector = RetinaNet(backbones.build_backbone("mobilenet_v2_ca"), len(data.class_names), channels=32)
    check_training(detector, batch, head_rate=1e-3)  # at 1e-2 the focal loss jumps, at other steps on other processors


def test_labels_tell_sizes_apart():
    with torch.device("meta"):
        labels = [
            backbones.build_backbone(name).label
            for name in ("halonet_h0", "halonet_h7", "lavit_t", "lavit_b", "elsa_volo_d2")
        ]
        assert labels == ["halonet_h0", "halonet_h7", "lavit_t", "lavit_b", "elsa_volo_d2"]
        assert backbones.build_backbone("resnet50").label == "ResNet-50"
