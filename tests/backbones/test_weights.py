"""Weight files: what loads, what is tolerated, and what is refused."""

import hashlib
import logging
import urllib.error
import urllib.request

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from attention import SqueezeExcitation
from backbones import Classifier, MobileNetV2, ResNet, export_weights, load_weights


def small(**options):
    return MobileNetV2(0.35, **options)


def equal(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_round_trip(tmp_path, suffix):
    source, path = small(attention=lambda c: SqueezeExcitation(c, 8)), str(tmp_path / f"weights{suffix}")
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    assert equal(source, small(attention=lambda c: SqueezeExcitation(c, 8), weights=path))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.7},
        lambda state: {"model": state, "optimizer": {"lr": [0.1]}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {**state, "classifier.1.weight": torch.zeros(10, 1280), "fc.bias": torch.zeros(3)},
    ],
    ids=["state_dict", "model", "module", "old-batch-norm", "classifier"],
)
def test_wrappers_prefixes_and_classifiers_are_seen_through(tmp_path, wrap, caplog):
    source, target, path = small(), small(), str(tmp_path / "weights.pth")
    torch.save(wrap(source.state_dict()), path)
    with caplog.at_level(logging.INFO):
        load_weights(target, path)
    assert equal(source, target)
    assert caplog.records == []


def test_classifier_of_a_published_network_is_ignored(tmp_path, caplog):
    for peer, host in [
        (torchvision.models.resnet18(), lambda path: ResNet(18, weights=path)),
        (torchvision.models.mobilenet_v2(), lambda path: MobileNetV2(weights=path)),
    ]:
        path = str(tmp_path / "weights.pth")
        torch.save(peer.state_dict(), path)
        with caplog.at_level(logging.INFO):
            backbone = host(path)
        assert all(torch.equal(value, peer.state_dict()[name]) for name, value in backbone.state_dict().items())
    assert caplog.records == []


def test_saved_classifier_loads_into_a_backbone(tmp_path):
    source, path = small(), str(tmp_path / "weights.pth")
    torch.save(Classifier(source, 10).state_dict(), path)
    assert equal(source, small(weights=path))


def test_inserted_attention_may_be_missing(tmp_path, caplog):
    source, path = small(), str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    with caplog.at_level(logging.INFO):
        target = small(attention=lambda c: SqueezeExcitation(c, 8), weights=path)
    assert equal(source, target)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "64 entries of attention" in record.message


def test_partly_missing_attention_is_a_warning(tmp_path, caplog):
    path = str(tmp_path / "weights.pth")
    torch.save(ResNet(18, SqueezeExcitation, (4,)).state_dict(), path)
    ResNet(18, SqueezeExcitation, weights=path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_unexpected_entries_are_a_warning(tmp_path, caplog):
    source, path = small(attention=lambda c: SqueezeExcitation(c, 8)), str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    small(weights=path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "64 unexpected entries: features.2.attention.fc1.weight" in record.message


def test_missing_host_parameters_are_refused_and_nothing_is_loaded(tmp_path):
    source, target, path = small(), small(), str(tmp_path / "weights.pth")
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("features.4.")}
    torch.save(state, path)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"lacks 15 of .* MobileNetV2, the first features\.4\.conv\.0\.0\.weight"):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_other_shapes_are_refused(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(MobileNetV2(0.5).state_dict(), path)
    with pytest.raises(ValueError, match=r"entries of other shapes, the first features.* for .*same architecture"):
        small(weights=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file; give 'imagenet', the path or address"),
        (b"", "is damaged or holds more than tensors"),
        (b"not a checkpoint", "is damaged or holds more than tensors"),
        ({"epoch": 3}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"state_dict": {"conv1.weight": logging.INFO}}, "holds no state dict"),
        (logging.Formatter(), "is damaged or holds more than tensors"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        small(weights=str(path))
    assert "\n" not in str(error.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub and no network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_imagenet_weights_come_from_the_cache(hub):
    peer = torchvision.models.resnet18()
    (hub / "checkpoints").mkdir()
    torch.save(peer.state_dict(), hub / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = ResNet(18, SqueezeExcitation, weights="imagenet")
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


def test_imagenet_weights_without_network_say_where_to_put_the_file(hub):
    with pytest.raises(RuntimeError, match=r"fetch https://.*resnet18-f37072fd.pth elsewhere and put it at") as error:
        ResNet(18, weights="imagenet")
    assert str(hub / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_has_published_weights(depth):
    with torch.device("meta"):
        published = ResNet(depth).published_weights()
    assert published.url.split("/")[-1].startswith(f"resnet{depth}-")


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "module.backbone.", "backbone.body."])
def test_backbone_of_a_whole_model(tmp_path, prefix, caplog):
    source, path = small(), str(tmp_path / "weights.pth")
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    other = prefix.replace("backbone.", "").replace("body.", "")
    torch.save(
        {"state_dict": {**state, f"{other}neck.weight": torch.ones(3), f"{other}head.bias": torch.ones(2)}}, path
    )
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    assert caplog.records == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_exported_weights_come_back(tmp_path, suffix):
    source, run, out = small(), str(tmp_path / "last.ckpt"), str(tmp_path / f"weights{suffix}")
    state = {f"model.backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "model.head.weight": torch.ones(3)}, "epoch": 3, "hyper_parameters": {}}, run)
    export_weights(run, out)
    assert equal(source, small(weights=out))


def test_export_names_the_formats_that_it_knows(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(small().state_dict(), path)
    with pytest.raises(ValueError, match=r"out='weights.onnx' .*safetensors or .pth"):
        export_weights(path, "weights.onnx")


@pytest.fixture
def published_file(tmp_path, monkeypatch):
    """A file with weights, its SHA-256, and an empty cache of torch.hub."""
    path = tmp_path / "server" / "weights.pth"
    path.parent.mkdir()
    torch.save(small().state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_addresses_are_downloaded_once_and_checked(published_file, caplog):
    path, digest = published_file
    address = f"{path.as_uri()}#sha256={digest}"
    state = torch.load(path)
    for _ in range(2):
        backbone = small(weights=address)
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
        path.unlink(missing_ok=True)  # the second time it is in the cache
    assert caplog.records == []


def test_the_sum_in_a_file_name_is_checked(published_file):
    path, digest = published_file
    good, bad = path.with_name(f"weights-{digest[:8]}.pth"), path.with_name("weights-01234567.pth")
    good.write_bytes(path.read_bytes())
    bad.write_bytes(path.read_bytes())
    small(weights=good.as_uri())
    with pytest.raises(RuntimeError, match=rf"has the SHA-256 {digest} and not 01234567; delete it"):
        small(weights=bad.as_uri())


def test_addresses_without_a_sum_are_loaded_with_a_warning_that_has_it(published_file, caplog):
    path, digest = published_file
    small(weights=path.as_uri())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"#sha256={digest}" in record.message


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("https://nowhere.invalid/weights.pth", RuntimeError, "could not be downloaded .*put it at .*weights.pth"),
        ("https://nowhere.invalid/weights.pth#md5=1", ValueError, "is no checksum; write #sha256="),
        ("ResNet50_Weights.IMAGENET1K_V9", ValueError, "no set of weights of torchvision's"),
        ("MobileNet_V2_Weights.IMAGENET1K_V1", RuntimeError, "fetch https://.*mobilenet_v2-b0353104.pth elsewhere"),
        ("resnet51.ra2_in1k", ValueError, "timm has no network of that name"),
    ],
)
def test_sources_that_fail_say_so_in_one_line(hub, weights, error, message):
    with pytest.raises(error, match=message) as found:
        small(weights=weights)
    assert "\n" not in str(found.value)


def test_names_of_torchvision_are_weights(hub):
    peer = torchvision.models.resnet18()
    (hub / "checkpoints").mkdir()
    torch.save(peer.state_dict(), hub / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = ResNet(18, weights="ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


def test_names_of_timm_are_weights(monkeypatch):
    peer = timm.create_model("resnet18")
    asked = []

    def create_model(name, pretrained):
        asked.append((name, pretrained))
        return peer

    monkeypatch.setattr(timm, "create_model", create_model)
    backbone = ResNet(18, weights="resnet18.a1_in1k")
    assert asked == [("resnet18.a1_in1k", True)]
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


def test_timm_without_network_is_one_line(monkeypatch):
    def create_model(name, pretrained):
        raise OSError("We couldn't connect to the hub\nand so on")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(RuntimeError, match="could not be loaded by timm") as error:
        ResNet(18, weights="resnet18.a1_in1k")
    assert "\n" not in str(error.value)
