"""Weight files: what loads, what is tolerated, and what is refused."""

import argparse
import hashlib
import http.client
import logging
import os
import urllib.error

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from attention import SqueezeExcitation
from backbones import Classifier, MobileNetV2, ResNet, export_weights, load_weights
from backbones.weight_sources import read_weights


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


@pytest.mark.parametrize(
    "shell",
    ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.", "model.backbone._orig_mod."],
)
def test_shells_of_compilers_and_modules_are_seen_through(tmp_path, shell, caplog):
    source, path = small(), str(tmp_path / "weights.pth")
    torch.save({"state_dict": {f"{shell}{name}": value for name, value in source.state_dict().items()}}, path)
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    assert caplog.records == []


def test_arguments_of_a_training_script_are_no_obstacle(tmp_path):
    source, path = small(), str(tmp_path / "weights.pth")
    torch.save({"model": source.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}, path)
    assert equal(source, small(weights=path))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda last, average: {"state_dict": last, "state_dict_ema": average},  # timm
        lambda last, average: {  # torchvision
            "model": last,
            "model_ema": {"n_averaged": torch.tensor(9), **{f"module.{name}": average[name] for name in average}},
        },
    ],
    ids=["timm", "torchvision"],
)
def test_averaged_weights_are_preferred_and_said_so(tmp_path, wrap, caplog):
    source, path = small(), str(tmp_path / "weights.pth")
    torch.save(wrap(small().state_dict(), source.state_dict()), path)
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    (record,) = caplog.records
    assert "took the averaged weights" in record.message


def test_own_weights_beside_averaged_ones_of_mmengine(tmp_path):
    """MMEngine swaps the two when it saves: `state_dict` has the averaged ones."""
    source, path = small(), str(tmp_path / "weights.pth")
    other = {f"module.backbone.{name}": value for name, value in small().state_dict().items()}
    average = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": average, "ema_state_dict": other}, path)
    assert equal(source, small(weights=path))


@pytest.mark.parametrize("other", ["teacher.backbone.", "ema_model.backbone.", "model.teacher.backbone."])
def test_several_backbones_are_refused(tmp_path, other):
    state, path = small().state_dict(), str(tmp_path / "weights.pth")
    torch.save({f"{prefix}{name}": state[name] for prefix in (other, "backbone.") for name in state}, path)
    with pytest.raises(ValueError, match=rf"holds 2 backbones, .*{other}.*; save the entries of one of them"):
        small(weights=path)


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


@pytest.mark.parametrize(("deep", "shallow"), [(34, 18), (50, 26)])
def test_weights_of_a_deeper_network_are_refused_and_nothing_is_loaded(tmp_path, deep, shallow):
    """Every parameter of the shallow one is there, in the right shape, and means something else."""
    target, path = ResNet(shallow), str(tmp_path / "weights.pth")
    torch.save(getattr(torchvision.models, f"resnet{deep}")().state_dict(), path)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"entries of blocks that ResNet does not have, the first layer\d\.\d\."):
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


def test_damaged_files_of_every_kind_are_refused_in_one_line(tmp_path):
    """Readers of cut-off and altered files raise whatever they stumble over."""
    state, paths = {"a": torch.arange(9.0), "b": torch.ones(2)}, [tmp_path / f"weights{i}.pth" for i in range(2)]
    torch.save(state, paths[0])
    torch.save(state, paths[1], _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "weights.safetensors")
    generator = torch.Generator().manual_seed(0)
    for path in [*paths, tmp_path / "weights.safetensors"]:
        content = path.read_bytes()
        cuts = [content[: int(part * len(content))] for part in (0.0, 0.005, 0.01, 0.1, 0.5, 0.9, 0.999)]
        places = torch.randint(min(300, len(content)), (15, 2), generator=generator).tolist()
        altered = [content[:i] + bytes([j % 256]) + content[i + 1 :] for i, j in places]
        for number, damaged in enumerate([*cuts, *altered, b"<html>Not found</html>"]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="weights=") as error:  # a file that is read lacks the parameters
                small(weights=str(path))
            assert "\n" not in str(error.value)
            if number < len(cuts):
                assert "is damaged or holds more than tensors" in str(error.value)


def test_code_in_a_file_is_named_and_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = str(tmp_path / "weights.pth")
    torch.save({**small().state_dict(), "code": Code()}, path)
    with pytest.raises(ValueError, match=r"holds more than tensors \(\w+\.mkdir\)"):
        small(weights=path)
    assert not (tmp_path / "ran").exists()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = small()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    assert equal(source, small(weights="~/weights.pth"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub and no network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)  # its own name of urllib's
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def published_resnet18(hub, monkeypatch):
    """A ResNet-18 whose state dict is what torchvision publishes, and its file in the cache."""
    peer, path = torchvision.models.resnet18(), hub / "checkpoints" / "published.pth"
    path.parent.mkdir()
    torch.save(peer.state_dict(), path)
    path = path.rename(path.with_name(f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"https://nowhere.invalid/{path.name}")
    return peer, path


@pytest.mark.parametrize("weights", ["imagenet", "ResNet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.DEFAULT"])
def test_weights_of_torchvision_come_from_the_cache(published_resnet18, weights):
    peer, _ = published_resnet18
    backbone = ResNet(18, SqueezeExcitation, weights=weights)
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


def test_a_truncated_file_of_torchvision_in_the_cache_is_refused(published_resnet18):
    _, path = published_resnet18
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=rf"'imagenet': {path} has the SHA-256 .* delete it, and fetch it again"):
        ResNet(18, weights="imagenet")


def test_code_in_a_file_of_torchvision_is_not_run(published_resnet18, monkeypatch):
    peer, path = published_resnet18
    torch.save({**peer.state_dict(), "code": logging.Formatter()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(path.with_name(f"resnet18-{digest[:8]}.pth"))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"https://nowhere.invalid/{path.name}")
    with pytest.raises(ValueError, match=rf"more than tensors \(logging.Formatter\); .* \(its file is {path}\)"):
        ResNet(18, weights="imagenet")


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


def test_published_weights_are_those_of_the_width():
    with torch.device("meta"):
        wide, odd = ResNet(50, width_per_group=128), ResNet(50, width_per_group=96)
    assert wide.published_weights().url.split("/")[-1].startswith("wide_resnet50_2-")
    assert odd.published_weights() is None
    assert (wide.label, odd.label) == ("ResNet-50 x2", "ResNet-50 x1.5")


@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "model.backbone.", "module.backbone.", "backbone.body.", "backbone.0.body.", "backbone.bottom_up."],
)
def test_backbone_of_a_whole_model(tmp_path, prefix, caplog):
    source, path = small(), str(tmp_path / "weights.pth")
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    other = prefix.partition("backbone.")[0]
    heads = [f"{other}neck.weight", f"{other}head.bias", f"{other}backbone.fpn.weight" if "." in prefix[9:-1] else ""]
    torch.save({"state_dict": {**{name: torch.ones(3) for name in heads if name}, **state}}, path)
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


def test_export_takes_shared_memory_and_makes_the_folder(tmp_path):
    path, out = str(tmp_path / "weights.pth"), tmp_path / "new" / "folder" / "weights.safetensors"
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"backbone.a": whole[:2], "backbone.b": whole[2:], "backbone.c": whole.T, "backbone.d": whole}, path)
    export_weights(path, str(out))
    exported = load_file(out)
    expected = {"a": whole[:2], "b": whole[2:], "c": whole.T, "d": whole}
    assert exported.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in exported.items())


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


def test_addresses_that_end_alike_are_not_confused(published_file):
    path, digest = published_file
    other = path.parent / "other" / path.name
    other.parent.mkdir()
    torch.save(small().state_dict(), other)
    digests = digest, hashlib.sha256(other.read_bytes()).hexdigest()
    for file, expected in zip((path, other), digests, strict=True):
        state = torch.load(file)
        for weights in (file.as_uri(), f"{file.as_uri()}#sha256={expected}"):
            assert all(torch.equal(value, state[n]) for n, value in small(weights=weights).state_dict().items())


def test_downloads_without_a_sum_are_told_apart_by_their_address(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    states = {f"https://nowhere.invalid/{run}/model.pth": small().state_dict() for run in "ab"}
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda address, path, progress: torch.save(states[address], path)
    )
    for _ in range(2):
        for address, state in states.items():
            assert all(torch.equal(value, state[n]) for n, value in small(weights=address).state_dict().items())


def test_local_files_without_a_sum_may_change(published_file):
    path, _ = published_file
    small(weights=path.as_uri())
    changed = small()
    torch.save(changed.state_dict(), path)
    assert equal(changed, small(weights=path.as_uri()))


def test_a_broken_connection_is_one_line(hub, monkeypatch):
    def breaks(*args, **kwargs):
        raise http.client.IncompleteRead(b"part")

    monkeypatch.setattr(torch.hub, "urlopen", breaks)
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*IncompleteRead"):
        small(weights="https://nowhere.invalid/weights.pth")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("https://nowhere.invalid/", ValueError, "is the address of no file"),
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


@pytest.mark.parametrize(("network", "warnings"), [("resnet18", 0), ("haloregnetz_b", 1)])
def test_another_normalisation_of_images_is_a_warning(monkeypatch, network, warnings, caplog):
    """Detectors and segmentors normalise by ImageNet's mean and deviation, which not all of timm's networks expect."""
    peer = timm.create_model(network)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: peer)
    read_weights(network, None, "network")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warnings
    assert all("mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5)" in record.message for record in caplog.records)


def test_retries_of_the_hub_are_not_shown(monkeypatch, caplog):
    def create_model(name, pretrained):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(RuntimeError, match="could not be loaded by timm"):
        ResNet(18, weights="resnet18.a1_in1k")
    assert caplog.records == []


def test_timm_without_network_is_one_line(monkeypatch):
    def create_model(name, pretrained):
        raise OSError("We couldn't connect to the hub\nand so on")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(RuntimeError, match="could not be loaded by timm") as error:
        ResNet(18, weights="resnet18.a1_in1k")
    assert "\n" not in str(error.value)
